"""Classes of one's own in a config, and run directories that name those of a stranger."""

import json
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import pytest
import yaml

import rlscan
from rlscan._cli.main import main
from rlscan.runs._build import build_env, build_policy
from rlscan.runs._component import Component, build, find
from rlscan.runs._config import Config, from_dict, to_dict, to_yaml
from rlscan.runs._fit import policy_in
from rlscan.runs._load import load_config
from rlscan.runs._parse import parse
from rlscan.runs._policy_config import PolicyConfig

MODULE = """
    import distrax
    import equinox as eqx
    import jax
    import jax.numpy as jnp
    import optax
    from gymnax.environments.spaces import Box, Discrete

    import rlscan

    print("imported", __name__)


    class Walk(eqx.Module):
        # Walk on a line; the episode ends at its ends.
        size: int = 3
        pay: float = 1.0

        def reset(self, key):
            return jnp.zeros(1), jnp.zeros((), jnp.int32)

        def step(self, key, state, action):
            after = state + 2 * action - 1
            done = jnp.abs(after) >= self.size
            info = {"final_observation": after[None].astype(jnp.float32)}
            state = jnp.where(done, 0, after)
            observation = state[None].astype(jnp.float32)
            return observation, state, self.pay * (after > 0), done, jnp.asarray(False), info

        def observation_space(self):
            return Box(-self.size, self.size, (1,))

        def action_space(self):
            return Discrete(2)


    class Net(eqx.Module):
        layers: list
        dropout: eqx.nn.Dropout

        def __init__(self, env, *, hidden: int, dropout: float = 0.0, key):
            keys = jax.random.split(key)
            first = eqx.nn.Linear(1, hidden, key=keys[0])
            self.layers = [first, eqx.nn.Linear(hidden, 3, key=keys[1])]
            self.dropout = eqx.nn.Dropout(dropout)

        def __call__(self, observation, state, *, key):
            x = self.dropout(jax.nn.tanh(self.layers[0](observation)), key=key)
            x = self.layers[1](x)
            return distrax.Categorical(logits=x[:2]), x[2], state

        def initial_state(self):
            return ()


    def loss(policy, minibatch, config, *, scale: float = 1.0):
        total, rest = rlscan.ppo.ppo_loss(policy, minibatch, config)
        return scale * total, rest


    class Loss:
        def __init__(self, scale: float):
            self.scale = scale

        def __call__(self, policy, minibatch, config):
            return loss(policy, minibatch, config, scale=self.scale)


    def bare(policy, minibatch, config):
        return minibatch.advantage.mean()


    def sgd(learning_rate, momentum: float = 0.0):
        return optax.sgd(learning_rate, momentum=momentum)


    class Halt:
        interval = 2
        metrics = ("seen",)

        def __init__(self, at: int, path: str = ""):
            self.at = at
            self.seen = []

        def on_update(self, state, metrics):
            update = int(state.num_updates)
            self.seen.append(update)
            metrics["seen"] = float(len(self.seen))
            return rlscan.runs.Stop("enough") if update >= self.at else None

        def state_dict(self):
            return {"seen": self.seen}

        def load_state_dict(self, state):
            self.seen = state["seen"]


    class Rows:
        def __init__(self, file: str):
            self.file = open(file, "a")

        def log(self, row):
            print(row["update"], file=self.file)

        def close(self):
            self.file.close()


    def broken(env, *, key):
        raise RuntimeError("no luck")


    class Features(eqx.Module):
        linear: eqx.nn.Linear

        def __init__(self, space, width: int = 5, *, key):
            self.linear = eqx.nn.Linear(space.shape[0], width, key=key)

        def __call__(self, observation):
            return jax.nn.relu(self.linear(observation))


    class Wide(eqx.Module):
        linear: eqx.nn.Linear

        def __init__(self, env, *, key):
            self.linear = eqx.nn.Linear(7, 3, key=key)

        def __call__(self, observation, state, *, key):
            x = self.linear(observation)
            return distrax.Categorical(logits=x[:2]), x[2], state

        def initial_state(self):
            return ()


    number = 3
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: Any) -> str:
    """A module in the working directory, under a name that no other test has imported."""
    name = f"own_{request.node.nodeid.__hash__() & 0xFFFFFFFF:x}"
    (tmp_path / f"{name}.py").write_text(textwrap.dedent(MODULE))
    monkeypatch.chdir(tmp_path)
    return name


SMALL = ["--ppo.num_envs=2", "--ppo.num_steps=4", "--ppo.num_minibatches=1", "--ppo.num_epochs=1"]


def build_shapes(config: Any) -> tuple[Any, Any]:
    env = build_env(config)
    return env, eqx.filter_eval_shape(lambda: build_policy(config, env, key=rlscan.key(0)))


@pytest.mark.parametrize("separator", [".", ":"])
def test_flags_name_an_environment_and_a_policy(module: str, separator: str):
    argv = ["--policy.hidden", "5", "--policy", f"{module}{separator}Net", "--env.size=4"]
    config = parse(
        [*argv, "--env", f"{module}{separator}Walk", "--policy.init_args.dropout", "0.5"]
    )
    env, policy = build_shapes(config)
    assert (env.size, env.pay) == (4, 1.0)
    assert policy.layers[0].weight.shape == (5, 1) and policy.dropout.p == 0.5
    assert config.env.title == "Walk"
    # What is left out is written down with its default.
    assert config.env.init_args == {"size": 4, "pay": 1.0}
    assert config.policy.init_args == {"hidden": 5, "dropout": 0.5}


def test_a_file_names_them_and_flags_win(module: str, tmp_path: Path):
    file = tmp_path / "a.yaml"
    file.write_text(
        f"env: {module}.Walk\n"
        f"policy:\n  class_path: {module}.Net\n  init_args: {{hidden: 3}}\n  dropout: 0.25\n"
        f"loss: {{class_path: {module}.Loss, init_args: {{scale: 2}}}}\n"
        f"callbacks: [{{class_path: {module}.Halt, init_args: {{at: 3}}}}]\n"
    )
    config = parse(["--config", str(file), "--policy.hidden", "9"])
    assert config.policy.init_args == {"hidden": 9, "dropout": 0.25}
    assert config.loss == Component(f"{module}.Loss", {"scale": 2.0})
    assert config.callbacks[0].init_args == {"at": 3, "path": ""}
    # Another class keeps the arguments of the file that it takes, and drops the others.
    other = parse(["--config", str(file), "--policy", "ActorCritic", "--env", "CartPole-v1"])
    assert other.policy.init_args["dropout"] == 0.25 and "hidden" not in other.policy.init_args
    assert (other.env.name, other.env.class_path) == ("CartPole-v1", None)


def test_a_config_goes_to_a_file_and_back(module: str, tmp_path: Path):
    argv = ["--env", f"{module}.Walk", "--policy", f"{module}.Net", "--policy.hidden", "3"]
    argv += ["--optimizer", "optax.adamw", "--optimizer.weight_decay", "1e-3", "--output", "x"]
    argv += ["--callbacks", f"{module}.Halt", "--callbacks.at", "4", "--loggers", "tensorboard"]
    config = parse(argv)
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    assert parse(["--config", "config.yaml", "--output", "x"]) == config
    again = from_dict(json.loads(json.dumps(to_dict(config))))
    assert to_dict(again) == to_dict(config)


def test_an_argument_may_be_a_class_itself():
    text = "{class_path: rlscan.nn.MLP}"
    config = parse(
        [
            "--policy.dropout",
            "{class_path: optax.linear_schedule, init_args: "
            "{init_value: 0.5, end_value: 0.0, transition_steps: 10}}",
        ]
    )
    assert config.policy.init_args["dropout"]["class_path"] == "optax.linear_schedule"
    _, policy = build_shapes(config)
    assert policy.actor.dropout.schedule(0) == 0.5
    with pytest.raises(ValueError, match="policy.state_dependent_std must be true or false, got"):
        parse(["--policy.state_dependent_std", text])


@pytest.mark.parametrize("kind", ["mlp", "gru", "transformer"])
def test_an_encoder_of_ones_own(kind: str, module: str, tmp_path: Path):
    (tmp_path / "a.yaml").write_text(
        f"policy:\n  kind: {kind}\n"
        f"  encoder: {{class_path: {module}.Features, init_args: {{width: 3}}}}\n"
    )
    options = ["--policy.kind", kind, "--policy.encoder", f"{module}.Features"]
    for argv in (["--config", "a.yaml"], [*options, "--policy.encoder.width", "3"]):
        config = parse(argv)
        assert config.policy.init_args["encoder"]["init_args"] == {"width": 3}
        _, policy = build_shapes(config)
        layers = [x for x in jax.tree.leaves(policy, is_leaf=_is_linear) if _is_linear(x)]
        assert any(layer.weight.shape == (3, 4) for layer in layers)


def _is_linear(node: Any) -> bool:
    return isinstance(node, eqx.nn.Linear)


def test_a_component_is_called_if_nothing_is_missing():
    half = Component("jax.nn.leaky_relu", {"negative_slope": 0.5})
    assert build(half, key="f", allow=["jax"])(-2.0) == -1.0
    linear = Component("equinox.nn.Linear", {"in_features": 2, "out_features": 3})
    built = build(linear, key="f", allow=["equinox"], rng=rlscan.key(0))
    assert built.weight.shape == (3, 2)


BAD = {
    "--policy no_such_module.X": "policy: there is no module no_such_module for no_such_module.X; ",
    "--policy M.Nett": "policy: M has no Nett, did you mean Net",
    "--policy M.Net": "policy: M.Net needs hidden; give it under init_args, or as --policy.hidden",
    "--policy M.Net --policy.hiden 3": "unknown option --policy.hiden, did you mean policy.hidden?",
    "--policy M.Net --policy.hidden many": "policy.hidden must be an integer, written without",
    "--policy M.number": "policy: M.number must be a class or a function, got 3",
    "--policy my_policy.py": "policy must be an import path, such as my_policy.MyClass, got the f",
    "--optimizer adam": "optimizer: rlscan has no adam; one of optax's is named optax.adam",
    "--policy my_policy": "a class of your own is named with its module, such as my_policy.MyClass",
    "--policy 3": "policy must be an import path, such as my_module.MyClass, got '3'",
    "--policy ActorCritik": "rlscan has no ActorCritik, did you mean ActorCritic",
    "--env M.Walk --env.name CartPole-v1": "env.name is given beside the class M.Walk; keep one",
    "--env M.Walk --env.params.x 3": "env.params.x is given beside the class M.Walk; keep one",
    "--env M.Walk --env.siz 3": "unknown option --env.siz, did you mean env.size?",
    "--optimizer optax.adamww": "optimizer: optax has no adamww, did you mean adamw",
    "--optimizer.b1 3": "unknown option --optimizer.b1; optimizer names no class that could take",
    "--callbacks.at 3": "--callbacks.at follows no --callbacks; name the class before it",
    "--callbacks M.Halt": "callbacks[0]: M.Halt needs at; give it under init_args, or as --callbac",
    "--loggers csv": "loggers must be a list of tensorboard and wandb, or of classes such as",
    "--loss M.loss --algorithm M.Loss --algorithm.scale 1": "loss is a setting of PPO, but algorit",
}


@pytest.mark.parametrize("options", BAD)
def test_a_bad_class_is_refused_in_one_line(options: str, module: str):
    with pytest.raises(ValueError) as error:
        parse(options.replace("M.", f"{module}.").split())
    assert BAD[options].replace("M.", f"{module}.").replace("M ", f"{module} ") in str(error.value)
    assert "\n" not in str(error.value)


def test_a_module_that_fails_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "failing.py").write_text("import no_such_thing\n")
    with pytest.raises(ValueError, match="env: importing failing failed, ModuleNotFoundError: No"):
        parse(["--env", "failing.Env"])


BUILT = {
    "--policy M.broken": "policy: M.broken failed, RuntimeError: no luck",
    "--policy M.Wide": "policy: M.Wide cannot act in CartPole-v1, TypeError: ",
    "--policy M.sgd": "policy: M.sgd failed, TypeError: ",
    "--env M.Net --env.hidden 3": "env: M.Net needs env and key; give it under init_args",
    "--env M.Halt --env.at 3": "env: M.Halt must give an environment, see rlscan.Environment, but",
    "--loggers M.Loss --loggers.scale 1": "loggers[0]: M.Loss must give a logger, see rlscan.runs",
    "--callbacks M.Walk": "callbacks[0]: M.Walk must give a callback, see rlscan.runs.Callback, bu",
    "--algorithm M.Walk": "algorithm: M.Walk must give an algorithm, see rlscan.ppo.Algorithm, but",
    "--loss M.bare": "loss must return (loss, (log_ratio, metrics)), see rlscan.ppo.ppo_loss, got ",
    "--optimizer jax.nn.relu": "optimizer must be a function of the learning rate that returns an ",
}


@pytest.mark.parametrize("options", BUILT)
def test_what_cannot_be_built_ends_with_status_2_before_anything_is_written(
    options: str, module: str, capsys: pytest.CaptureFixture
):
    argv = [*options.replace("M.", f"{module}.").split(), "--total-steps=512"]
    assert main(["train", *argv, "--output", "run", "--compile-cache=false"]) == 2
    error = capsys.readouterr().err
    assert BUILT[options].replace("M.", f"{module}.") in error and error.count("\n") == 1
    assert not Path("run").exists()


# Reading a run directory executes nothing that the caller has not named.


@pytest.fixture
def foreign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run directory that names a module which leaves a trace when it is imported."""
    monkeypatch.chdir(tmp_path)
    source = "import pathlib\npathlib.Path('trace').touch()\ndef make(env, *, key): ...\n"
    (tmp_path / "evil.py").write_text(source)
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    policy = {"class_path": "evil.make", "init_args": {}}
    config = Config(policy=PolicyConfig(**policy))
    (tmp_path / "run" / "config.yaml").write_text(to_yaml(config))
    metrics = "update,step,episode_return,num_episodes\n1,8,3.0,1\n"
    (tmp_path / "run" / "metrics.csv").write_text(metrics)
    file = tmp_path / "run" / "checkpoints" / "policy.eqx"
    rlscan.runs.save_policy(
        file, rlscan.testing.Coin(jax.numpy.zeros(()), jax.numpy.zeros(())), config
    )
    return tmp_path / "run"


