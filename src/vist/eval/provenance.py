"""Where figures come from: versions, machine, command, date.

Owns what is written beside every measurement so that it can be repeated. Does not know the measurements.
"""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from vist import __version__

PACKAGES = ("torch", "transformers", "tokenizers", "safetensors", "numpy", "pillow", "fonttools")


def versions() -> dict[str, str]:
    """Versions of vist, Python and the packages that decide results."""
    found = {"vist": __version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # installed by other means than pip
            found[package] = "unknown"
    return found


def machine() -> dict[str, Any]:
    """Operating system, processor, cores and threads, GPU if there is one."""
    return {
        "system": f"{platform.system()} {platform.release()}",
        "processor": processor_name(),
        "cores": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name(0) if torch.cuda.is_available() else None,
    }


def processor_name() -> str:
    """The processor's name, as the system gives it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:  # no Linux
        pass
    return platform.processor() or platform.machine()


def command_line() -> str:
    """The command that is running, as it would be typed."""
    program = Path(sys.argv[0])
    name = "vist" if program.name == "__main__.py" else program.name or "python"
    return shlex.join([name, *sys.argv[1:]])


def commit() -> str:
    """The commit of the running code, "+changes" where files differ from it; of an installed package its version.

    So figures from code that is in no commit can be told from those that can be repeated.
    """
    source = Path(__file__).parent.parent

    def git(*arguments: str) -> str:
        ran = subprocess.run(["git", "-C", str(source), *arguments], capture_output=True, text=True, check=True)
        return ran.stdout.strip()

    try:
        if not git("ls-files", "--", str(source / "__init__.py")):
            return f"vist {__version__}"
        changed = git("status", "--porcelain", "--untracked-files=no", "--", str(source))
        return git("rev-parse", "HEAD") + ("+changes" if changed else "")
    except (OSError, subprocess.CalledProcessError):  # no git, or no checkout
        return f"vist {__version__}"


def hardware() -> str:
    """Processor, cores, threads and GPU in one line."""
    facts = machine()
    return f"{facts['processor']}, {facts['cores']} cores, {facts['torch_threads']} threads, {facts['gpu'] or 'no GPU'}"


def provenance(model: str) -> dict[str, Any]:
    """The head of every JSON file: command, date (UTC), commit, model, versions, machine."""
    return {
        "command": command_line(),
        "commit": commit(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "model": model,
        "versions": versions(),
        "machine": machine(),
    }
