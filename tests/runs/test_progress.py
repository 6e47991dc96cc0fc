"""The progress bar, on a terminal and in a notebook, and the returns that it shows."""

import builtins
import math
import os
import pty
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from rlscan.runs import _progress
from rlscan.runs._counts import new_counts
from rlscan.runs._log import Log
from rlscan.runs._progress import Progress, format_returns

ROW = {"update": 1, "steps_per_second": 10.0, "episode_return": math.nan, "return_mean_100": 11.25}


def frames(rows: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What a bar of 80 columns shows after each row."""
    terminal, inside = pty.openpty()
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(_progress, "SECONDS_BETWEEN_REFRESHES", -1.0)
    with os.fdopen(inside, "w") as stdout, monkeypatch.context() as context:
        context.setattr(sys, "stdout", stdout)
        progress = Progress(1000)
        progress.start()
        for row in rows:
            progress.update(row)
        progress.stop()
    content = b""
    try:
        while part := os.read(terminal, 4096):
            content += part
    except OSError:  # EIO: the end
        os.close(terminal)
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", content.decode())
    return [line for line in re.split(r"[\r\n]+", shown) if "steps/s" in line]


def test_a_bar_neither_jumps_nor_doubles(monkeypatch: pytest.MonkeyPatch):
    """A terminal writes ^C after the bar, and a line that overflows is not erased."""
    rows = [
        {**ROW, "update": u, "steps_per_second": s, "episode_return": r}
        for u, s, r in ((101, 1e5, 12.5), (102, 10.0, math.nan), (103, 1e5, 3.0), (104, 1e3, 4.25))
    ]
    shown = frames(rows, monkeypatch)
    assert len(shown) >= 4
    assert all(len(line) <= 76 for line in shown)
    bars = {(line.index("return"), sum(c in "━╸╺" for c in line)) for line in shown}
    assert len(bars) == 1
    assert "return 11.25 (last 100), now none" in shown[1]


def test_returns_in_words():
    assert format_returns(ROW) == "return 11.25 (last 100), now none"
    assert format_returns({"episode_return": 3.0}) == "return 3"
    assert format_returns({"return_mean_100": 3.0}) == "return 3 (last 100)"
    assert format_returns({}) == ""


@pytest.mark.parametrize("has_mean", [True, False])
def test_of_many_seeds_the_last_hundred_episodes_are_shown(
    has_mean: bool, tmp_path: Path, capsys: pytest.CaptureFixture
):
    """In an update of short rollouts hardly any seed ends an episode."""
    settings: Any = {"num_updates": 1, "steps_per_update": 8, "log_interval": 1, "loggers": ()}
    labels = [{"run": i, "seed": i} for i in range(4)]
    log = Log(tmp_path, new_counts(4), labels=labels, **settings)
    metrics = {"episode_return": np.full(4, np.nan), "num_episodes": np.zeros(4, int)}
    if has_mean:
        metrics["return_mean_100"] = np.array([10.0, 20.0, 20.0, 30.0])
    log.take(metrics)
    log.write()
    log.show()
    log.summarize()
    log.close()
    row, summary = capsys.readouterr().out.splitlines()
    nothing = "none (0 of 4 seeds)"
    if has_mean:
        assert "return IQM 20 [" in row and row.count("] (last 100), now none") == 1
        assert f"return 20 (last 100), {nothing} in the last tenth" in summary
    else:
        assert f"return {nothing}" in row and f"return {nothing} in the last tenth" in summary


def test_a_notebook_has_a_bar(monkeypatch: pytest.MonkeyPatch):
    class ZMQInteractiveShell:
        """What Jupyter's kernel is called."""

    shown: list[str] = []

    class Output:
        def __enter__(self) -> None: ...

        def __exit__(self, *_: Any) -> None: ...

        def clear_output(self, wait: bool) -> None:
            assert wait  # otherwise it flickers

    kernel, display, widgets = (ModuleType(n) for n in ("IPython", "IPython.display", "ipywidgets"))
    vars(display)["display"] = lambda *what, **_: shown.extend(getattr(x, "text", "") for x in what)
    vars(widgets)["Output"] = Output
    for module in (kernel, display, widgets):
        module.__spec__ = sys.__spec__
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(builtins, "get_ipython", ZMQInteractiveShell, raising=False)
    progress = Progress(10)
    progress.start()
    progress.update({**ROW, "update": 10})
    progress.stop()
    assert any("update 10/10" in text and "━" in text for text in shown)
    monkeypatch.delitem(sys.modules, "ipywidgets")
    monkeypatch.setattr(_progress.importlib.util, "find_spec", lambda name: None)
    assert Progress(10)._bar is None  # which rich would warn of
