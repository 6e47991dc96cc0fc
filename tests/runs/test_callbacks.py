"""Callbacks between updates: what they see, change, stop and remember."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import pytest

import rlscan
from rlscan.runs import Run, Stop
from rlscan.runs._callbacks import Callbacks
from rlscan.runs._checkpoint import checkpoint_files, read_checkpoint


class State(NamedTuple):
    number: Any
    num_updates: Any


class Loop(Iterator):
    """A loop that adds 1 to a number at each update, several updates in a call."""

    def __init__(self, state: State, updates_per_call: int = 1):
        self.state, self.left, self.updates_per_call = state, 0, updates_per_call
        self.seen: list[float] = []

    def __next__(self) -> tuple[State, dict[str, Any]]:
        if self.left == 0:
            k = self.left = self.updates_per_call
            self.state = State(self.state.number + k, self.state.num_updates + k)
        self.left -= 1
        number = float(self.state.number) - self.left
        self.seen.append(number)
        return self.state, {"number": number}


START = State(jnp.zeros(()), jnp.zeros((), jnp.int32))


class Recorder:
    """Remembers the updates at which it is called, and does as it is told."""

    def __init__(self, interval: int = 1, at: dict[int, Any] | None = None):
        self.interval, self.at, self.updates = interval, at or {}, []

    def on_update(self, state: State, metrics: dict[str, Any]) -> Any:
        update = int(state.num_updates)
        self.updates.append(update)
        result = self.at.get(update)
        if isinstance(result, Exception):
            raise result
        return result(state) if callable(result) else result

    def state_dict(self) -> dict[str, Any]:
        return {"updates": self.updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.updates = state["updates"]


def run(directory: Path, *callbacks: Any, num_updates: int = 6, **settings: Any) -> Run:
    updates_per_call = settings.pop("updates_per_call", 1)
    settings = {"num_updates": num_updates, "callbacks": callbacks, **settings}
    with Run(directory, START, **settings) as one:
        for _ in one.record(Loop(one.state, updates_per_call)):
            pass
    return one


def test_a_callback_is_called_after_every_kth_update(tmp_path: Path):
    each, third = Recorder(), Recorder(3)
    run(tmp_path / "run", each, third)
    assert (each.updates, third.updates) == ([1, 2, 3, 4, 5, 6], [3, 6])
    assert Callbacks([Recorder(4), Recorder(6)]).interval == 2
    assert Callbacks([]).interval is None


def test_a_call_of_several_updates_has_its_state_after_the_last_of_them(tmp_path: Path):
    """The loop hands over exact states every third update, as `state_interval` asks for."""
    third = Recorder(3)
    run(tmp_path / "run", third, updates_per_call=3)
    assert third.updates == [3, 6]


def test_a_state_that_is_returned_is_gone_on_from_and_saved(tmp_path: Path):
    jump = Recorder(at={2: lambda state: state._replace(number=state.number + 100)})
    run(tmp_path / "run", jump)
    assert list(rlscan.read_metrics(tmp_path / "run")["number"]) == [1, 2, 103, 104, 105, 106]
    saved = rlscan.runs.load_checkpoint(tmp_path / "run", START)
    assert float(saved.number) == 106


def test_a_stop_ends_the_run_for_good(tmp_path: Path, capsys: pytest.CaptureFixture):
    one = run(tmp_path / "run", Recorder(at={4: Stop("enough")}), log_interval=3)
    assert one.is_finished and one.num_updates_done == 4
    assert list(rlscan.read_metrics(tmp_path / "run")["update"]) == [3, 4]
    assert "stopped after 4 updates, enough" in capsys.readouterr().out
    again = Recorder()
    run(tmp_path / "run", again, log_interval=3)
    assert again.updates == [1, 2, 3, 4]  # what it remembers
    assert "has finished, stopped after update 4, enough: nothing to" in capsys.readouterr().out
    longer = run(tmp_path / "run", Recorder(), num_updates=8, log_interval=3)
    assert longer.num_updates_done == 8


def test_an_error_leaves_a_checkpoint_from_before_it(tmp_path: Path):
    with pytest.raises(RuntimeError, match="oh"):
        run(tmp_path / "run", Recorder(at={5: RuntimeError("oh")}))
    (file,) = checkpoint_files(tmp_path / "run")
    header = read_checkpoint(file).header
    assert header["counts"]["num_updates"] == 4
    assert header["callbacks"] == [{"updates": [1, 2, 3, 4]}]
    again = Recorder()
    run(tmp_path / "run", again)
    assert again.updates == [1, 2, 3, 4, 5, 6]
    assert list(rlscan.read_metrics(tmp_path / "run")["number"]) == [1, 2, 3, 4, 5, 6]


def test_its_metrics_are_columns_and_nan_between_its_calls(tmp_path: Path):
    class Own:
        interval, metrics = 2, ("own",)

        def on_update(self, state: State, metrics: dict[str, Any]) -> None:
            metrics["own"] = 10.0 * metrics["number"]

    run(tmp_path / "run", Own())
    own = rlscan.read_metrics(tmp_path / "run")["own"]
    np.testing.assert_array_equal(own, [np.nan, 20, np.nan, 40, np.nan, 60])


def test_a_stop_at_a_return():
    stop = rlscan.runs.StopAtReturn(10.0, metric="episode_return")
    for value, stops in ((9.0, False), (np.nan, False), (10.0, True), (np.array([9, 11]), False)):
        assert (stop.on_update(START, {"episode_return": value}) is not None) is stops
    with pytest.raises(ValueError, match="there is no metric return_mean_100; one of loss"):
        rlscan.runs.StopAtReturn(10.0).on_update(START, {"loss": 1.0})


BAD = {
    "no callback": (3, TypeError, r"must have a method on_update\(state, metrics\), got 3"),
    "interval": (Recorder(0), ValueError, "Recorder.interval must be a positive integer, the up"),
}


@pytest.mark.parametrize("what", BAD)
def test_a_bad_callback_is_refused_before_anything_is_written(what: str, tmp_path: Path):
    callback, kind, message = BAD[what]
    with pytest.raises(kind, match=message):
        Callbacks([callback])
    with pytest.raises(Exception, match="callback|interval"):  # a type check may see it first
        run(tmp_path / "run", callback)
    assert not (tmp_path / "run").exists()


def test_another_shape_is_refused(tmp_path: Path):
    bad = Recorder(at={2: lambda state: state._replace(number=jnp.zeros(3))})
    with pytest.raises(TypeError, match="number"):
        run(tmp_path / "run", bad)


def test_what_it_remembers_must_be_plain(tmp_path: Path):
    class Remembers(Recorder):
        def state_dict(self) -> dict[str, Any]:
            return {"array": np.zeros(3)}

    with pytest.raises(TypeError, match="Remembers.state_dict must return plain dicts, lists"):
        run(tmp_path / "run", Remembers())


def test_a_metric_that_comes_later_is_refused_but_not_in_a_run_that_goes_on(tmp_path: Path):
    class Late(Recorder):
        def on_update(self, state: State, metrics: dict[str, Any]) -> Any:
            if int(state.num_updates) >= 4:
                metrics["late"] = 1.0

    with pytest.raises(ValueError, match="the metric late is not in the first row, which named"):
        run(tmp_path / "run", Late())
    run(tmp_path / "run", Late())  # it was begun without that metric
    assert "late" not in rlscan.read_metrics(tmp_path / "run")
    assert len(rlscan.read_metrics(tmp_path / "run")["update"]) == 6


def test_snapshots_are_named_by_their_update_and_go_on(tmp_path: Path):
    class Learner(NamedTuple):
        policy: Any

    policy = rlscan.testing.Coin(jnp.zeros(()), jnp.zeros(()))

    def updates() -> Iterator:
        while True:
            yield Learner(policy), {"number": 1.0}

    for num_updates in (4, 6):
        snapshot = rlscan.runs.Snapshot(tmp_path / "shots", interval=2)
        settings = {"num_updates": num_updates, "callbacks": [snapshot]}
        with Run(tmp_path / "run", Learner(policy), **settings) as one:
            list(one.record(updates()))
    names = {path.name for path in (tmp_path / "shots").iterdir()}
    assert names == {"policy-2.eqx", "policy-4.eqx", "policy-6.eqx"}
    read: Any = rlscan.load_policy(tmp_path / "shots" / "policy-6.eqx", like=policy)
    assert read.value == 0
