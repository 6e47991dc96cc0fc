"""`footprint`: the memory that a run takes, estimated and compared with measurements."""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import pytest

import rlscan
from rlscan._cli.main import main
from rlscan.runs import _footprint
from rlscan.runs._build import build_env, build_policy
from rlscan.runs._config import Config, EnvConfig
from rlscan.runs._footprint import device_memory, footprint, format_bytes
from rlscan.runs._parse import parse
from rlscan.runs._policy_config import PolicyConfig, policy_config


def num_bytes(tree: object) -> int:
    arrays = jax.tree.leaves(eqx.filter(tree, eqx.is_array))
    is_key = [jax.numpy.issubdtype(x.dtype, jax.dtypes.prng_key) for x in arrays]
    raw = [jax.random.key_data(x) if k else x for x, k in zip(arrays, is_key, strict=True)]
    return sum(x.nbytes for x in raw)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["CartPole-v1", "Pendulum-v1"])
def test_sizes_equal_those_of_the_arrays(name: str):
    ppo = rlscan.ppo.PPOConfig(num_envs=4, num_steps=8, num_minibatches=2)
    config = Config(EnvConfig(name), policy_config(hidden_sizes=(8, 8)), ppo, total_steps=100)
    found = footprint(config)
    env = build_env(config)
    policy = build_policy(config, env, key=rlscan.key(0))
    state = rlscan.ppo.init_train(policy, env, ppo, key=rlscan.key(1))
    _, trajectory = rlscan.rollout(policy, env, state.rollout_state, 8)
    parameters = jax.tree.leaves(rlscan.nn.partition_trainable(policy)[0])
    assert found.num_parameters == sum(x.size for x in parameters)
    assert found.num_updates == 3
    assert found.bytes_per_transition == num_bytes(trajectory) / 32
    assert found.state == 2 * num_bytes(state)
    assert found.rollout == 2 * (num_bytes(trajectory) + 12 * 32)


@pytest.mark.slow
def test_runs_side_by_side_multiply_the_footprint():
    one = footprint(Config())
    many = footprint(Config(num_seeds=3, sweep=("ppo.gamma=0.9,0.99",)))
    assert (many.num_parameters, many.num_updates) == (one.num_parameters, one.num_updates)
    assert (many.state, many.rollout, many.update) == (
        6 * one.state,
        6 * one.rollout,
        6 * one.update,
    )


def test_a_dry_run_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture):
    output = ["--output", str(tmp_path / "new" / "run")]
    assert main(["train", "--dry-run", "--policy.hidden-sizes", "[8]", *output]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line[:22].strip() for line in lines] == [
        "parameters",
        "updates",
        "bytes per transition",
        "estimated memory",
        "available memory",
    ]
    assert lines[0].endswith(" 107") and "976 of 512 steps, 16 gradient steps each" in lines[1]
    assert os.listdir(tmp_path) == []


