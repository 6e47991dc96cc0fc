"""Settings that follow a schedule, counted in updates."""

import dataclasses
import math
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import probes
import pytest

import rlscan
from rlscan.ppo import PPO, PPOConfig, Schedule
from rlscan.ppo._config import SCHEDULED, check_config

CONFIG = PPOConfig(num_envs=2, num_steps=4, num_epochs=2, num_minibatches=1)
N = 9


def values(schedule: Any, num_updates: int = N) -> np.ndarray:
    config = dataclasses.replace(CONFIG, gamma=schedule).as_arrays()
    one = jax.jit(lambda update, num_updates: config.at(update, num_updates).gamma)
    return np.array([one(jnp.asarray(i), jnp.asarray(num_updates)) for i in range(num_updates)])


def by_hand(kind: str, u: int, warmup: int, start: float, end: float) -> float:
    if u < warmup:
        return start * u / warmup
    p = (u - warmup) / (N - 1 - warmup)
    shapes = {"linear": 1 - p, "cosine": (1 + math.cos(math.pi * p)) / 2, "constant": 1.0}
    return end + (start - end) * shapes[kind]


@pytest.mark.parametrize("warmup", [0, 3])
@pytest.mark.parametrize("kind", ["linear", "cosine", "constant"])
def test_a_named_schedule_is_its_equation(kind: Any, warmup: int):
    found = values(Schedule(kind, start=0.8, end=0.2, warmup=warmup))
    wanted = [by_hand(kind, u, warmup, 0.8, 0.2) for u in range(N)]
    np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-7)
    assert found[0] == (0 if warmup else np.float32(0.8))
    assert found[-1] == pytest.approx(0.8 if kind == "constant" else 0.2)


def test_a_function_gets_the_number_of_updates_made():
    np.testing.assert_allclose(
        values(optax.linear_schedule(0.5, 0.1, 4)), np.maximum(0.5 - 0.1 * np.arange(N), 0.1)
    )
    np.testing.assert_allclose(values(lambda update: update / 10), np.arange(N) / 10)


def test_a_run_of_one_update_has_its_start():
    assert values(Schedule(start=0.5), num_updates=1).tolist() == [0.5]


def test_numbers_stay_as_they_are():
    assert CONFIG.at(jnp.asarray(3), 9) is CONFIG
    moved = dataclasses.replace(CONFIG, gamma=lambda update: 0.5).at(jnp.asarray(3), 9)
    assert dataclasses.replace(moved, gamma=CONFIG.gamma) == CONFIG
    moved = dataclasses.replace(CONFIG, learning_rate=Schedule(start=1.0)).at(jnp.asarray(3), 9)
    assert CONFIG.anneal_learning_rate and not moved.anneal_learning_rate


# In training.


def report_settings(policy: Any, minibatch: Any, config: Any) -> tuple:
    """A loss that reports what it is given, and whose steps are those of the learning rate."""
    seen = {f"seen_{name}": getattr(config, name) for name in SCHEDULED}
    reward = minibatch.trajectory.reward.mean()
    return policy.weight.sum(), (0.0 * minibatch.advantage, {**seen, "reward": reward})


class One(eqx.Module):
    """A policy with one number to learn."""

    weight: Any = eqx.field(default_factory=lambda: jnp.zeros(1))

    def __call__(self, observation: Any, state: Any, *, key: Any) -> tuple:
        distribution = probes.distrax.Categorical(logits=jnp.zeros(3))
        return distribution, self.weight.sum(), state

    def initial_state(self) -> tuple:
        return ()


SCHEDULES = PPOConfig(
    num_envs=2,
    num_steps=4,
    num_epochs=2,
    num_minibatches=1,
    learning_rate=Schedule("linear", start=0.8, end=0.2),
    clip_range=Schedule("cosine", start=0.3, end=0.1),
    entropy_coef=optax.exponential_decay(0.1, 1, 0.5),
    gamma=Schedule("constant", start=0.9),
)


def train(config: Any = SCHEDULES, num_updates: int = 4, **settings: Any) -> Any:
    own: dict[str, Any] = {"loss": report_settings, "optimizer": optax.sgd}
    settings = {"key": rlscan.key(0), **own, **settings}
    return rlscan.train(
        One(),
        probes.Wander(),
        config,
        total_steps=8 * num_updates,
        **settings,
    )


@pytest.fixture(scope="module")
def rows() -> list[dict]:
    return [metrics for _, metrics in train()]


def test_a_loss_sees_the_numbers_of_its_update(rows: list[dict]):
    wanted = {
        "learning_rate": [0.8, 0.6, 0.4, 0.2],
        "clip_range": [0.2 + 0.1 * math.cos(math.pi * p) for p in (0, 1 / 3, 2 / 3, 1)],
        "entropy_coef": [0.1, 0.05, 0.025, 0.0125],
        "gamma": [0.9] * 4,
    }
    for name, numbers in wanted.items():
        np.testing.assert_allclose([r[f"seen_{name}"] for r in rows], numbers, rtol=1e-6)
    # Nothing is annealed on top of it.
    np.testing.assert_allclose([r["learning_rate"] for r in rows], wanted["learning_rate"])


