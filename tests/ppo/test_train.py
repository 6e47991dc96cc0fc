"""`train`: one key or several, a policy or a function that makes one, a state to go on from."""

import operator
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import probes
import pytest

import rlscan

ENV = probes.Wander()
CONFIG = rlscan.ppo.PPOConfig(num_envs=2, num_steps=8, num_minibatches=2, num_epochs=2)
STEPS = 16  # of an update
make = partial(rlscan.policies.ActorCritic, ENV, hidden_sizes=(8,), dropout=0.5)
train = partial(rlscan.train, env=ENV, config=CONFIG, total_steps=6 * STEPS)


def rows_of(training) -> list[dict]:
    return [metrics for _, metrics in training]


def assert_same(ours, theirs) -> None:
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            np.testing.assert_array_equal(one[name], other[name], err_msg=name)


@pytest.fixture(scope="module")
def whole() -> tuple[list[dict], rlscan.ppo.TrainState]:
    training = train(make, key=rlscan.key(0))
    return rows_of(training), training.state


@pytest.mark.slow
def test_a_function_that_makes_the_policy_is_called_with_a_part_of_the_key(whole):
    policy_key, train_key = jax.random.split(rlscan.key(0))
    training = train(make(key=policy_key), key=train_key)
    assert_same(rows_of(training), whole[0])
    assert eqx.tree_equal(training.state, whole[1])


@pytest.mark.parametrize("settings", [{"updates_per_call": 1}, {"updates_per_call": 4}, {}])
def test_the_pace_changes_no_bit(settings: dict, whole):
    training = train(make, key=rlscan.key(0), **settings)
    assert_same(rows_of(training), whole[0])
    assert eqx.tree_equal(training.state, whole[1])


@pytest.mark.slow
def test_a_run_goes_on_from_a_state(whole):
    first = train(make, key=rlscan.key(0), updates_per_call=1)
    rows = [metrics for _, (_, metrics) in zip(range(2), first, strict=False)]
    assert int(first.state.num_updates) == 2
    second = train(None, state=first.state)
    assert_same([*rows, *rows_of(second)], whole[0])
    assert eqx.tree_equal(second.state, whole[1])
    assert rows_of(train(None, state=second.state)) == []  # all of its updates are made


@pytest.mark.slow
def test_a_state_is_exact_at_its_interval():
    training = train(make, key=rlscan.key(0), state_interval=4)
    made = [int(state.num_updates) for state, _ in training]
    assert made[3] == 4 and made[5] == 6 and all(n <= 4 for n in made[:4])


@pytest.mark.slow
def test_a_training_knows_how_many_updates_are_left():
    training = train(make, key=rlscan.key(0), updates_per_call=4)
    assert operator.length_hint(training) == 6
    next(training)
    assert operator.length_hint(training) == 5  # handed over, not only made
    assert training.num_updates == 6 and training.compile() > 0


@pytest.mark.slow
def test_keys_train_several_runs_each_as_if_alone():
    keys = jax.random.split(rlscan.key(7), 3)
    several = train(make, key=keys)
    rows = rows_of(several)
    assert all(x.shape == (3,) for row in rows for x in row.values())
    assert several.state.num_updates.tolist() == [6, 6, 6]
    for i in range(3):
        for one, row in zip(rows_of(train(make, key=keys[i])), rows, strict=True):
            np.testing.assert_allclose(row["loss"][i], one["loss"], rtol=2e-3, atol=1e-4)
    # An own policy each, and stacked ones do as well.
    split = jax.vmap(jax.random.split)(keys)
    policies = eqx.filter_vmap(lambda key: make(key=key))(split[:, 0])
    assert_same(rows_of(train(policies, key=split[:, 1])), rows)


@pytest.mark.exhaustive
@pytest.mark.slow
def test_several_runs_go_on_from_a_state():
    keys = jax.random.split(rlscan.key(7), 2)
    rows = rows_of(train(make, key=keys))
    first = rlscan.train(make, ENV, CONFIG, total_steps=6 * STEPS, key=keys, updates_per_call=3)
    for _ in range(3):
        next(first)
    assert_same(rows_of(train(None, state=first.state)), rows[3:])


