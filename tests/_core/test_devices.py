"""Several devices: two cores of the host (see conftest.py)."""

import dataclasses
import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import probes
import pytest
from jax.flatten_util import ravel_pytree
from statistics_network import make_policy as statistics_policy

import rlscan
from rlscan._core.cpu import WHOLE_LOOPS
from rlscan._core.mesh import FIRST, WHOLE, device_key, sharded
from rlscan.nn._trainable import partition_trainable
from rlscan.ppo._update import check_mesh, collect, flatten_steps
from rlscan.runs._config import Config
from rlscan.runs._machine import best_num_devices, on_this_machine
from rlscan.runs._policy_config import policy_config

MESH = rlscan.make_mesh(2)
CONFIG = rlscan.ppo.PPOConfig(num_envs=4, num_steps=8, num_minibatches=1, num_epochs=1)


def assert_same(a: Any, b: Any) -> None:
    """Compare floats up to rounding; keys and integers must be equal."""
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            x, y = jax.random.key_data(x), jax.random.key_data(y)
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6)


def rolled_out(policy: Any, schedule: Any, mesh: Any) -> Any:
    env = probes.Wander()
    state = rlscan.init_rollout(policy, env, num_envs=4, key=rlscan.key(1))
    roll = eqx.filter_jit(rlscan.rollout)
    state, _ = roll(policy, env, state, 6, key_schedule=schedule, mesh=mesh)
    # The second rollout starts from the first one's state, in place on its devices.
    return roll(policy, env, state, 6, key_schedule=schedule, mesh=mesh)


@pytest.mark.slow
@pytest.mark.parametrize("schedule", ["step", "episode", "rollout"])
def test_a_rollout_equals_that_of_one_device(schedule: str) -> None:
    policy = probes.dropout_policy()
    on_two, on_one = (rolled_out(policy, schedule, mesh) for mesh in (MESH, None))
    assert_same(on_two, on_one)
    assert on_two[1].reward.sharding.num_devices == 2
    log_prob, _, _ = rlscan.replay(policy, on_two[1])
    np.testing.assert_allclose(log_prob, on_two[1].log_prob, atol=1e-5)


@pytest.mark.slow
def test_a_recurrent_rollout_equals_that_of_one_device() -> None:
    policy = probes.Recurrent()
    on_two, on_one = (rolled_out(policy, "step", mesh) for mesh in (MESH, None))
    assert_same(on_two, on_one)


def trained(mesh: Any, **changes: Any) -> tuple:
    config = dataclasses.replace(CONFIG, **changes)
    policy, env = probes.dropout_policy(), probes.Wander()
    state = rlscan.ppo.init_train(policy, env, config, key=rlscan.key(2), mesh=mesh)
    update = eqx.filter_jit(rlscan.ppo.update)
    return config, state, update(state, env, config.as_arrays(), num_updates=5, mesh=mesh)


@pytest.mark.slow
def test_an_update_uses_the_mean_gradient_and_reports_mean_metrics() -> None:
    """The reference runs on one device and averages the gradients of the two halves by hand.

    There is one minibatch, so the order of samples on each device does not matter.
    """
    config, state, (after, metrics) = trained(MESH, num_steps=32)
    _, start, (_, on_one) = trained(None, num_steps=32)
    numbers = config.as_arrays()
    policy, rollout_state, batch, *_ = eqx.filter_jit(collect)(start, probes.Wander(), numbers)
    assert_same(after.rollout_state, rollout_state)
    params, rest = partition_trainable(policy)

    @jax.jit
    @partial(jax.value_and_grad, has_aux=True)
    def gradient(params: Any, half: Any) -> Any:
        return rlscan.ppo.ppo_loss(eqx.combine(params, rest), flatten_steps(half), numbers)

    halves = jax.tree.map(lambda x: x[:, :2], batch), jax.tree.map(lambda x: x[:, 2:], batch)
    results = [gradient(params, half) for half in halves]
    (losses, grads) = zip(*[(value[0], grad) for value, grad in results], strict=True)
    mean = jax.tree.map(lambda a, b: (a + b) / 2, *grads)
    optimiser = optax.chain(
        optax.clip_by_global_norm(config.max_grad_norm),
        optax.adam(config.learning_rate, eps=config.adam_eps),
    )
    step, _ = optimiser.update(mean, optimiser.init(params))
    moved = optax.apply_updates(params, step)
    assert_same(partition_trainable(after.policy)[0], moved)
    assert ravel_pytree(moved)[0].shape and not np.allclose(
        ravel_pytree(moved)[0], ravel_pytree(params)[0]
    )
    np.testing.assert_allclose(metrics["loss"], sum(losses) / 2, rtol=1e-4)
    np.testing.assert_allclose(metrics["grad_norm"], optax.tree.norm(mean), rtol=1e-4)

    assert metrics.keys() == rlscan.ppo.METRICS.keys()
    assert metrics["num_episodes"] == on_one["num_episodes"] > 4
    for name in ("episode_return", "episode_length", "explained_variance", "entropy", "value_loss"):
        np.testing.assert_allclose(metrics[name], on_one[name], rtol=1e-4, err_msg=name)
    assert metrics["audit_error"] <= 1e-5


