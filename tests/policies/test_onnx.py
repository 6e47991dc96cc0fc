"""Policies as files of ONNX, checked with ONNX Runtime."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import equinox as eqx
import gymnasium.spaces as spaces
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import run_dirs

import rlscan
from rlscan._cli.main import main
from rlscan.envs import Spaces
from rlscan.policies import (
    ActorCritic,
    NormalizedObservations,
    RecurrentActorCritic,
    TransformerActorCritic,
    export_onnx,
)

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

KEY = rlscan.key(0)
BOX = spaces.Box(-2, 3, (4,))
TWO = spaces.Discrete(2)
MLP = partial(ActorCritic, hidden_sizes=(8,), dropout=0.5, key=KEY)
PARTS = {"x": BOX, "kind": spaces.Discrete(3), "action_mask": spaces.MultiBinary(5)}


class Own(eqx.Module):
    """An encoder of one's own: convolutions of Equinox, a layer norm, and attention over rows."""

    convolution: eqx.nn.Conv2d
    norm: eqx.nn.LayerNorm
    attention: eqx.nn.MultiheadAttention

    def __init__(self, space: Any, *, key: Any):
        keys = jax.random.split(key, 2)
        self.convolution = eqx.nn.Conv2d(2, 4, (3, 2), stride=2, padding=1, groups=2, key=keys[0])
        self.norm = eqx.nn.LayerNorm(4)
        self.attention = eqx.nn.MultiheadAttention(2, 4, key=keys[1])

    def __call__(self, image: Any) -> Any:
        x = self.convolution(jnp.moveaxis(image, -1, 0)).reshape(4, -1).T
        x = jax.vmap(self.norm)(x)
        x = self.attention(x, x, x)
        return jnp.concatenate([jnp.cumsum(jnp.flip(x, 0)[1:4:2], 0).ravel(), jax.nn.gelu(x[0])])


POLICIES: dict[str, tuple[Any, Spaces]] = {
    "mlp": (MLP, Spaces(BOX, TWO)),
    "gaussian": (MLP, Spaces(BOX, spaces.Box(-0.2, 0.1, (3,)))),
    "tanh": (partial(MLP, continuous="tanh", state_dependent_std=True), Spaces(BOX, BOX)),
    "beta": (partial(MLP, continuous="beta"), Spaces(BOX, BOX)),
    "several": (MLP, Spaces(PARTS, (spaces.MultiDiscrete([2, 3]), BOX))),
    "cnn": (
        partial(MLP, num_channels=(3, 5)),
        Spaces(spaces.Box(0, 255, (9, 8, 2), np.uint8), TWO),
    ),
    "own encoder": (partial(MLP, encoder=Own), Spaces(spaces.Box(0, 1, (7, 6, 2)), TWO)),
    "gru": (
        partial(RecurrentActorCritic, hidden_size=6, dropout=0.5, recurrent_dropout=0.5, key=KEY),
        Spaces(BOX, TWO),
    ),
    "lstm": (
        partial(RecurrentActorCritic, cell="lstm", hidden_size=6, key=KEY),
        Spaces(BOX, BOX),
    ),
    "transformer": (
        partial(TransformerActorCritic, context_length=3, num_heads=2, embed_size=8, key=KEY),
        Spaces(BOX, TWO),
    ),
}


def session(file: Path) -> Any:
    return onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])


def exported(policy: Any, env: Any, file: Path) -> Any:
    export_onnx(policy, env, file)
    return session(file)


def samples(space: Any, size: int) -> Any:
    """Observations `[size, …]` of a space, with masks that allow the last action."""
    if isinstance(space, dict | spaces.Dict):
        parts = {name: samples(part, size) for name, part in space.items()}
        if "action_mask" in parts:
            parts["action_mask"][:, [1, -1]] = 1
        return parts
    space.seed(3)
    found = np.stack([space.sample() for _ in range(size)])
    return found.astype(np.int32) if found.dtype == np.int64 else found


def fed(observation: Any, state: Any) -> dict[str, Any]:
    parts = observation.items() if isinstance(observation, dict) else ()
    whole = {} if parts else {"observation": observation}
    states = {f"state.{i}": np.asarray(x) for i, x in enumerate(jax.tree.leaves(state))}
    return {**whole, **{f"observation.{name}": x for name, x in parts}, **states}


def reference(policy: Any) -> Any:
    """The policy itself, without noise, by its own methods."""
    policy = eqx.nn.inference_mode(policy)

    @jax.jit
    @jax.vmap
    def act(observation: Any, state: Any) -> Any:
        distribution, value, state = policy(observation, state, key=rlscan.key(9))
        mode = distribution.mode()
        return distribution, distribution.log_prob(mode), value, state

    return act


def assert_close(ours: Any, theirs: Any) -> None:
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