READERS = {
    "evaluate": "evaluate run",
    "render": "render run --output x.gif",
    "resume": "train --resume run",
    "plot": "plot run --output x.png",
}


@pytest.mark.parametrize("reader", READERS)
def test_reading_a_run_imports_nothing_that_it_names(
    reader: str, foreign: Path, capsys: pytest.CaptureFixture
):
    status = main(READERS[reader].split())
    error = capsys.readouterr().err
    assert not Path("trace").exists()
    if reader != "plot":
        assert status == 2 and error.count("\n") == 1
        assert "--allow evil, or allow=['evil'] in Python" in error
    load_config(foreign)
    assert not Path("trace").exists()


@pytest.mark.parametrize("where", ["init_args", "nested"])
def test_a_class_among_the_arguments_counts(where: str, foreign: Path):
    inner = {"class_path": "subprocess.Popen", "init_args": {"args": ["touch", "trace"]}}
    arguments: Any = {"activation": inner} if where == "init_args" else {"activation": [inner]}
    tree = {"policy": {"class_path": "rlscan.policies.ActorCritic", "init_args": arguments}}
    (foreign / "config.yaml").write_text(yaml.safe_dump(tree))
    with pytest.raises(ValueError, match="Popen is not one of rlscan's classes|must be text"):
        build_shapes(load_config(foreign))
    assert not Path("trace").exists()