@pytest.mark.slow
def test_an_update_on_devices_makes_a_state_like_the_one_it_takes() -> None:
    env, config = probes.Wander(), CONFIG.as_arrays()
    start = partial(rlscan.ppo.init_train, probes.dropout_policy(), env, config)
    state = eqx.filter_eval_shape(start, key=rlscan.key(0))
    once = partial(rlscan.ppo.update, env=env, config=config, num_updates=1, mesh=MESH)
    after, metrics = eqx.filter_eval_shape(once, state)
    assert eqx.tree_equal(after, state) and metrics.keys() == rlscan.ppo.METRICS.keys()


@pytest.mark.slow
def test_the_audit_reports_the_device_that_is_off() -> None:
    """The loss's log-ratios are wrong for a single environment, which is on one device."""

    def off(policy: Any, minibatch: Any, config: Any) -> Any:
        loss, (log_ratio, metrics) = rlscan.ppo.ppo_loss(policy, minibatch, config)
        is_last = minibatch.trajectory.observation[..., 0] > 1e9
        return loss, (log_ratio + is_last, metrics)

    policy, env = probes.dropout_policy(), probes.Wander()
    state = rlscan.ppo.init_train(policy, env, CONFIG, key=rlscan.key(2), mesh=MESH)
    far = state.rollout_state.observation.at[3, 0].set(1e10)
    state = eqx.tree_at(lambda s: s.rollout_state.observation, state, far)
    _, metrics = eqx.filter_jit(rlscan.ppo.update)(
        state, env, CONFIG.as_arrays(), num_updates=5, loss=off, mesh=MESH
    )
    assert metrics["audit_log_ratio"] >= 0.9


def test_each_device_shuffles_with_its_own_key() -> None:
    f = sharded(lambda key, _: device_key(key)[None], MESH, (WHOLE, FIRST), FIRST)
    first, second = jax.random.key_data(jax.jit(f)(rlscan.key(0), jnp.zeros(2)))
    assert (first != second).any()


@pytest.mark.slow
def test_training_on_two_devices_learns_at_a_ratio_of_1() -> None:
    env = rlscan.make("CartPole-v1")
    config = rlscan.ppo.PPOConfig(num_envs=16, num_steps=64, learning_rate=1e-3, gae_lambda=0.8)
    policy = rlscan.policies.ActorCritic(env, dropout=0.1, key=rlscan.key(0))
    run = rlscan.train(
        policy, env, config, total_steps=100_000, key=rlscan.key(1), strict=True, mesh=MESH
    )
    returns = [metrics["return_mean_100"] for _, metrics in run]
    assert returns[-1] > 150


def test_mapped_leaves_are_split() -> None:
    double = rlscan.on_devices(jax.vmap(lambda key, x: (2 * x, jax.random.normal(key))), MESH)
    keys, x = jax.random.split(rlscan.key(0), 6), jnp.arange(6.0)
    doubled, noise = jax.jit(double)(keys, x)
    np.testing.assert_array_equal(doubled, 2 * x)
    np.testing.assert_array_equal(noise, jax.vmap(jax.random.normal)(keys))
    assert doubled.sharding.num_devices == 2


@pytest.mark.exhaustive
@pytest.mark.slow
def test_a_strict_run_on_two_devices_stops_with_its_cause() -> None:
    def fresh(policy: Any, minibatch: Any, config: Any) -> Any:
        """A loss with masks that differ from the rollout's."""
        keys = jax.random.split(rlscan.key(9), minibatch.trajectory.policy_key.shape)
        trajectory = dataclasses.replace(minibatch.trajectory, policy_key=keys)
        return rlscan.ppo.ppo_loss(
            policy, dataclasses.replace(minibatch, trajectory=trajectory), config
        )

    policy, env = probes.dropout_policy(), probes.Wander()
    run = rlscan.train(
        policy, env, CONFIG, total_steps=64, key=rlscan.key(2), loss=fresh, strict=True, mesh=MESH
    )
    with pytest.raises(rlscan.AuditError, match="update 1: before its first gradient step"):
        list(run)


