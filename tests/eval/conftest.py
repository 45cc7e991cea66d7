from __future__ import annotations

from pathlib import Path

import pytest

import vist
from tiny_vist import build_tiny
from vist.eval.reader import Reader


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def reader(tiny_folder: Path) -> Reader:
    return Reader(*vist.load(tiny_folder))