QUICK = ("mlp", "cnn", "gru")


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in POLICIES]
)
def test_it_decides_as_the_policy_does(name: str, tmp_path: Path):
    make, env = POLICIES[name]
    policy = make(env)
    run, act = exported(policy, env, tmp_path / "policy.onnx"), reference(policy)
    initial = run.get_modelmeta().custom_metadata_map["initial_state"]
    for size in (5, 1):
        state = jax.tree.map(
            lambda x: jnp.broadcast_to(x, (size, *jnp.shape(x))),  # noqa: B023
            policy.initial_state(),
        )
        for start, leaf in zip(json.loads(initial), jax.tree.leaves(state), strict=True):
            np.testing.assert_array_equal(np.asarray(start), leaf[0])
        for _ in range(5 if jax.tree.leaves(state) else 1):
            observation = samples(env.observation, size)
            names = [output.name for output in run.get_outputs()]
            found = dict(zip(names, run.run(None, fed(observation, state)), strict=True))
            distribution, log_prob, value, state = act(observation, state)
            assert_close(found["log_prob"], log_prob)
            assert_close(found["value"], value)
            for i, leaf in enumerate(jax.tree.leaves(state)):
                assert_close(found[f"next_state.{i}"], leaf)
            if name == "several":
                assert_close(
                    found["distribution.0.logits"],
                    distribution.distributions[0].distribution.logits,
                )
                assert_close(found["action.0"], distribution.mode()[0])
            elif hasattr(distribution, "logits"):
                assert_close(found["distribution.logits"], distribution.logits)
                assert_close(found["action"], distribution.mode())
            else:
                assert_close(found["distribution.mean"], distribution.mean())
                assert_close(found["distribution.stddev"], distribution.stddev())
                sent = getattr(distribution, "legal", lambda x: x)(distribution.mode())
                assert_close(found["action"], jnp.clip(sent, env.action.low, env.action.high))


def test_running_statistics_are_in_the_file(tmp_path: Path):
    env = Spaces(BOX, TWO)
    policy: Any = NormalizedObservations(MLP(env), env)
    observation = samples(BOX, 64) * np.asarray([1, 10, 100, 0], np.float32) + 5
    steps = rlscan.nn.Steps(jnp.asarray(observation), (), jax.random.split(KEY, 64))
    policy = policy.move_statistics(steps, None)
    (logits,) = exported(policy, env, tmp_path / "policy.onnx").run(
        ["distribution.logits"], {"observation": observation}
    )
    distribution, *_ = reference(policy)(observation, ())
    assert_close(logits, distribution.logits)
    before, *_ = reference(policy.policy)(observation, ())
    assert np.abs(logits - before.logits).max() > 1e-3


class Refused(eqx.Module):
    """A policy around another one that sorts its observations."""

    policy: ActorCritic

    def __call__(self, observation: Any, state: Any, *, key: Any) -> Any:
        return self.policy(jnp.sort(observation), state, key=key)

    def initial_state(self) -> Any:
        return ()


def test_what_cannot_be_written_is_named(tmp_path: Path):
    env = Spaces(BOX, TWO)
    with pytest.raises(ValueError, match="^Refused cannot be written as ONNX: .* JAX's sort; use"):
        export_onnx(Refused(MLP(env)), env, tmp_path / "policy.onnx")
    assert not list(tmp_path.iterdir())


def test_a_file_that_exists_is_kept(tmp_path: Path):
    (tmp_path / "policy.onnx").write_text("mine")
    with pytest.raises(FileExistsError, match="exists already"):
        export_onnx(MLP(Spaces(BOX, TWO)), Spaces(BOX, TWO), tmp_path / "policy.onnx")


def test_without_onnx_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        ModuleNotFoundError, match=r"ONNX files need onnx: pip install 'rlscan\[onn"
    ):
        export_onnx(MLP(Spaces(BOX, TWO)), Spaces(BOX, TWO), tmp_path / "policy.onnx")


@pytest.mark.slow
def test_a_run_is_exported_by_the_command(tmp_path: Path, capsys: pytest.CaptureFixture):
    directory = run_dirs.with_policy(tmp_path / "run", num_seeds=2)
    command = ["export", str(directory), "--output", str(tmp_path / "policy.onnx")]
    assert main([*command, "--run", "1"]) == 0
    assert "policy.onnx: a policy for CartPole-v1" in capsys.readouterr().out
    (logits,) = session(tmp_path / "policy.onnx").run(
        ["distribution.logits"], {"observation": np.ones((2, 4), np.float32)}
    )
    policy = rlscan.load_policy(directory, run=1)
    distribution, *_ = reference(policy)(jnp.ones((2, 4)), ())
    assert_close(logits, distribution.logits)
    assert main([*command, "--run", "1"]) == 2
    assert "add --overwrite" in capsys.readouterr().err
    assert main([*command[:-1], str(tmp_path / "policy.bin")]) == 2
    assert "--output must end in .onnx" in capsys.readouterr().err
    program = [*command[:-1], str(tmp_path / "policy.bin"), "--format", "program", "--run", "0"]
    assert main(program) == 0
    loaded = rlscan.policies.load_exported(tmp_path / "policy.bin")
    assert loaded(jnp.ones((3, 4)))[0].shape == (3,)