@pytest.mark.slow
@pytest.mark.parametrize("options", [["--dry-run"], []])
def test_a_run_that_cannot_fit_is_refused(options: list[str], tmp_path: Path, capsys):
    sizes = [
        "--ppo.num-envs",
        "500000",
        "--ppo.num-steps",
        "4096",
        "--total-steps",
        "3_000_000_000",
    ]
    output = ["--output", str(tmp_path / "run")]
    assert main(["train", *options, *[s.replace("_", "") for s in sizes], *output]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: the run needs about ") and "B of memory, but there are" in error
    assert error.count("\n") == 1 and os.listdir(tmp_path) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    "policy",
    [
        policy_config(kind="transformer", context_length=1024, embed_size=256),
        policy_config(kind="gru", hidden_size=4096),
        policy_config(hidden_sizes=(1024, 1024), dropout=0.1),
    ],
    ids=lambda policy: policy.class_path.rpartition(".")[2],
)
def test_stored_policy_states_count(policy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """For 512 environments of 128 steps, the transformer's cache alone takes gigabytes."""
    monkeypatch.setattr(_footprint, "device_memory", lambda: 2**20)
    ppo = rlscan.ppo.PPOConfig(num_envs=512, num_steps=128)
    with pytest.raises(ValueError, match="needs about .* of memory"):
        _footprint.check_memory(Config(policy=policy, ppo=ppo))
    _footprint.check_memory(
        Config(policy=PolicyConfig(policy.class_path), ppo=rlscan.ppo.PPOConfig())
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "options, message",
    [
        ("--ppo.num-envs 1000000 --ppo.num-steps 1024 --total-steps 3000000000", "num_envs, ppo."),
        ("--eval-episodes 2000000000 --eval-interval 1", "use fewer eval_episodes"),
        (
            "--env.frame-stack 1000 --ppo.num-envs 65536 --total-steps 10000000",
            "use smaller ppo.num_envs",
        ),
    ],
)
def test_what_cannot_fit_is_judged_within_seconds(options: str, message: str):
    rlscan.make("CartPole-v1")  # gymnax takes seconds to import
    started = time.monotonic()
    with pytest.raises(ValueError, match=f"needs about .* of memory, but there are .*{message}"):
        _footprint.check_memory(parse(options.split()))
    assert time.monotonic() - started < 10  # one, on a machine that does nothing else


def test_an_obviously_small_run_is_not_traced(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(_footprint, "footprint", lambda config: pytest.fail("traced"))
    for file in Path("configs").glob("*.yaml"):
        _footprint.check_memory(parse(["--config", str(file)]))


def test_the_available_memory_is_plausible():
    there = device_memory()
    assert there is not None and 2**28 < there < 2**50


def test_bytes_are_easy_to_read():
    assert [format_bytes(x) for x in (0, 999, 3.25e6, 1.2e13)] == [
        "0 B",
        "999 B",
        "3.25 MB",
        "12 TB",
    ]


# Measurements, each in a process of its own.

PROGRAM = """
import resource, sys
from rlscan.runs import _log
from rlscan._cli.main import main

PAGE = resource.getpagesize()
resident = lambda: int(open("/proc/self/statm").read().split()[1]) * PAGE
seen, write = [], _log.Log.write

def measured(self, **options):
    counts = write(self, **options)
    seen.append(resident())
    return counts

_log.Log.write = measured
assert main(sys.argv[1:]) == 0
# Not ru_maxrss, which a process inherits from its parent.
(peak,) = [int(s.split()[1]) * 1024 for s in open("/proc/self/status") if s.startswith("VmHWM")]
print("measured", seen[len(seen) // 4], seen[-1], peak)
"""


def measured(tmp_path: Path, *arguments: str) -> tuple[int, int, int]:
    """Measure bytes in memory: after a quarter of the calls, after the last one, at the peak."""
    argv = ["train", *arguments, "--output", str(tmp_path / "run"), "--num-devices", "1"]
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    command = [sys.executable, "-c", PROGRAM, *argv]
    result = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert result.returncode == 0, result.stderr
    early, late, peak = result.stdout.splitlines()[-1].split()[1:]
    return int(early), int(late), int(peak)


linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@linux
@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.parametrize("rate", ["0", "0.25"])
def test_the_estimate_is_the_peak_within_a_quarter(rate: str, tmp_path: Path):
    """Two runs are subtracted, so that the program itself does not count."""
    units = ["--policy.hidden-sizes", "[256, 256]", "--ppo.num-steps", "128"]
    units += ["--ppo.num-epochs", "1"]  # every epoch takes the same memory
    units += ["--policy.dropout", rate]
    steps = ["--ppo.num-envs", "1536", "--total-steps", str(2 * 1536 * 128)]
    less = ["--ppo.num-envs", "64", "--total-steps", str(2 * 64 * 128)]
    peaks = [measured(tmp_path / str(i), *units, *o)[2] for i, o in enumerate((steps, less))]
    totals = [footprint(parse([*units, *o])).total for o in (steps, less)]
    assert peaks[0] - peaks[1] == pytest.approx(totals[0] - totals[1], rel=0.25)


@linux
@pytest.mark.slow
@pytest.mark.exhaustive
def test_a_long_run_takes_no_more_than_a_short_one(tmp_path: Path):
    """A run keeps neither its 20,000 rows nor its hundreds of checkpoints in memory."""
    small = ["--ppo.num-envs", "2", "--ppo.num-steps", "16", "--policy.hidden-sizes", "[8]"]
    length = ["--total-steps", str(20_000 * 32), "--checkpoint-interval", "0.1"]
    early, late, _ = measured(tmp_path, *small, *length)
    assert late - early < 8e6
