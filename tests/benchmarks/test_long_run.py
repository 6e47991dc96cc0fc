"""`python -m benchmarks.long_run`: the memory of a run is read and judged."""

import os
import sys

import numpy as np
import pytest

from benchmarks.long_run import __main__ as long_run

linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def test_tenths_part_what_was_sampled():
    parts = long_run.tenths(range(104))
    assert [x for part in parts for x in part] == list(range(104))
    assert {len(part) for part in parts} == {10, 11}
    assert all(len(part) == 1 for part in long_run.tenths([1, 2, 3]))


@linux
def test_resident_memory_is_seen_to_grow():
    before = long_run.resident_bytes(os.getpid())
    block = np.ones(50_000_000, np.uint8)  # touched, so resident
    after = long_run.resident_bytes(os.getpid())
    assert after - before == pytest.approx(block.nbytes, rel=0.1)


def test_where_memory_cannot_be_read_nothing_is_claimed(monkeypatch: pytest.MonkeyPatch, capsys):
    monkeypatch.setattr(long_run.Path, "exists", lambda path: False)
    monkeypatch.setattr(long_run, "watch", lambda *_: pytest.fail("ran"))
    assert long_run.main([]) == 2
    assert capsys.readouterr().err.startswith("error: memory is read from /proc")


@linux
@pytest.mark.parametrize(("last", "status"), [(100, 0), (102, 1)])
def test_the_exit_status_tells_growth(last: int, status: int, monkeypatch: pytest.MonkeyPatch):
    def watch(num_steps, output):
        assert num_steps == 1000
        return {
            "seconds": 1.0,
            "num_updates": 1,
            "final_return": 0.0,
            "resident_bytes": [50, 90, *[100] * 7, last],
            "peak_bytes": last,
            "written_bytes": 0,
        }

    monkeypatch.setattr(long_run, "watch", watch)
    assert long_run.main(["--total-steps", "1000"]) == status


@pytest.mark.slow
def test_a_run_that_fails_is_told_with_what_it_said(tmp_path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(long_run, "SETTINGS", ("--config", "configs/none.yaml"))
    with pytest.raises(RuntimeError, match="no config file configs/none.yaml"):
        long_run.watch(1000, tmp_path / "run")
