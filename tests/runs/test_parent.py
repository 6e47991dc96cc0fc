"""New runs from the policy of another, runs that are extended, and schedules in a config."""

import json
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import numpy as np
import pytest
import yaml

import rlscan
from rlscan._cli.main import main
from rlscan.runs._config import from_dict, to_dict
from rlscan.runs._parse import parse
from rlscan.runs._schedules import FunctionSchedule

SMALL = "--ppo.num_envs 2 --ppo.num_steps 8 --ppo.num_minibatches 1 --ppo.num_epochs 1 "
SMALL += "--policy.hidden_sizes [4] --compile-cache false "


def train(output: Path, options: str) -> int:
    return main(["train", *(SMALL + options).split(), "--output", str(output)])


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("parent") / "run"
    assert train(output, "--total-steps 48 --ppo.scale_rewards") == 0
    return output


def policy_of(directory: Path, **which: Any) -> list[np.ndarray]:
    policy = rlscan.load_policy(directory, inference=False, **which)
    return [np.asarray(x) for x in jax.tree.leaves(eqx.filter(policy, eqx.is_array))]


@pytest.mark.slow
def test_a_new_run_starts_from_the_policy_of_another(parent: Path, tmp_path: Path):
    """A learning rate of 0 shows the policy that it started from."""
    options = f"--total-steps 16 --init-from {parent} --seed 5 --ppo.learning_rate 0"
    assert train(tmp_path / "run", f"{options} --ppo.gamma 0.9") == 0
    jax.tree.map(np.testing.assert_array_equal, policy_of(tmp_path / "run"), policy_of(parent))
    info = json.loads((tmp_path / "run" / "run.json").read_text())
    assert info["parent"]["file"] == str(parent / "checkpoints" / "policy.eqx")
    assert len(info["parent"]["sha256"]) == 64
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["init_from"] == str(
        parent
    )
    # It goes on without its parent, which stays written down.
    assert main(["train", "--resume", str(tmp_path / "run"), "--total-steps", "32"]) == 0
    assert json.loads((tmp_path / "run" / "run.json").read_text())["parent"] == info["parent"]


@pytest.mark.slow
def test_several_runs_start_from_one_with_its_optimiser_and_statistics(
    parent: Path, tmp_path: Path
):
    options = f"--total-steps 16 --init-from {parent} --num-seeds 2 --ppo.learning_rate 0 "
    options += "--ppo.scale_rewards --init-parts [policy,optimizer,statistics]"
    assert train(tmp_path / "run", options) == 0
    for run in (0, 1):
        found = policy_of(tmp_path / "run", run=run)
        jax.tree.map(np.testing.assert_array_equal, found, policy_of(parent))


REFUSED = {
    "--init-from nowhere": "init_from: cannot read nowhere, No such file or directory; give a run",
    "--init-from P --policy.hidden_sizes [5]": "policy.eqx does not fit its policy: .actor.layers",
    "--init-from P --init-parts [statistics]": "statistics are those of scale_rewards, which is of",
    "--init-from P --init-parts [critic]": "init_parts must be a list of policy, optimizer, stat",
    "--init-from P/checkpoints/policy.eqx --init-parts [optimizer]": "holds a policy alone, withou",
    "--init-parts [optimizer]": "init_parts says what to take from another run; give its init_from",
}


@pytest.mark.parametrize("options", REFUSED)
def test_a_parent_that_does_not_fit_is_refused_in_one_line(
    options: str, parent: Path, tmp_path: Path, capsys: pytest.CaptureFixture
):
    given = options.replace(" P", f" {parent}")
    assert train(tmp_path / "run", f"--total-steps 16 {given}") == 2
    error = capsys.readouterr().err
    assert REFUSED[options] in error and error.count("\n") == 1
    assert not (tmp_path / "run").exists()


# Schedules.


def test_schedules_by_name_and_by_function_go_to_a_file_and_back(tmp_path: Path):
    (tmp_path / "a.yaml").write_text(
        "ppo:\n  learning_rate: {kind: cosine, start: 3e-4, warmup: 2}\n"
        "  clip_range: {start: 0.2, end: 0.1}\n"
        "  gamma: {class_path: optax.linear_schedule, init_args: {init_value: 0.9, "
        "end_value: 0.99, transition_steps: 10}}\n"
    )
    config = parse(["--config", str(tmp_path / "a.yaml"), "--output", "x"])
    rate: Any = config.ppo.learning_rate
    assert (rate.kind, rate.start, rate.end, rate.warmup) == ("cosine", 3e-4, 0.0, 2)
    gamma: Any = config.ppo.gamma
    assert isinstance(gamma, FunctionSchedule) and abs(float(gamma(5)) - 0.945) < 1e-6
    tree = to_dict(config)
    assert tree["ppo"]["clip_range"] == {"kind": "linear", "start": 0.2, "end": 0.1, "warmup": 0}
    again = from_dict(json.loads(json.dumps(tree)))
    assert to_dict(again) == tree
    (tmp_path / "b.yaml").write_text(yaml.safe_dump(tree))
    assert to_dict(parse(["--config", str(tmp_path / "b.yaml")])) == tree


BAD_SCHEDULES = {
    "--ppo.learning_rate {kind: sine, start: 1e-3}": "ppo.learning_rate.kind must be one of linea",
    "--ppo.learning_rate {kind: cosine}": "ppo.learning_rate must have the entry 'start'",
    "--ppo.learning_rate {start: fast}": "ppo.learning_rate.start must be a number, got 'fast'",
    "--ppo.learning_rate {start: 1e-3, warm: 3}": "ppo.learning_rate must not have the entry 'war",
    "--ppo.gamma {start: 1.5}": "ppo.gamma must be in [0, 1], got 1.5 as the start of its schedule",
    "--ppo.gae_lambda {start: 0.5}": "ppo.gae_lambda must be a number, such as 3e-4, got {start:",
    "--ppo.gamma {class_path: optax.nothing}": "ppo.gamma: optax has no nothing",
    "--schedule-steps 8": "schedule_steps: total_steps = 8 is less than one update",
}


@pytest.mark.parametrize("options", BAD_SCHEDULES)
def test_a_bad_schedule_is_refused_in_one_line(options: str):
    name, _, value = options.partition(" ")
    with pytest.raises(ValueError) as error:
        parse([name, value])
    assert BAD_SCHEDULES[options] in str(error.value) and "\n" not in str(error.value)


@pytest.mark.slow
def test_a_run_follows_its_schedule_and_keeps_it_when_it_is_extended(tmp_path: Path):
    rate = "--ppo.learning_rate={start: 1e-3, end: 1e-4}"
    arguments = [*SMALL.split(), rate, "--total-steps", "64", "--output", str(tmp_path / "run")]
    assert main(["train", *arguments]) == 0
    assert main(["train", "--resume", str(tmp_path / "run"), "--total-steps", "96"]) == 0
    rates = rlscan.read_metrics(tmp_path / "run")["learning_rate"]
    np.testing.assert_allclose(rates, [1e-3, 7e-4, 4e-4, 1e-4, 1e-4, 1e-4], rtol=1e-5)
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert (config["total_steps"], config["schedule_steps"]) == (96, 64)
