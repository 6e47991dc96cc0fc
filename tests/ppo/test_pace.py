"""The number of updates per call is set by the clock, which is a fake here."""

from typing import Any

import numpy as np
import pytest

from rlscan.ppo import _pace
from rlscan.ppo._pace import Pace


class Clock:
    """A program with a fixed time per update and per call."""

    def __init__(self, each: float, of_call: float = 0.0):
        self.now, self.each, self.of_call, self.called = 0.0, each, of_call, []

    def monotonic(self) -> float:
        return self.now

    def program(self, state: int, times: np.ndarray) -> tuple[int, dict[str, np.ndarray]]:
        self.called.append(int(times))
        self.now += self.of_call + self.each * int(times)
        made = np.arange(64) + state
        return state + int(times), {"loss": np.where(np.arange(64) < times, made, -1)}


def paced(clock: Any, monkeypatch: pytest.MonkeyPatch) -> Pace[int]:
    monkeypatch.setattr(_pace, "time", clock)
    return Pace(clock.program, at_most=64)


@pytest.mark.parametrize(
    "each, expected",
    [(0.01, [1, 10, 10]), (0.03, [1, 3, 3]), (0.4, [1, 2, 2]), (7.0, [1, 1, 1]), (0, [1, 64, 64])],
)
def test_a_call_takes_a_tenth_of_a_second_unless_one_update_takes_more(
    each: float, expected: list[int], monkeypatch: pytest.MonkeyPatch
):
    clock = Clock(each)
    call = paced(clock, monkeypatch)
    for _ in range(3):
        call(0, 1000)
    assert clock.called == expected


def test_a_slow_first_call_is_made_up_for(monkeypatch: pytest.MonkeyPatch):
    clock = Clock(0.002, of_call=1.0)
    call = paced(clock, monkeypatch)
    call(0, 1000)
    clock.of_call = 0.0
    for _ in range(2):
        call(0, 1000)
    assert clock.called == [1, 1, 50]


def test_the_last_call_makes_only_the_updates_that_are_left(monkeypatch: pytest.MonkeyPatch):
    clock = Clock(0.001)
    call, state, seen = paced(clock, monkeypatch), 0, []
    while state < 97:  # a prime, so no number of updates divides it
        state, metrics = call(state, 97 - state)
        seen += metrics["loss"].tolist()
    assert clock.called == [1, 64, 32]
    assert seen == [*range(97)]
