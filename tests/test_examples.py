"""The examples: each config is built, and each script runs."""

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import numpy as np
import pytest

import rlscan
from rlscan._cli.main import main
from rlscan.ppo._train import first_state
from rlscan.runs._build import build_algorithm, build_env, build_settings, policy_factory
from rlscan.runs._parse import parse

ROOT = Path(__file__).parents[1]
CONFIGS = sorted((ROOT / "examples").glob("*.yaml"))
SCRIPTS = {"curriculum": [], "tune_optuna": ["1"]}
NEEDS = {"tune_optuna": "optuna"}


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def test_every_example_is_run():
    """Each file is a config, a script of its own, or a module that a config names."""
    text = "".join(path.read_text() for path in CONFIGS)
    modules = {path.stem for path in (ROOT / "examples").glob("*.py")} - SCRIPTS.keys()
    assert all(f"examples.{name}." in text for name in modules)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_config_of_an_example_is_built(path: Path):
    config = parse(["--config", str(path)])
    env, algorithm = build_env(config), build_algorithm(config)
    settings = build_settings(config)
    settings.pop("schedule_steps", None)
    if config.algorithm is None:
        algorithm = rlscan.ppo.PPO(algorithm, total_steps=config.total_steps, **settings)
    make = policy_factory(config, env)
    state = eqx.filter_eval_shape(lambda: first_state(make, env, algorithm, rlscan.key(0)))
    after, metrics = eqx.filter_eval_shape(algorithm.update, state)
    assert jax.tree.structure(after) == jax.tree.structure(state)
    assert {"episode_return", "entropy"} <= metrics.keys()


@pytest.mark.slow
def test_the_environment_of_an_example_keeps_the_contract():
    from examples.reach import Reach

    rlscan.testing.check_environment(Reach(num_steps=5), num_steps=64)


@pytest.mark.slow
@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_config_of_an_example_is_trained(path: Path, tmp_path: Path):
    output = tmp_path / "run"
    steps = ["--total-steps", "4096", "--num-seeds", "2", "--compile-cache", "false"]
    assert main(["train", "--config", str(path), *steps, "--output", str(output)]) == 0
    table = rlscan.read_metrics(output)
    assert np.isfinite(table["entropy"]).all()
    loaded: Any = rlscan.load_policy(output, run=1, allow=["examples"])
    assert loaded.initial_state() == ()
    longer = ["--resume", str(output), "--allow", "examples", "--total-steps", "6144"]
    assert main(["train", *longer]) == 0
    assert rlscan.read_metrics(output)["step"][-1] == 6144


@pytest.mark.slow
@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_of_the_examples_runs(name: str, tmp_path: Path):
    if importlib.util.find_spec(NEEDS.get(name, "rlscan")) is None:
        pytest.skip(f"{NEEDS[name]} is not installed")
    arguments = SCRIPTS[name] or [str(tmp_path / "run")]
    command = [sys.executable, str(ROOT / "examples" / f"{name}.py"), *arguments]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    if name == "curriculum":
        gravity = rlscan.read_metrics(tmp_path / "run")["gravity"]
        assert gravity[0] == pytest.approx(9.8) and gravity[-1] > 20
