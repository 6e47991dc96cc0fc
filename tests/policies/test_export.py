"""Exported policies behave like the originals, without their class."""

import errno
import hashlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import probes
import pytest
from signed_files import resigned

import rlscan
from rlscan.policies._distributions import Beta, TanhNormal

CARTPOLE = rlscan.make("CartPole-v1")
PENDULUM = rlscan.make("Pendulum-v1")


def live(policy: Any, stochastic: bool, space: Any):
    """The reference: the policy called in a batch; tanh and Beta are scaled to ±2."""

    def one(observation, state, key):
        policy_key, action_key = jax.random.split(key)
        distribution, value, state = policy(observation, state, key=policy_key)
        action = distribution.sample(seed=action_key) if stochastic else distribution.mode()
        sent = action
        if isinstance(distribution, TanhNormal):
            sent = 2 * jnp.tanh(action)
        elif isinstance(distribution, Beta):
            sent = 4 * action - 2
        elif hasattr(space, "low"):
            sent = jnp.clip(action, space.low, space.high)
        return sent, distribution.log_prob(action), value, state

    return jax.jit(jax.vmap(one))


def batch(size: int, shape: tuple[int, ...]) -> tuple:
    keys = jax.random.split(rlscan.key(5), size)
    return 3 * jax.random.normal(rlscan.key(4), (size, *shape)), keys


def assert_close(ours: Any, theirs: Any) -> None:
    assert len(jax.tree.leaves(ours)) == len(jax.tree.leaves(theirs))
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("stochastic", [False, True])
@pytest.mark.parametrize(
    "env, continuous",
    [(CARTPOLE, "gaussian"), (PENDULUM, "gaussian"), (PENDULUM, "tanh"), (PENDULUM, "beta")],
    ids=["categories", "a clipped box", "tanh", "beta"],
)
def test_it_decides_as_the_policy_does(env: Any, continuous: Any, stochastic: bool, tmp_path: Path):
    policy = rlscan.policies.ActorCritic(
        env, hidden_sizes=(8,), dropout=0.5, continuous=continuous, key=rlscan.key(1)
    )
    rlscan.policies.export(
        policy, env, tmp_path / "policy", stochastic=stochastic, platforms=["cpu"]
    )
    exported = rlscan.policies.load_exported(tmp_path / "policy")
    reference = live(eqx.nn.inference_mode(policy, not stochastic), stochastic, env.action_space())
    for size in (1, 5):
        observation, keys = batch(size, env.observation_space().shape)
        # Also inside a jitted function.
        found = jax.jit(exported)(observation, keys=keys if stochastic else None)
        expected = reference(observation, jnp.zeros((size, 0)), keys)
        assert_close(found[:3], expected[:3])
        assert found[3] == []
    if stochastic:  # both the masks and the sample come from the key
        others = exported(observation, keys=keys[::-1])
        assert not np.allclose(found[1], others[1])


@pytest.mark.exhaustive
@pytest.mark.slow
def test_a_recurrent_policy_in_a_process_without_its_class(tmp_path: Path):
    """The state is passed in and out, and one program runs on all platforms."""
    env, policy = probes.Wander(), probes.Recurrent()
    rlscan.policies.export(policy, env, tmp_path / "policy", stochastic=True)
    size, num_steps = 3, 4
    observations = jax.random.normal(rlscan.key(6), (num_steps, size, 4))
    keys = jax.random.split(rlscan.key(7), (num_steps, size))
    np.savez(tmp_path / "in.npz", observations=observations, words=jax.random.key_data(keys))
    program = """
import numpy as np, rlscan
given = np.load("in.npz")
policy = rlscan.policies.load_exported("policy")
state, found = policy.initial_state(3), []
for observation, words in zip(given["observations"], given["words"]):
    keys = rlscan.random.keys_from_data(rlscan.random.KeyData(words, policy.generator))
    action, log_prob, value, state = policy(observation, state, keys=keys)
    found.append((action, log_prob, value))
action, log_prob, value = map(np.stack, zip(*found))
np.savez("out.npz", action=action, log_prob=log_prob, value=value, state=state[0])
"""
    subprocess.run([sys.executable, "-c", program], check=True, cwd=tmp_path)
    found = np.load(tmp_path / "out.npz")
    state = jnp.tile(policy.initial_state(), (size, 1))
    for t in range(num_steps):
        reference = live(policy, True, env.action_space())
        action, log_prob, value, state = reference(observations[t], state, keys[t])
        assert_close(
            [found["action"][t], found["log_prob"][t], found["value"][t]],
            [np.asarray(action), np.asarray(log_prob), np.asarray(value)],
        )
    assert_close(found["state"], np.asarray(state))


def test_a_dict_of_observations_and_another_generator(tmp_path: Path):
    class Env(probes.WhatWasSent):
        pass

    policy = probes.OneNumber(jnp.asarray(0.2))
    file = tmp_path / "policy"
    rlscan.policies.export(
        policy, Env(), file, stochastic=True, generator="threefry2x32", platforms=["cpu"]
    )
    observation, _ = jax.vmap(Env().reset)(jax.random.split(rlscan.key(0), 2))
    exported = rlscan.policies.load_exported(file)
    keys = jax.random.split(rlscan.key(0, generator="threefry2x32"), 2)
    found = exported(observation, keys=keys)
    expected = live(policy, True, Env().action_space())(observation, jnp.zeros((2, 0)), keys)
    assert_close(found[:3], expected[:3])
    assert np.abs(found[0]).max() == 0.5  # a Gaussian wider than its box: clipped to it
    with pytest.raises(ValueError, match="must be of the generator threefry2x32, got mix32"):
        exported(observation, keys=jax.random.split(rlscan.key(0), 2))
    # The keys of mix32 have the same shape, so that only what it draws tells them apart.
    change = lambda header: header.update(generator="mix32")  # noqa: E731
    other = resigned(file, tmp_path / "other", entries=change)
    with pytest.raises(
        ValueError, match=f"^{other} is not.*generator_fingerprint must be .* mix32"
    ):
        rlscan.policies.load_exported(other)