@pytest.mark.slow
def test_the_steps_are_those_of_the_schedule(rows: list[dict]):
    """Gradient descent on a sum goes down by the rate, twice an update."""
    training = train()
    for i, (state, _) in enumerate(training):
        made = int(state.num_updates)
        assert made > i
        rate = np.sum([0.8, 0.6, 0.4, 0.2][:made])
        # The gradient, 1, is clipped at 0.5.
        np.testing.assert_allclose(state.policy.weight, -2 * 0.5 * rate, rtol=1e-5)


@pytest.mark.slow
def test_an_extended_run_goes_on_with_its_old_horizon(rows: list[dict]):
    first = train()
    for _ in first:
        pass
    longer = [m for _, m in train(num_updates=6, schedule_steps=32, state=first.state)]
    assert len(longer) == 2
    assert [m["seen_learning_rate"] for m in longer] == pytest.approx([0.2, 0.2])
    whole = [m for _, m in train(num_updates=6)]
    assert whole[1]["seen_learning_rate"] == pytest.approx(0.8 - 0.6 / 5)
    with_old = [m for _, m in train(num_updates=6, schedule_steps=32)]
    for one, other in zip(rows, with_old, strict=False):
        for name, value in one.items():
            np.testing.assert_array_equal(other[name], value, err_msg=name)


@pytest.mark.slow
def test_the_ends_of_schedules_may_differ_between_runs():
    config = dataclasses.replace(SCHEDULES, learning_rate=Schedule(start=jnp.asarray([0.1, 0.2])))
    make = lambda *, key: One()  # noqa: E731
    keys = jax.random.split(rlscan.key(0), 2)
    training = rlscan.train(
        make, probes.Wander(), config, total_steps=24, key=keys, loss=report_settings
    )
    found = np.stack([metrics["learning_rate"] for _, metrics in training])
    np.testing.assert_allclose(found, [[0.1, 0.2], [0.05, 0.1], [0.0, 0.0]], atol=1e-7)


@pytest.mark.slow
def test_a_whole_run_in_one_function_follows_them_too(rows: list[dict]):
    run = partial(rlscan.ppo.train_scan, One(), probes.Wander(), SCHEDULES, total_steps=32)
    _, metrics = eqx.filter_jit(run)(key=rlscan.key(0), loss=report_settings, optimizer=optax.sgd)
    found = [r["seen_clip_range"] for r in rows]
    np.testing.assert_allclose(metrics["seen_clip_range"], found, rtol=1e-6)


# What is refused.


def test_a_schedule_is_checked_at_its_ends_and_in_the_middle():
    for setting, message in (
        ({"gamma": Schedule(start=1.5)}, r"gamma must be in \[0, 1\], got 1.5 as the start of its"),
        ({"clip_range": Schedule(start=0.2)}, "clip_range must be above 0, got 0.0 as the end of"),
        (
            {"clip_range": Schedule("constant", start=0.2, warmup=3)},
            "clip_range must be above 0, got 0.0, where the warmup of its schedule starts",
        ),
        ({"gamma": lambda u: 2.0 * (u == 4)}, "gamma must be .* got 2.0 for update 4 of its sched"),
        ({"gamma": lambda u: 2 * (u == 8)}, "gamma must be .* got 2 for update 8 of its schedule"),
        ({"gamma": lambda u: jnp.ones(2)}, "a schedule of gamma must return one number, got Array"),
        ({"gamma": Schedule(start=jnp.asarray([0.5, 2.0]))}, "gamma must be .* got 2.0 as the sta"),
        ({"learning_rate": Schedule(start=1.0, warmup=-1)}, "warmup of the schedule of learning_r"),
        ({"learning_rate": Schedule(start=1.0, warmup=1.5)}, "0 or more, got 1.5"),
    ):
        config = dataclasses.replace(CONFIG, **setting)
        with pytest.raises(ValueError, match=message):
            check_config(config, num_updates=N)
    check_config(dataclasses.replace(CONFIG, clip_range=Schedule("constant", start=0.2)))


def test_a_wrong_schedule_is_refused_before_training():
    config = dataclasses.replace(SCHEDULES, gamma=lambda update: 0.9 + update)
    with pytest.raises(ValueError, match="gamma must be .* got .* for update 1 of its schedule"):
        train(config)


def test_a_setting_without_schedules_takes_none():
    config = eqx.tree_at(lambda c: c.gae_lambda, CONFIG, Schedule(start=0.5))
    with pytest.raises(ValueError, match="gae_lambda must be a number, got Schedule"):
        check_config(config)


def test_the_settings_are_shown_in_full():
    shown = repr(eqx.tree_at(lambda c: c.gamma, SCHEDULES, np.array([0.25, 0.5])))
    for field in dataclasses.fields(PPOConfig):
        assert f"  {field.name}=" in shown
    assert "gamma=array([0.25, 0.5 ])" in shown and "num_steps=4," in shown
    assert "learning_rate=Schedule(start=0.8, end=0.2)" in shown
    assert PPO(SCHEDULES).config == SCHEDULES
