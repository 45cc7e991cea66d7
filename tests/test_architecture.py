"""Rules about the project as a whole, read from its files: which way imports point, and what every file must have.

Owns nothing but these rules. Source is parsed, not imported, except where the test is about importing.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "vist"

# The order in which data flows. A folder imports from itself and from what stands before it.
ORDER = (
    "errors",
    "render",
    "gateway",
    "vision",
    "compress",
    "fuse",
    "model",
    "baselines",
    "train",
    "eval",
    "tune",
    "recipes",
    "cli",
)
RENDER_MAY_IMPORT = {"numpy", "PIL", "fontTools", "vist"}
HEAVY = {"torch", "transformers", "tokenizers", "matplotlib", "pyarrow", "typer", "rich", "jinja2", "accelerate", "PIL"}
TEXT_SUFFIXES = {".py", ".md", ".toml", ".txt", ".cff", ".yml", ".yaml", ".json", ".html", ".j2", ".svg", ""}
SIZE_LIMIT = 450  # lines

PYTHON_FILES = sorted(path for path in SOURCE.rglob("*.py"))


def names(paths: list[Path]) -> list[str]:
    return [str(path.relative_to(ROOT)) for path in paths]


def imports(path: Path) -> Iterator[str]:
    """Every module that a file imports, at any depth of nesting, as an absolute dotted name."""
    package = ("vist", *path.relative_to(SOURCE).parent.parts)
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*base, *([node.module] if node.module else [])])
            # `from vist import render` names the folder only in the imported name.
            yield from (f"{module}.{alias.name}" if module == "vist" else module for alias in node.names)


def folder(module: str) -> str:
    """`vist.render.layout` -> `render`."""
    return module.split(".")[1]


def violations(path: Path) -> list[str]:
    home = path.relative_to(SOURCE).parts[0].removesuffix(".py")
    if home not in ORDER:  # the package's own __init__ is the table of contents of everything
        return [] if home in {"__init__", "__main__"} else [f"{home} has no place in ORDER"]
    targets = {folder(name) for name in imports(path) if name.startswith("vist.")} - {"__version__"}
    unknown = sorted(targets - set(ORDER))
    later = sorted(name for name in targets & set(ORDER) if ORDER.index(name) > ORDER.index(home))
    return [f"imports {name}, which has no place in ORDER" for name in unknown] + [
        f"{home} imports {name}, which comes after it" for name in later
    ]


@pytest.mark.parametrize("path", PYTHON_FILES, ids=names(PYTHON_FILES))
def test_imports_point_against_the_flow_of_data(path: Path) -> None:
    assert violations(path) == []


def test_rendering_needs_no_tensor_library() -> None:
    allowed = RENDER_MAY_IMPORT | set(sys.stdlib_module_names)
    strangers = {
        f"{path.name}: {name}"
        for path in (SOURCE / "render").rglob("*.py")
        for name in imports(path)
        if name.split(".")[0] not in allowed
    }
    assert strangers == set()


def test_importing_the_package_loads_nothing_heavy() -> None:
    """Which modules are loaded decides how long `import vist` takes, on every machine alike."""
    code = "import sys; import vist; print(*sorted({name.split('.')[0] for name in sys.modules}))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert HEAVY.isdisjoint(run.stdout.split())


@pytest.mark.parametrize("path", PYTHON_FILES, ids=names(PYTHON_FILES))
def test_every_file_says_what_it_is_for_and_stays_readable(path: Path) -> None:
    text = path.read_text()
    header = ast.get_docstring(ast.parse(text))
    assert header, "a file begins with what it owns"
    assert len(text.splitlines()) <= SIZE_LIMIT


def public_functions(path: Path) -> Iterator[ast.FunctionDef]:
    """Functions and methods that a reader may call: no leading underscore, not nested in a function."""
    tree = ast.parse(path.read_text())
    owners: list[ast.AST] = [tree, *(node for node in ast.walk(tree) if isinstance(node, ast.ClassDef))]
    for owner in owners:
        if isinstance(owner, ast.ClassDef) and owner.name.startswith("_"):
            continue
        for node in ast.iter_child_nodes(owner):
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
                yield node


def test_public_functions_say_what_they_return() -> None:
    silent = [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"
        for path in PYTHON_FILES
        for node in public_functions(path)
        if node.returns is None
    ]
    assert silent == []


def test_functions_fit_on_a_screen() -> None:
    long = [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"
        for path in PYTHON_FILES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno - node.lineno >= 60
    ]
    assert long == []


def own_files() -> list[Path]:
    """Text files of the project, without what is built, downloaded or quoted (texts and fonts)."""
    skipped = {
        "assets",
        ".git",
        ".venv",
        "runs",
        "build",
        "dist",
        "__pycache__",
        ".hypothesis",
        ".mypy_cache",
        ".ruff_cache",
    }
    return [
        path
        for path in sorted(ROOT.rglob("*"))
        if skipped.isdisjoint(path.relative_to(ROOT).parts)
        and not any(part.endswith(".egg-info") for part in path.parts)
        and path.suffix in TEXT_SUFFIXES
        and path.is_file()
    ]


def test_no_file_names_a_place_that_only_one_machine_has() -> None:
    homes = re.compile(r"/(?:work|root|home|Users)/\w|/tmp/\w|\.\./shared\b|[A-Z]:\\Users\\")
    guilty = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in own_files()
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), start=1)
        if homes.search(line) and path != Path(__file__)
    ]
    assert guilty == []


def test_links_between_documents_lead_somewhere() -> None:
    broken = []
    for path in own_files():
        if path.suffix != ".md":
            continue
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", path.read_text()):
            if "://" not in target and not (path.parent / target).exists():
                broken.append(f"{path.relative_to(ROOT)} -> {target}")
    assert broken == []


def test_versions_agree() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    code = "import vist; print(vist.__version__)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == project["version"]
    assert f"version: {project['version']}" in (ROOT / "CITATION.cff").read_text()
    assert f"## {project['version']}" in (ROOT / "CHANGELOG.md").read_text()


def test_every_dependency_is_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [
        *project["dependencies"],
        *(need for extra in project["optional-dependencies"].values() for need in extra),
    ]
    pins = set(re.findall(r"^([a-z0-9-]+)==[\w.]+", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
    missing = {re.split(r"[\[><=!~ ]", need, maxsplit=1)[0].lower() for need in wanted} - pins - {"vist"}
    assert missing == set()


def test_the_paper_map_points_at_code_that_exists() -> None:
    """`file:name` in docs/paper-map.md names a function, class or constant in a file under src/vist."""
    missing = []
    for file, name in re.findall(r"`([\w/]+\.py):(\w+)`", (ROOT / "docs" / "paper-map.md").read_text()):
        source = SOURCE / file
        defined = rf"^\s*(?:def|class) {name}\b|^{name}\b"
        if not source.is_file() or not re.search(defined, source.read_text(), re.MULTILINE):
            missing.append(f"{file}:{name}")
    assert missing == []