# Refusals.


def test_too_many_devices_are_refused() -> None:
    for number in (0, 3):
        with pytest.raises(ValueError, match=f"from 1 to 2, .* got {number}; to split a CPU"):
            rlscan.make_mesh(number)


@pytest.mark.slow
def test_sizes_not_divisible_by_the_devices_are_refused() -> None:
    policy, env = probes.dropout_policy(), probes.Wander()
    state = rlscan.init_rollout(policy, env, num_envs=3, key=rlscan.key(1))
    with pytest.raises(ValueError, match="number of environments .* got 3; use 4, or fewer"):
        rlscan.rollout(policy, env, state, 2, mesh=MESH)
    with pytest.raises(ValueError, match="first axis of each argument .* got 5"):
        rlscan.on_devices(jnp.sin, MESH)(jnp.zeros(5))
    with pytest.raises(ValueError, match="num_envs must be a multiple of the 2 devices"):
        trained(MESH, num_envs=3)
    with pytest.raises(ValueError, match=r"has 16 of 32 samples.* or num_minibatches = 16"):
        trained(MESH, num_minibatches=32)


def test_minibatches_of_a_recurrent_policy_are_divided_over_the_devices() -> None:
    config = dataclasses.replace(CONFIG, num_envs=8, num_minibatches=8)
    check_mesh(MESH, probes.dropout_policy(), config)
    with pytest.raises(ValueError, match=r"has 4 of 8 samples.* or num_minibatches = 4"):
        check_mesh(MESH, probes.Recurrent(), config)


@pytest.mark.slow
def test_statistics_are_refused() -> None:
    policy = statistics_policy()
    with pytest.raises(ValueError, match="WithStatistics move by a whole rollout.*mesh=None"):
        rlscan.ppo.init_train(policy, probes.Wander(), CONFIG, key=rlscan.key(0), mesh=MESH)


# How many devices are worthwhile.


@pytest.mark.parametrize(
    "cores, num_envs, num_steps, num_minibatches, recurrent, found",
    [
        (1, 1024, 32, 8, False, 1),
        (2, 1024, 32, 8, False, 2),
        (2, 16, 2048, 8, False, 1),  # too few environments per device
        (2, 1024, 7, 8, False, 1),  # too few steps per device
        (3, 1024, 32, 8, False, 2),  # 3 does not divide
        (16, 1024, 32, 8, False, 8),
        (0, 64, 512, 8, False, 1),
        (2, 100, 128, 4, False, 2),
        (2, 100, 128, 4, True, 1),  # 50 environments per device are not divisible by 4
        (2, 104, 128, 4, True, 2),
    ],
)
def test_only_devices_with_enough_work_are_used(
    cores: int, num_envs: int, num_steps: int, num_minibatches: int, recurrent: bool, found: int
) -> None:
    ppo = rlscan.ppo.PPOConfig(
        num_envs=num_envs, num_steps=num_steps, num_minibatches=num_minibatches
    )
    policy = policy_config(kind="gru" if recurrent else "mlp")
    assert best_num_devices(cores, Config(ppo=ppo, policy=policy)) == found


@pytest.mark.parametrize("given, found", [(None, 2), (1, 1)])
def test_a_run_is_split_unless_told_otherwise(
    given: int | None, found: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rlscan.runs._machine.num_cores", lambda: 2)
    ppo = rlscan.ppo.PPOConfig(num_envs=1024, num_steps=32, num_minibatches=8)
    config = on_this_machine(Config(ppo=ppo, num_devices=given))
    assert config.num_devices == found
    assert on_this_machine(Config(num_devices=given)).num_devices == 1  # 8 environments
    ppo = rlscan.ppo.PPOConfig(num_envs=100, num_steps=128, num_minibatches=4)
    with_memory = on_this_machine(Config(policy=policy_config(kind="gru"), ppo=ppo))
    assert with_memory.num_devices == 1  # two would have 50 each, not divisible by 4 minibatches


def test_a_scalar_cannot_be_split():
    with pytest.raises(ValueError, match="first axis, got a scalar float32; close over"):
        rlscan.on_devices(lambda x, y: x * y, rlscan.make_mesh(2))(jnp.ones(4), jnp.float32(3))


@pytest.mark.slow
def test_a_number_of_devices_set_by_the_user_is_kept():
    program = "import jax, rlscan; rlscan.configure_cpu(); print(len(jax.devices()))"
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    done = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, **flags}, capture_output=True, text=True
    )
    assert done.stdout == "2\n", done.stderr


