"""`Run`: a run directory around a loop of one's own."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rlscan
from rlscan.runs import Run
from rlscan.runs._checkpoint import checkpoint_files, read_checkpoint

AGENT = Path(__file__).parents[2] / "scripts" / "custom_agent.py"


def rows_of(directory: Path) -> list[dict[str, str]]:
    rows = list(csv.DictReader((directory / "metrics.csv").read_text().splitlines()))
    for row in rows:
        del row["seconds"], row["steps_per_second"]
    return rows


# A loop of a few lines: a counter, and a number that follows from it.


def start() -> dict[str, Any]:
    return {"total": jnp.zeros(()), "key": rlscan.key(0), "name": "sum"}


def loop(state: dict[str, Any]) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    while True:
        key, draw = jax.random.split(state["key"])
        state = {**state, "total": state["total"] + jax.random.uniform(draw), "key": key}
        yield state, {"total": state["total"], "episode_return": float(state["total"])}


def record(directory: Path, num: int = 7, until: int | None = None, **settings: Any) -> Run:
    settings = {"num_updates": num, "steps_per_update": 10, "checkpoint_interval": 0.0, **settings}
    with Run(directory, start(), **settings) as run:
        for _ in run.record(loop(run.state)):
            if run.num_updates_done == until:
                break
    return run


def test_a_loop_gets_a_directory_and_goes_on_as_if_never_stopped(tmp_path: Path, capsys):
    whole = record(tmp_path / "whole")
    assert whole.num_updates_done == 7
    for until in (1, 3, 6):
        assert record(tmp_path / "run", until=until).num_updates_done == until
    record(tmp_path / "run")
    assert rows_of(tmp_path / "run") == rows_of(tmp_path / "whole")
    assert [row["step"] for row in rows_of(tmp_path / "run")] == [str(10 * i) for i in range(1, 8)]
    bodies = [read_checkpoint(checkpoint_files(tmp_path / d)[0]).body for d in ("run", "whole")]
    assert bodies[0] == bodies[1]
    sessions = json.loads((tmp_path / "run" / "run.json").read_text())["sessions"]
    assert [one["after_update"] for one in sessions] == [0, 1, 3, 6]
    assert "run: 7 updates of 10 steps, after the first 6, into " in capsys.readouterr().out
    record(tmp_path / "run")
    assert "has finished, all 7 updates: nothing to resume" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["step", "seconds", "seed"])
def test_a_metric_with_the_name_of_a_column_of_the_log_is_refused(name: str, tmp_path: Path):
    labels = [{"run": 0, "seed": 3}]
    settings = {"num_updates": 2, "steps_per_update": 10, "labels": labels}
    with pytest.raises(ValueError, match=f"writes the column '{name}' itself.*give it another"):
        with Run(tmp_path / "run", start(), **settings) as run:
            list(run.record([(start(), {"total": 1.0, name: 2.0})]))


def test_a_run_can_be_made_longer(tmp_path: Path):
    record(tmp_path / "whole", 9)
    record(tmp_path / "run", 5)
    record(tmp_path / "run", 9)
    assert rows_of(tmp_path / "run") == rows_of(tmp_path / "whole")
    with pytest.raises(ValueError, match="num_updates is 3 updates, but the run has made 9"):
        record(tmp_path / "run", 3)


def test_an_error_in_the_loop_keeps_what_was_reached(tmp_path: Path):
    with pytest.raises(ZeroDivisionError):
        with Run(tmp_path / "run", start(), num_updates=7) as run:
            for _ in run.record(loop(run.state)):
                if run.num_updates_done == 4:
                    raise ZeroDivisionError
    loaded = rlscan.runs.load_checkpoint(tmp_path / "run", start())
    assert len(rows_of(tmp_path / "run")) == 4
    np.testing.assert_array_equal(
        str(float(loaded["total"])), rows_of(tmp_path / "run")[3]["total"]
    )


def test_nothing_is_left_of_a_run_without_an_update(tmp_path: Path):
    with pytest.raises(ZeroDivisionError):
        with Run(tmp_path / "new" / "run", start(), num_updates=7):
            raise ZeroDivisionError
    assert os.listdir(tmp_path) == []


def test_what_is_not_an_array_must_not_change(tmp_path: Path):
    def counts() -> Iterator[Any]:
        for i in range(3):
            yield {"count": i, "x": jnp.zeros(2)}, {"loss": 0.0}

    with pytest.raises(TypeError, match=r"state\['count'\] changed.* from an array.*arrays alone"):
        with Run(tmp_path / "run", {"count": 0, "x": jnp.zeros(2)}, num_updates=3) as run:
            list(run.record(counts()))


def test_metrics_that_are_not_numbers_are_refused(tmp_path: Path):
    with pytest.raises(ValueError, match=r"metric loss must be a number, got .* \(2,\); reduce"):
        with Run(tmp_path / "run", start(), num_updates=3) as run:
            list(run.record(iter([(start(), {"loss": jnp.zeros(2)})])))


def test_settings_are_kept_and_must_not_change(tmp_path: Path):
    record(tmp_path / "run", until=2, config={"rate": 0.1, "sizes": (4, 5)})
    assert "rate: 0.1" in (tmp_path / "run" / "config.yaml").read_text()
    record(tmp_path / "run", until=3, config={"rate": 0.1, "sizes": (4, 5)})
    with pytest.raises(ValueError, match="rate was 0.1 and is 0.2; put it back"):
        record(tmp_path / "run", config={"rate": 0.2, "sizes": (4, 5)})
    with pytest.raises(ValueError, match="holds another run"):
        record(tmp_path / "run", resume=False)


def test_another_state_is_refused(tmp_path: Path):
    record(tmp_path / "run", until=2)
    with pytest.raises(ValueError, match=r"\['total'\] must be float32\[2\], got float32\[\]"):
        with Run(tmp_path / "run", {**start(), "total": jnp.zeros(2)}, num_updates=7):
            pass


def test_several_runs_have_rows_of_their_own(tmp_path: Path):
    labels = [{"run": 0, "seed": 3}, {"run": 1, "seed": 4}]
    updates = iter([({"x": jnp.zeros(2)}, {"episode_return": np.asarray([1.0, 2.0])})] * 3)
    with Run(tmp_path / "run", {"x": jnp.zeros(2)}, num_updates=3, labels=labels) as run:
        for _ in run.record(updates):
            run.add_evaluation([{"score": 1.5}, {"score": 2.5}])
    rows = rows_of(tmp_path / "run")
    assert [(row["run"], row["seed"], row["episode_return"]) for row in rows[:2]] == [
        ("0", "3", "1.0"),
        ("1", "4", "2.0"),
    ]
    evaluations = (tmp_path / "run" / "evaluations.csv").read_text().splitlines()
    assert evaluations[:3] == ["run,seed,update,step,score", "0,3,1,1,1.5", "1,4,1,1,2.5"]
    assert len(evaluations) == 7


class Recorder:
    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def log(self, row: dict[str, Any]) -> None:
        self.rows.append(row)

    def close(self) -> None:
        self.rows.append({})


def test_loggers_get_rows_and_evaluations(tmp_path: Path):
    recorder = Recorder()
    with Run(tmp_path / "run", start(), num_updates=4, log_interval=2, loggers=[recorder]) as run:
        for _ in run.record(loop(run.state)):
            if run.num_updates_done == 3:
                run.add_evaluation({"score": 1.5})
    *rows, closed = recorder.rows
    assert closed == {} and [row["update"] for row in rows] == [2, 3, 4]
    assert rows[1] == {"update": 3, "step": 3, "evaluation/score": 1.5}


def test_the_callers_time_is_not_that_of_training(tmp_path: Path):
    with Run(tmp_path / "run", start(), num_updates=3) as run:
        for _ in run.record(loop(run.state)):
            time.sleep(0.2)
    (*_, last) = csv.DictReader((tmp_path / "run" / "metrics.csv").read_text().splitlines())
    assert float(last["seconds"]) < 0.5  # without the 0.4 of the first two


# Around PPO's own loop.


def ppo(directory: Path, until: int = 6, **settings: Any) -> rlscan.ppo.TrainState:
    env = rlscan.make("CartPole-v1")
    config = rlscan.ppo.PPOConfig(num_envs=2, num_steps=16)
    make = partial(rlscan.policies.ActorCritic, env, hidden_sizes=(8,), dropout=0.5)
    train = partial(rlscan.train, env=env, config=config, total_steps=6 * 32, **settings)
    training = train(make, key=rlscan.key(3))
    with Run(
        directory, training.state, num_updates=6, steps_per_update=32, policy=lambda s: s.policy
    ) as run:
        if run.num_updates_done:
            training = train(None, state=run.state)
        for _ in run.record(training):
            if run.num_updates_done >= until:
                break
    return training.state


@pytest.mark.exhaustive
@pytest.mark.slow
def test_a_state_that_is_ahead_of_its_metrics_is_saved_where_they_meet(tmp_path: Path):
    """There is no state in the middle of a call: rows and state end where the call began."""
    whole = ppo(tmp_path / "whole")
    ppo(tmp_path / "run", until=2, updates_per_call=4)
    assert not (tmp_path / "run").exists()
    ppo(tmp_path / "run", until=5, updates_per_call=4)
    assert len(rows_of(tmp_path / "run")) == 4
    assert eqx.tree_equal(ppo(tmp_path / "run"), whole)
    assert rows_of(tmp_path / "run") == rows_of(tmp_path / "whole")


@pytest.mark.slow
def test_a_policy_of_ones_own_class_is_loaded_like_another(tmp_path: Path):
    state = ppo(tmp_path / "run")
    like = jax.tree.map(lambda x: 0 * x if eqx.is_inexact_array(x) else x, state.policy)
    loaded = rlscan.load_policy(tmp_path / "run", like=like, inference=False)
    assert eqx.tree_equal(loaded, state.policy)
    (tmp_path / "run" / "checkpoints" / "policy.eqx").unlink()
    loaded = rlscan.load_policy(tmp_path / "run", like=like, inference=False)
    assert eqx.tree_equal(loaded, state.policy)  # from the checkpoint
    with pytest.raises(ValueError, match="no config of rlscan builds; pass like="):
        rlscan.load_policy(tmp_path / "run")
    env = rlscan.make("CartPole-v1")
    other = rlscan.policies.ActorCritic(env, hidden_sizes=(9,), key=rlscan.key(0))
    with pytest.raises(ValueError, match="must hold one part with the arrays of `like`, got 0"):
        rlscan.load_policy(tmp_path / "run", like=other)


def test_an_audit_around_any_loop():
    def updates() -> Iterator[Any]:
        for error in (0.0, 1e-6, 1e-2, 0.0):
            yield None, {"audit_error": np.float32(error)}

    seen = []
    with pytest.raises(rlscan.AuditError, match="update 3 .* off by 0.01 .* 1e-05 is allowed"):
        for _, metrics in rlscan.runs.with_audit(updates()):
            seen.append(float(metrics["audit_error"]))
    assert len(seen) == 3  # the failing one is handed over
    assert len(list(rlscan.runs.with_audit(updates(), tolerance=0.1))) == 4
    nan = [(None, {"audit_error": np.asarray([0.0, np.nan])})]
    with pytest.raises(rlscan.AuditError):
        list(rlscan.runs.with_audit(nan))


# The agent of the README, by real processes.


def agent(tmp_path: Path, directory: Path) -> subprocess.Popen:
    """The script, with a checkpoint after every update."""
    script = tmp_path / "agent.py"
    source = AGENT.read_text()
    assert "num_updates=151," in source
    script.write_text(source.replace("num_updates=151,", "num_updates=60, checkpoint_interval=0,"))
    return subprocess.Popen(
        [sys.executable, script, directory], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


@pytest.mark.slow
def test_a_custom_agent_is_killed_and_resumes_bit_for_bit(tmp_path: Path):
    output, _ = agent(tmp_path, tmp_path / "whole").communicate(timeout=300)
    assert b"480,000 steps in" in output, output
    killed = 0
    for wanted in (10, 25, 40):
        process = agent(tmp_path, tmp_path / "run")
        while process.poll() is None:
            files = checkpoint_files(tmp_path / "run")
            if files and int(files[0].stem.removeprefix("update-")) >= wanted:
                process.kill()
            time.sleep(0.005)
        process.communicate()
        killed += process.returncode == -signal.SIGKILL
    assert killed == 3
    output, _ = agent(tmp_path, tmp_path / "run").communicate(timeout=300)
    assert b"after the first " in output, output
    assert rows_of(tmp_path / "run") == rows_of(tmp_path / "whole")
    bodies = [read_checkpoint(checkpoint_files(tmp_path / d)[0]).body for d in ("run", "whole")]
    assert bodies[0] == bodies[1]
