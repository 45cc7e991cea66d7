"""Runs in stages: what is finished is skipped, and a result is there whole or not at all."""

from pathlib import Path

import pytest

from vist.train.stages import run_stages, write_final


class Run:
    """Three stages that note that they were run."""

    def __init__(self, out: Path):
        self.out, self.done = out, list[str]()

    def final(self, stage: str) -> Path:
        return self.out / stage / "final"

    def work(self, stage: str) -> None:
        self.done.append(stage)
        write_final(self.out / stage, lambda folder: (folder / "weights").write_text(stage))


STAGES = {name: lambda run, name=name: run.work(name) for name in ("first", "second", "third")}


def test_stages_run_in_order_and_what_is_finished_is_skipped(tmp_path: Path) -> None:
    begun = Run(tmp_path)
    assert run_stages(begun, STAGES, "second") == tmp_path / "second" / "final"
    assert begun.done == ["first", "second"]
    again = Run(tmp_path)
    assert run_stages(again, STAGES, None) == tmp_path / "third" / "final"
    assert again.done == ["third"]
    assert [(tmp_path / name / "final" / "weights").read_text() for name in STAGES] == list(STAGES)


def test_a_result_whose_writing_breaks_off_is_written_anew(tmp_path: Path) -> None:
    def broken(folder: Path) -> None:
        (folder / "half").write_text("half")
        raise OSError("full")

    with pytest.raises(OSError, match="full"):
        write_final(tmp_path, broken)
    assert not (tmp_path / "final").exists()
    write_final(tmp_path, lambda folder: (folder / "whole").write_text("whole"))
    assert [path.name for path in (tmp_path / "final").iterdir()] == ["whole"]
    assert [path.name for path in tmp_path.iterdir()] == ["final"]