@pytest.mark.parametrize(
    "num_devices, given, expected",
    [
        (None, "", "--xla_cpu_prefer_vector_width=512"),
        (1, "--other=1", "--other=1 --xla_cpu_prefer_vector_width=512"),
        (
            2,
            "--xla_cpu_prefer_vector_width=256",
            "--xla_cpu_prefer_vector_width=256 --xla_disable_hlo_passes=cpu-parallel-task-assigner",
        ),
        (
            2,
            "--xla_disable_hlo_passes=mine",
            "--xla_disable_hlo_passes=mine --xla_cpu_prefer_vector_width=512",
        ),
    ],
)
def test_flags_set_by_the_user_are_kept(
    num_devices: int | None, given: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XLA_FLAGS", given)
    rlscan.configure_cpu(num_devices)
    assert os.environ["XLA_FLAGS"] == expected


def test_a_jaxlib_that_may_not_know_the_flags_gets_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An unknown flag ends the process."""
    monkeypatch.setenv("XLA_FLAGS", "--given=1")
    monkeypatch.setattr("rlscan._core.cpu.version", lambda name: {"jaxlib": "0.99.0"}[name])
    rlscan.configure_cpu(2)
    assert os.environ["XLA_FLAGS"] == "--given=1"


def without_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NPROC", "2")  # so that monkeypatch restores it
    monkeypatch.delenv("NPROC")


@pytest.mark.parametrize(
    "policy, num_envs, num_runs, are_split",
    [
        (policy_config(), 4, 1, False),  # minibatches of 128 steps, layers of 64 units
        (policy_config(), 8, 1, False),
        (policy_config(), 16, 1, False),
        (policy_config(), 32, 1, True),
        (policy_config(hidden_sizes=(256, 64)), 8, 1, True),
        (policy_config(hidden_sizes=(16,)), 32, 1, False),
        (policy_config(hidden_sizes=()), 16, 1, False),
        (policy_config(), 4, 8, True),  # as one with 32 environments
        (policy_config(kind="gru", hidden_size=256), 8, 1, True),
        (policy_config(kind="lstm", hidden_size=16, hidden_sizes=()), 16, 1, False),
        (policy_config(kind="transformer", embed_size=256), 8, 1, True),
        (policy_config(kind="transformer", embed_size=32), 16, 1, False),
    ],
)
def test_only_long_loops_are_split(
    policy: Any,
    num_envs: int,
    num_runs: int,
    are_split: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    without_threads(monkeypatch)
    ppo = rlscan.ppo.PPOConfig(num_envs=num_envs, num_steps=128, num_minibatches=4)
    on_this_machine(Config(policy=policy, ppo=ppo, num_devices=1, num_seeds=num_runs))
    assert os.environ.get("NPROC") == (None if are_split else "1")


@pytest.mark.parametrize("num_devices, given, expected", [(1, "3", "3"), (2, None, None)])
def test_threads_set_by_the_user_are_kept_and_devices_have_theirs(
    num_devices: int, given: str | None, expected: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_threads(monkeypatch)
    monkeypatch.setenv("XLA_FLAGS", "")
    if given is not None:
        monkeypatch.setenv("NPROC", given)
    rlscan.configure_cpu(num_devices, one_thread=True)
    assert os.environ.get("NPROC") == expected


def test_threads_are_left_alone_with_an_accelerator(monkeypatch: pytest.MonkeyPatch) -> None:
    without_threads(monkeypatch)
    monkeypatch.setattr("rlscan._core.cpu.entry_points", lambda *, group: ["cuda"])
    rlscan.configure_cpu(1, one_thread=True)
    assert "NPROC" not in os.environ


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="the system names no threads")
@pytest.mark.parametrize("one_thread", [True, False])
def test_one_thread_computes(one_thread: bool) -> None:
    """JAX ignores unknown variables silently, so the number of threads is checked."""
    program = f"""
from pathlib import Path
import jax.numpy as jnp, rlscan
rlscan.configure_cpu(one_thread={one_thread})
jnp.ones(()).block_until_ready()
names = [(task / "comm").read_text() for task in Path("/proc/self/task").iterdir()]
print(sum("XLAEigen" in name for name in names))
"""
    environment = {k: v for k, v in os.environ.items() if k != "NPROC"}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert int(done.stdout) == (1 if one_thread else rlscan.num_cores())


def test_loops_are_whole() -> None:
    """XLA ignores unknown pass names silently, so the compiled program is checked."""
    x = jnp.ones((1024, 1024))

    def program(options: dict[str, str]) -> str:
        return jax.jit(jnp.tanh, compiler_options=options).lower(x).compile().as_text() or ""

    assert "outer_dimension_partitions" in program({})
    assert "outer_dimension_partitions" not in program(WHOLE_LOOPS)