def test_an_export_that_would_always_draw_the_same_is_refused(tmp_path: Path):
    with pytest.raises(
        ValueError, match="draws from its key in inference mode as well.*stochastic=True"
    ):
        rlscan.policies.export(probes.noise_policy(), probes.Wander(), tmp_path / "policy")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("exported") / "policy"
    policy = rlscan.policies.ActorCritic(CARTPOLE, hidden_sizes=(4,), key=rlscan.key(1))
    rlscan.policies.export(policy, CARTPOLE, file, platforms=["cpu"])
    return file


def test_nothing_is_overwritten(small: Path):
    before = small.read_bytes()
    with pytest.raises(FileExistsError, match="exists already; choose another file"):
        rlscan.policies.export(
            rlscan.policies.ActorCritic(CARTPOLE, key=rlscan.key(2)), CARTPOLE, small
        )
    assert small.read_bytes() == before


def test_unneeded_keys_and_wrong_shapes_are_refused(small: Path):
    observation, keys = batch(2, (4,))
    with pytest.raises(ValueError, match="takes no keys, as it is not stochastic"):
        rlscan.policies.load_exported(small)(observation, keys=keys)
    with pytest.raises(ValueError, match="Shape mismatch"):
        rlscan.policies.load_exported(small)(observation[:, :3])


def test_the_first_line_says_what_the_file_is(small: Path):
    header = json.loads(small.read_bytes().split(b"\n")[0])
    assert header["format"] == "rlscan exported policy" and header["stochastic"] is False
    assert (header["rlscan_version"], header["jax_version"]) == (
        rlscan.__version__,
        jax.__version__,
    )


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda c: c[:-1], "is cut short or damaged"),
        (lambda c: c[:40], "is no exported policy saved by rlscan"),
        (lambda c: b"", "is no exported policy saved by rlscan"),
        (lambda c: c[:-9] + bytes([c[-9] ^ 1]) + c[-8:], "is cut short or damaged"),
        (lambda c: c.replace(b'_version": 3', b'_version": 9', 1), "has format 9, saved by"),
    ],
)
def test_a_file_that_is_not_whole(small: Path, tmp_path: Path, change: Any, message: str):
    file = tmp_path / "other"
    file.write_bytes(change(small.read_bytes()))
    with pytest.raises(ValueError, match=f"{file} {message}"):
        rlscan.policies.load_exported(file)


@pytest.mark.parametrize(
    "entries, message",
    [
        ({"generator": "mix33"}, "generator must be one of mix32, philox4x32"),
        ({"generator": ["mix32"]}, "generator must be one of mix32, philox4x32"),
        ({"generator": "mix32"}, "generator must be one whose keys have the shapes"),
        ({"num_state_leaves": None}, "num_state_leaves must be an integer, got null"),
        ({"num_state_leaves": 10**12}, "1000000000000 arrays and a program must follow"),
        ({"num_state_leaves": 1}, "1 arrays and a program must follow"),
    ],
)
def test_a_foreign_header_is_refused(entries: Any, message: str, small: Path, tmp_path: Path):
    change = lambda header: header.update(entries)  # noqa: E731
    file = resigned(small, tmp_path / "foreign", entries=change)
    with pytest.raises(ValueError) as error:
        rlscan.policies.load_exported(file)
    assert str(error.value).startswith(f"{file} is not as rlscan writes it: {message}")


@pytest.mark.parametrize(
    "body", [lambda body: b"", lambda body: body[:100], lambda body: b"x" + body]
)
def test_a_foreign_program_is_refused(body: Any, small: Path, tmp_path: Path):
    file = resigned(small, tmp_path / "foreign", body=body)
    with pytest.raises(ValueError, match="0 arrays and a program must follow its first line"):
        rlscan.policies.load_exported(file)


def test_a_state_that_the_program_does_not_take_is_refused(small: Path, tmp_path: Path):
    state = io.BytesIO()
    np.save(state, np.zeros(3))
    change = lambda header: header.update(num_state_leaves=1)  # noqa: E731
    body = lambda program: state.getvalue() + program  # noqa: E731
    file = resigned(small, tmp_path / "foreign", entries=change, body=body)
    with pytest.raises(ValueError, match=r"num_state_leaves must count the states \[\], got"):
        rlscan.policies.load_exported(file)


def test_a_file_of_the_first_format_is_read(small: Path, tmp_path: Path):
    first_line, _, body = small.read_bytes().partition(b"\n")
    header = {**json.loads(first_line), "format_version": 1}
    del header["generator_fingerprint"]
    header["sha256"] = hashlib.sha256(body).hexdigest()  # the whole content that it covers
    file = tmp_path / "old"
    file.write_bytes(json.dumps(header).encode() + b"\n" + body)
    observation, _ = batch(2, (4,))
    assert_close(
        rlscan.policies.load_exported(file)(observation),
        rlscan.policies.load_exported(small)(observation),
    )


def test_a_full_disk_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(*arguments: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("os.fsync", full)
    policy = rlscan.policies.ActorCritic(CARTPOLE, key=rlscan.key(2))
    with pytest.raises(OSError, match="No space left on device.*policy"):
        rlscan.policies.export(policy, CARTPOLE, tmp_path / "policy", platforms=["cpu"])
    assert list(tmp_path.iterdir()) == []


def test_without_flatbuffers_the_extra_is_named(small: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'rlscan\[export\]'"):
        rlscan.policies.load_exported(small)