@pytest.mark.parametrize("path", ["policies.export", "runs.Run", "_core.files"])
def test_only_classes_of_rlscan_can_be_named_unasked(path: str):
    with pytest.raises(ValueError, match="rlscan has no "):
        find(f"rlscan.{path}", key="policy")


def test_what_a_room_imports_is_not_its_own():
    with pytest.raises(ValueError, match="rlscan has no "):
        find("rlscan.policies._export.os.system", key="policy")


def test_a_module_is_allowed_with_those_below_it_and_no_other(foreign: Path):
    for allow in (["evi"], ["evil.make.x"], ["other"]):
        with pytest.raises(ValueError, match="evil.make is not one of"):
            find("evil.make", key="policy", allow=allow)
    assert find("evil.make", key="policy", allow=["evil"]).__name__ == "make"
    assert Path("trace").exists()


# Runs.


@pytest.mark.slow
def test_a_run_of_own_classes_is_saved_loaded_and_resumed(module: str, tmp_path: Path):
    argv = ["--env", f"{module}.Walk", "--policy", f"{module}.Net", "--policy.hidden", "4"]
    argv += ["--policy.dropout=0.5", "--loss", f"{module}.Loss", "--loss.scale=0.5"]
    argv += ["--optimizer", f"{module}.sgd", "--optimizer.momentum=0.9", "--strict"]
    argv += ["--callbacks", f"{module}.Halt", "--callbacks.at=5"]
    argv += ["--loggers", f"{module}.Rows", "--loggers.file=rows", *SMALL, "--total-steps=160"]

    def rlscan_command(*words: str) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", "rlscan", *words]
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)

    trained = rlscan_command("train", *argv, "--output", "run")
    assert trained.returncode == 0, trained.stderr
    assert "stopped after 6 updates, enough" in trained.stdout
    rows = rlscan.read_metrics(tmp_path / "run")
    assert list(rows["update"]) == [1, 2, 3, 4, 5, 6]
    assert list(rows["seen"][1::2]) == [1, 2, 3]
    assert (tmp_path / "rows").read_text().split() == ["1", "2", "3", "4", "5", "6"]
    refused = rlscan_command("evaluate", "run")
    assert refused.returncode == 2 and f"--allow {module}" in refused.stderr
    evaluated = rlscan_command(
        "evaluate", "run", "--allow", module, "--episodes=4", "--max-steps=99"
    )
    assert evaluated.returncode == 0 and evaluated.stdout.count("Walk") == 1
    policy = rlscan.load_policy(tmp_path / "run", allow=[module])
    assert type(policy).__name__ == "Net"
    again = rlscan_command("train", "--resume", "run", "--allow", module)
    assert again.returncode == 0 and "stopped after update 6, enough" in again.stdout


def test_shapes_are_enough_to_find_the_policy_of_an_algorithm():
    policy = rlscan.policies.ActorCritic(rlscan.make("CartPole-v1"), key=rlscan.key(0))
    shapes = eqx.filter_eval_shape(lambda: (policy, {"step": jax.numpy.zeros(3)}))
    assert isinstance(policy_in(shapes), rlscan.policies.ActorCritic)
    with pytest.raises(ValueError, match="must hold the policy that it trains, got 0 policies"):
        policy_in((jax.numpy.zeros(3),))


def test_a_policy_is_read_into_another_without_its_config(foreign: Path):
    """As `--init-from` reads its parent."""
    zero = jax.numpy.zeros(())
    policy = rlscan.load_policy(foreign, like=rlscan.testing.Coin(zero, zero))
    assert isinstance(policy, rlscan.testing.Coin) and not Path("trace").exists()
