"""What every test shares: few threads, fixed seeds, no network, and no silent skips where CI=true.

Owns settings that make the suite repeatable on any machine. Knows nothing about vist itself, so that tests of one
folder never pay for the imports of another: torch is seeded only if a test file has imported it.

Decisions
- Two threads at most, shared among the processes of pytest-xdist: tiny models are slower with more, and results stay
  the same on larger machines.
- Connections to other machines fail at once with a sentence; the suite is meant to run without a network.
- A test that lacks a system package or a font skips on a developer's machine. Where CI=true any skip is a failure, so
  that no test disappears from CI unnoticed; .ci/run installs what is wanted.
"""

from __future__ import annotations

import os
import random
import socket
import sys
from collections.abc import Generator

PROCESSES = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
THREADS = str(max(1, min(2, os.cpu_count() or 1) // PROCESSES))
if PROCESSES > 1:
    os.environ["OMP_NUM_THREADS"] = THREADS  # inherited from the process that started the workers
os.environ.setdefault("OMP_NUM_THREADS", THREADS)
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np  # noqa: E402 - thread settings must come first
import pytest  # noqa: E402
from hypothesis import HealthCheck, settings  # noqa: E402

IN_CI = os.environ.get("CI", "").lower() in {"1", "true"}

settings.register_profile(
    "vist", deadline=None, derandomize=IN_CI, print_blob=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("vist")


@pytest.fixture(autouse=True)
def fixed_seeds() -> None:
    """Start every test from the same random state, whatever ran before it."""
    random.seed(0)
    np.random.seed(0)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


@pytest.fixture(autouse=True, scope="session")
def no_network() -> None:
    """Refuse connections to other machines for the whole run."""
    connect = socket.socket.connect

    def local_only(self: socket.socket, address: object) -> None:
        host = address[0] if isinstance(address, tuple) else "localhost"
        if host not in {"localhost", "127.0.0.1", "::1"}:
            raise OSError(f"a test tried to connect to {address!r}; tests run without a network")
        connect(self, address)

    socket.socket.connect = local_only  # type: ignore[method-assign]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Where CI=true, count a skipped test as failed and name what CI should have brought."""
    report = yield
    if IN_CI and report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[-1] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        report.outcome = "failed"
        report.longrepr = f"{reason}; with CI=true nothing may be skipped: add what is missing to .ci/run"
    return report