@pytest.mark.exhaustive
@pytest.mark.slow
def test_numbers_may_differ_between_runs():
    keys = jnp.stack([rlscan.key(7)] * 2)
    config = eqx.tree_at(lambda c: c.learning_rate, CONFIG, jnp.asarray([0.0, 1e-2]))
    rows = rows_of(train(make, config=config, key=keys))
    assert all(row["learning_rate"][0] == 0 for row in rows)
    assert rows[0]["loss"][0] == rows[0]["loss"][0] and rows[-1]["approx_kl"][0] == 0
    assert rows[-1]["approx_kl"][1] > 0


@pytest.mark.exhaustive
@pytest.mark.slow
def test_runs_are_split_over_devices():
    keys = jax.random.split(rlscan.key(7), 4)
    alone = rows_of(train(make, key=keys))
    split = rows_of(train(make, key=keys, mesh=rlscan.make_mesh(2)))
    for one, other in zip(alone, split, strict=True):
        np.testing.assert_allclose(one["loss"], other["loss"], rtol=2e-3, atol=1e-4)


@pytest.mark.exhaustive
@pytest.mark.slow
def test_a_run_that_diverged_leaves_the_others_and_all_together_end():
    keys = jax.random.split(rlscan.key(7), 2)
    rates = jnp.asarray([1e-2, 1e30])
    config = eqx.tree_at(lambda c: c.learning_rate, CONFIG, rates)
    rows = rows_of(train(make, config=config, key=keys))
    assert len(rows) == 6 and rows[-1]["diverged"].tolist() == [0, 1]
    config = eqx.tree_at(lambda c: c.learning_rate, CONFIG, jnp.full(2, 1e30))
    rows = rows_of(train(make, config=config, key=keys, updates_per_call=1))
    assert 0 < len(rows) < 6 and rows[-1]["diverged"].tolist() == [1, 1]
    assert all(row["diverged"].min() == 0 for row in rows[:-1])
    with pytest.raises(rlscan.ppo.DivergenceError, match="the loss is inf") as error:
        rows_of(train(make, config=config, key=keys, debug=True))
    assert error.value.runs == [0, 1]


@pytest.mark.exhaustive
@pytest.mark.slow
def test_the_failing_update_is_handed_over_and_its_run_is_named(monkeypatch):
    def fresh(policy, minibatch, config):
        clean = eqx.nn.inference_mode(policy)
        loss, (log_ratio, metrics) = rlscan.ppo.ppo_loss(clean, minibatch, config)
        return loss, (log_ratio, metrics)

    training = train(make, key=jax.random.split(rlscan.key(7), 2), loss=fresh, strict=True)
    _, metrics = next(training)
    assert (metrics["audit_error"] > 1e-3).all()
    with pytest.raises(rlscan.AuditError, match="update 1: .* dropout was on in one") as error:
        next(training)
    assert error.value.run == 0


@pytest.mark.parametrize(
    "settings, message",
    [
        ({}, "train needs a key to start with, such as key=rlscan.key"),
        ({"key": rlscan.key(0), "updates_per_call": 0}, "updates_per_call must be a positive int"),
        ({"key": rlscan.key(0), "state_interval": -1}, "state_interval must be a positive integer"),
    ],
)
def test_invalid_settings_are_refused_at_once(settings: dict, message: str):
    with pytest.raises(ValueError, match=message):
        train(make, **settings)


@pytest.mark.slow
def test_a_policy_without_an_axis_of_runs_is_refused():
    policy, keys = make(key=rlscan.key(0)), jax.random.split(rlscan.key(7), 2)
    with pytest.raises(ValueError, match=r"for 2 keys every array .* of 2 runs, got policy\..*"):
        train(policy, key=keys)
    config = eqx.tree_at(lambda c: c.gamma, CONFIG, jnp.full(3, 0.9))
    with pytest.raises(ValueError, match=r"config.gamma must be a number, or one for .* \[2\]"):
        train(make, config=config, key=keys)
