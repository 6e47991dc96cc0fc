"""A run that is started again neither traces nor compiles, and is the same run."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

import rlscan
from rlscan._core.program_store import place_for
from rlscan.runs import read_metrics
from rlscan.runs._config import Config, EnvConfig, from_dict
from rlscan.runs._stored import store_programs

# distrax is imported when a policy is traced, and by nothing else.
_TRAIN = """
import sys
from rlscan._cli.train import train_main
status = train_main(sys.argv[1:])
print("traced" if "distrax" in sys.modules else "loaded")
sys.exit(status)
"""

_CASES = {
    "one device": ["--num-devices", "1"],
    "two devices": ["--num-devices", "2", "--ppo.num-envs", "32"],
    "two seeds": ["--num-seeds", "2", "--num-devices", "1"],
}


@pytest.mark.slow
@pytest.mark.parametrize("case", _CASES)
def test_a_second_start_loads_its_programs(case, tmp_path):
    flags = os.environ.get("XLA_FLAGS", "")
    environ = os.environ | {"XDG_CACHE_HOME": str(tmp_path / "cache"), "XLA_FLAGS": flags}
    environ.pop("JAX_ENABLE_COMPILATION_CACHE", None)

    def train(name: str, *more: str) -> tuple[str, str]:
        args = ["--env", "CartPole-v1", "--total-steps", "2048", "--ppo.num-steps", "32"]
        args += ["--checkpoint-interval", "0", "--keep-checkpoints", "99", *_CASES[case]]
        return run(name, *args, *more, "--output", str(tmp_path / name))

    def run(name: str, *args: str) -> tuple[str, str]:
        done = subprocess.run(
            [sys.executable, "-c", _TRAIN, *args],
            env=environ,
            capture_output=True,
            text=True,
            check=True,
        )
        table = read_metrics(tmp_path / name)
        clocks = {"seconds", "steps_per_second"}
        rows = json.dumps({k: np.asarray(x).tolist() for k, x in table.items() if k not in clocks})
        return done.stdout.split()[-1], rows

    first, expected = train("first")
    again, rows = train("again")
    assert (first, again) == ("traced", "loaded")
    assert rows == expected
    early = min((tmp_path / "again" / "checkpoints").glob("update-*"))
    assert run("again", "--resume", str(early)) == ("loaded", expected)
    other, others = train("other", "--seed", "5")  # the seed is an argument of the programs
    assert other == "loaded"
    assert others != expected


@pytest.mark.parametrize(
    ("tree", "are_stored"),
    [
        ({}, True),
        ({"optimizer": {"class_path": "optax.adamw"}}, True),
        ({"callbacks": [{"class_path": "mine.Callback"}]}, True),  # not in a program
        ({"compile_cache": False}, False),
        ({"policy": {"class_path": "mine.Policy"}}, False),
        ({"policy": {"init_args": {"encoder": {"class_path": "mine.Encoder"}}}}, False),
        ({"loss": {"class_path": "mine.loss"}}, False),
    ],
)
def test_programs_of_unknown_code_are_not_stored(tree, are_stored, compile_cache):
    config = from_dict(tree, allow=["mine"])
    with store_programs(config, rlscan.make("CartPole-v1")):
        assert (place_for("start", ()) is not None) == are_stored
    assert compile_cache.exists() == are_stored


def test_programs_of_another_packages_suite_are_not_stored(compile_cache):
    config = Config(env=EnvConfig("another:thing"))
    with store_programs(config, rlscan.make("CartPole-v1")):
        assert place_for("start", ()) is None
