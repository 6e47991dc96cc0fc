"""GRU and LSTM policies against a float64 loop, across resets."""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import probes
import pytest
import sequences
from sequences import N, T, error, jit_replay, lively, log_softmax, mask, roll

import rlscan
from rlscan import PPOConfig, RecurrentActorCritic
from rlscan.policies._recurrent import _cell_weights, check_recurrent_settings
from rlscan.ppo._update import collect

RATE = 0.25
HIDDEN = 6
ENV = probes.Wander(limit=5, time_limit=5)
CONFIG = PPOConfig(num_envs=N, num_steps=T, num_minibatches=1, gamma=0.9, gae_lambda=0.8)
SETTINGS: dict[str, dict[str, Any]] = {
    "gru": {"dropout": RATE},
    "lstm": {"cell": "lstm", "dropout": RATE},
    "noise everywhere": {"dropout": RATE, "critic_dropout": RATE, "recurrent_dropout": 0.5},
    "lstm, noise everywhere": {
        "cell": "lstm",
        "dropout": RATE,
        "critic_dropout": RATE,
        "recurrent_dropout": 0.5,
    },
}


def slow(name: str) -> Any:
    return pytest.param(name, marks=pytest.mark.slow)


def make(name: str = "gru", env: Any = ENV, **settings: Any) -> Any:
    sizes = {"hidden_size": HIDDEN, "hidden_sizes": (5,)}
    return lively(
        RecurrentActorCritic(env, key=rlscan.key(0), **(sizes | SETTINGS[name] | settings))
    )


# Against a loop in NumPy.


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def cell_by_hand(cell: Any, x: np.ndarray, state: tuple) -> tuple:
    """`(h,)` of a GRU, `(h, c)` of an LSTM, by the equations of Cho et al. and Hochreiter."""
    from_x, from_h = cell["weight_ih"] @ x, cell["weight_hh"] @ state[0]
    if len(state) == 1:
        (h,) = state
        r, z, n = np.split(from_x + cell["bias"], 3)
        from_r, from_z, from_n = np.split(from_h, 3)
        r, z = sigmoid(r + from_r), sigmoid(z + from_z)
        return ((1 - z) * np.tanh(n + r * (from_n + cell["bias_n"])) + z * h,)
    i, f, g, o = np.split(from_x + from_h + cell["bias"], 4)
    c = sigmoid(f) * state[1] + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(c), c


def parameters(policy: Any) -> dict[str, Any]:
    """An MLP in float64."""
    wide = lambda x: np.asarray(x, np.float64)  # noqa: E731
    names = [n for n in ("weight_ih", "weight_hh", "bias", "bias_n") if hasattr(policy.cell, n)]
    layers = lambda mlp: [(wide(x.weight), wide(x.bias)) for x in mlp.layers]  # noqa: E731
    return {
        "cell": {n: wide(getattr(policy.cell, n)) for n in names},
        "actor": layers(policy.actor),
        "critic": layers(policy.critic),
    }


def step_by_hand(params: Any, x: Any, state: tuple, masks: Any) -> tuple:
    """`(log π of each action, V, state)`."""
    state = cell_by_hand(params["cell"], x, state)
    outputs = []
    for name, (at_h, at_hidden) in zip(("actor", "critic"), masks, strict=True):
        (w, b), (last_w, last_b) = params[name]
        outputs.append(last_w @ (np.tanh(w @ (state[0] * at_h) + b) * at_hidden) + last_b)
    return log_softmax(outputs[0]), outputs[1][0], state


def masks_by_hand(key: Any) -> Any:
    """The actor's masks, after the core and after its hidden layer; the critic has none."""
    _, actor_key, _, _ = jax.random.split(key, 4)
    at_h, rest = jax.random.split(actor_key)
    at_hidden, _ = jax.random.split(rest)
    return (mask(at_h, RATE, HIDDEN), mask(at_hidden, RATE, 5)), (1.0, 1.0)


class Told:
    """The outputs of a policy for T steps of N environments in NumPy, `[T, N]`."""

    def __init__(self, params: Any, rolled: Any, final: np.ndarray, masks: Any):
        before, _, t = rolled
        observation, action = (np.asarray(x, np.float64) for x in (t.observation, t.action))
        first = [np.asarray(x, np.float64) for x in jax.tree.leaves(before.policy_state)]
        shape = action.shape
        self.log_prob, self.value, self.entropy = np.zeros(shape), np.zeros(shape), np.zeros(shape)
        self.following = np.zeros(shape)
        for n in range(shape[1]):
            state = tuple(x[n] for x in first)
            for i in range(shape[0]):
                say = step_by_hand(params, observation[i, n], state, masks[i][n])
                log_policy, self.value[i, n], state = say
                self.log_prob[i, n] = log_policy[int(action[i, n])]
                self.entropy[i, n] = -(np.exp(log_policy) * log_policy).sum()
                if i > 0:
                    self.following[i - 1, n] = np.where(
                        t.truncated[i - 1, n], self.following[i - 1, n], self.value[i, n]
                    )
                # V of the final observation, from the state after the step.
                self.following[i, n] = step_by_hand(params, final[i, n], state, masks[i][n])[1]
                if t.terminated[i, n] or t.truncated[i, n]:
                    state = tuple(np.zeros_like(x) for x in state)


def gae_by_hand(t: Any, value: np.ndarray, following: np.ndarray) -> np.ndarray:
    advantage = np.zeros(value.shape)
    for n in range(value.shape[1]):
        trace = 0.0
        for i in reversed(range(value.shape[0])):
            ended = bool(t.terminated[i, n] or t.truncated[i, n])
            bootstrap = 0.0 if t.terminated[i, n] else following[i, n]
            delta = float(t.reward[i, n]) + 0.9 * bootstrap - value[i, n]
            trace = delta + (0.0 if ended else 0.9 * 0.8 * trace)
            advantage[i, n] = trace
    return advantage


def loss_by_hand(told: Told, old_log_prob: Any, advantage: np.ndarray, target: np.ndarray) -> float:
    ratio = np.exp(told.log_prob - np.asarray(old_log_prob, np.float64))
    a = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
    surrogate = np.minimum(ratio * a, np.clip(ratio, 0.8, 1.2) * a).mean()
    return -surrogate + 0.5 * ((told.value - target) ** 2 / 2).mean() - 0.01 * told.entropy.mean()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gru", "lstm"])
def test_against_a_float64_loop_by_hand(name):
    """Compare log-probabilities, values, advantages and the gradient of PPO's loss.

    They are those of the second of two rollouts, which starts in the middle of episodes.
    """
    policy = make(name)
    _, rolled = roll(policy, ENV)
    before, _, t = rolled
    assert any(np.abs(x).max() > 0.1 for x in jax.tree.leaves(before.policy_state))
    assert t.truncated.any() and (t.terminated & ~t.truncated).any()

    final = sequences.seen_last(ENV, before, t)
    masks = [[masks_by_hand(key) for key in keys] for keys in t.policy_key]
    params = parameters(policy)
    told = Told(params, rolled, final, masks)
    log_prob, entropy, value = jit_replay(policy, t)
    for got in (log_prob, t.log_prob):
        np.testing.assert_allclose(got, told.log_prob, atol=1e-5)
    for got in (value, t.value):
        np.testing.assert_allclose(got, told.value, atol=1e-5)
    np.testing.assert_allclose(entropy, told.entropy, atol=1e-5)

    state = dataclasses.replace(
        rlscan.ppo.init_train(policy, ENV, CONFIG, key=rlscan.key(0)), rollout_state=before
    )
    _, after, batch, *_ = eqx.filter_jit(collect)(state, ENV, CONFIG)
    # The value after the last step uses the key of the next rollout's first step. The critic has no
    # noise, but the observation is the one after the reset if an episode ended.
    advantage = gae_by_hand(t, told.value, told.following)
    np.testing.assert_allclose(batch.advantage, advantage, atol=1e-4)
    np.testing.assert_array_equal(after.observation, rolled[1].observation)

    moved = nudged(policy)  # so that the ratio is not 1, and some of it is clipped
    slopes = eqx.filter_jit(jax.grad(ppo_loss_of, argnums=0))(
        *eqx.partition(moved, eqx.is_inexact_array), batch
    )
    gradient, params = parameters(slopes), parameters(moved)
    rng, h = np.random.default_rng(0), 1e-5
    for group in ("cell", "actor", "critic"):
        direction = jax.tree.map(lambda x: rng.normal(size=x.shape), params[group])

        def at(distance, group=group, direction=direction):
            there = along(params[group], direction, distance)
            told = Told(params | {group: there}, rolled, final, masks)
            target = advantage + np.asarray(batch.value, np.float64)
            return loss_by_hand(told, t.log_prob, advantage, target)

        pairs = zip(jax.tree.leaves(gradient[group]), jax.tree.leaves(direction), strict=True)
        slope = sum(float((g * d).sum()) for g, d in pairs)
        assert abs(slope) > 1e-3, group
        assert slope == pytest.approx((at(h) - at(-h)) / (2 * h), rel=2e-3, abs=1e-5), group


def along(start: Any, direction: Any, distance: float) -> Any:
    return jax.tree.map(lambda x, d: x + distance * d, start, direction)


def ppo_loss_of(params: Any, rest: Any, batch: Any) -> Any:
    return rlscan.ppo.ppo_loss(eqx.combine(params, rest), batch, CONFIG)[0]


def nudged(policy: Any) -> Any:
    rng = np.random.default_rng(1)
    nudge = lambda x: x + jnp.asarray(0.05 * rng.normal(size=x.shape), x.dtype)  # noqa: E731
    return jax.tree.map(lambda x: nudge(x) if eqx.is_inexact_array(x) else x, policy)


# Replay.


@pytest.mark.parametrize(
    "name", ["noise everywhere", slow("gru"), slow("lstm"), slow("lstm, noise everywhere")]
)
def test_the_ratio_is_1(name):
    """The replay differs with other resets, states or keys."""
    policy = make(name)
    _, (_, _, trajectory) = roll(policy, ENV)
    assert error(policy, trajectory, trajectory) <= 1e-5
    np.testing.assert_allclose(jit_replay(policy, trajectory)[2], trajectory.value, atol=1e-5)
    for defect, planted in sequences.planted_defects(trajectory).items():
        assert error(policy, planted, trajectory) > 0.01, defect


@pytest.mark.slow
@pytest.mark.parametrize("name", ["noise everywhere", slow("lstm")])
def test_unrolled_is_step_by_step(name):
    sequences.assert_unrolled(make(name), ENV, atol=1e-5, gradient_tolerance=1e-4)


@pytest.mark.slow
def test_the_ratio_is_1_late_in_training():
    policy = make("noise everywhere")
    config = dataclasses.replace(CONFIG, num_minibatches=3, learning_rate=0.01)
    updates = list(
        rlscan.train(policy, ENV, config, total_steps=12 * N * T, key=rlscan.key(1), strict=True)
    )
    metrics = [metrics for _, metrics in updates]
    assert max(m["audit_log_ratio"] for m in metrics) <= 1e-5
    assert max(m["approx_kl"] for m in metrics) > 1e-3  # the policy has changed


@pytest.mark.slow
def test_minibatches_of_environments_only():
    with pytest.raises(ValueError, match=r"num_envs \(the policy is recurrent\) = 3 is not div"):
        config = dataclasses.replace(CONFIG, num_minibatches=2)
        rlscan.ppo.init_train(make(), ENV, config, key=rlscan.key(0))
    _, (_, _, trajectory) = roll(make(), ENV)
    flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), trajectory)
    with pytest.raises(ValueError, match="take minibatches over environments"):
        rlscan.replay(make(), flat)


@pytest.mark.slow
@pytest.mark.exhaustive
def test_vmapped_seeds_are_single_runs():
    config = dataclasses.replace(CONFIG, num_minibatches=3)

    def run(key):
        policy_key, train_key = jax.random.split(key)
        policy = RecurrentActorCritic(ENV, hidden_size=4, dropout=RATE, key=policy_key)
        state, _ = rlscan.ppo.train_scan(policy, ENV, config, total_steps=N * T, key=train_key)
        return eqx.filter(state.policy, eqx.is_inexact_array)

    keys = jax.random.split(rlscan.key(5), 2)
    together = eqx.filter_jit(eqx.filter_vmap(run))(keys)
    for i in range(2):
        alone = eqx.filter_jit(run)(keys[i])
        for one, both in zip(jax.tree.leaves(alone), jax.tree.leaves(together), strict=True):
            np.testing.assert_allclose(one, both[i], atol=1e-6)


# Noise.


def says(policy: Any, key: Any, state: Any = None) -> Any:
    """`(logits, value, state)` of one observation."""
    state = policy.initial_state() if state is None else state
    distribution, value, state = policy(jnp.arange(4.0), state, key=key)
    return distribution.logits, value, state


@pytest.mark.slow
def test_the_actor_is_noisy_and_the_value_and_the_memory_are_not():
    policy = make("lstm")
    one, other = (says(policy, rlscan.key(i)) for i in range(2))
    assert not np.allclose(one[0], other[0])
    assert one[1] == other[1]
    for x, y in zip(one[2], other[2], strict=True):
        np.testing.assert_array_equal(x, y)
    noisy = make("lstm", critic_dropout=0.5)
    assert says(noisy, rlscan.key(0))[1] != says(noisy, rlscan.key(1))[1]


def test_recurrent_dropout_is_one_mask_for_an_episode():
    policy = make("gru", dropout=0.0, recurrent_dropout=0.5)
    state = says(policy, rlscan.key(0))[2]
    one, other = (says(policy, rlscan.key(i), state) for i in (1, 2))
    np.testing.assert_array_equal(one[0], other[0])  # drawn at the first step
    np.testing.assert_array_equal(one[2].hidden_mask, state.hidden_mask)
    assert 0 < state.hidden_mask.sum() < HIDDEN
    first = eqx.tree_at(lambda p: p.cell.hidden_dropout, policy, 0.0)
    assert not np.allclose(says(first, rlscan.key(1), state)[0], one[0])


def test_without_noise_in_inference_mode():
    policy = eqx.nn.inference_mode(make("noise everywhere"))
    one, other = (says(policy, rlscan.key(i)) for i in range(2))
    np.testing.assert_array_equal(one[0], other[0])


# Initialisation, spaces and invalid input.


@pytest.mark.parametrize("num_gates, num_inputs, num_units", [(3, 2, 64), (4, 40, 16)])
def test_units_see_as_much_of_few_numbers_as_of_many(num_gates, num_inputs, num_units):
    """Inputs of variance 1 give each gate's pre-activations the variance 1, and h does as well."""
    weights = _cell_weights(num_gates, num_inputs, num_units, rlscan.key(0))
    for weight in map(np.asarray, weights):
        of_units = np.square(weight).sum(axis=1).reshape(num_gates, num_units)
        np.testing.assert_allclose(of_units.mean(axis=1), 1.0, rtol=1e-5)
        if weight.shape[1] >= num_units:  # else rows cannot all be orthogonal, and they differ
            np.testing.assert_allclose(of_units, 1.0, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name, num_gates", [("gru", 3), ("lstm", 4)])
def test_gates_are_orthogonal(name, num_gates):
    cell: Any = RecurrentActorCritic(ENV, cell=name, hidden_size=8, key=rlscan.key(0)).cell
    for gate in np.split(np.asarray(cell.weight_hh), num_gates):
        np.testing.assert_allclose(gate @ gate.T, np.eye(8), atol=1e-5)
    for gate in np.split(np.asarray(cell.weight_ih), num_gates):
        np.testing.assert_allclose(gate.T @ gate, 8 / 4 * np.eye(4), atol=1e-5)
    biases = np.split(np.asarray(cell.bias), num_gates)
    for i, bias in enumerate(biases):
        np.testing.assert_array_equal(bias, float(name == "lstm" and i == 1))


def test_state_is_that_of_the_cell():
    assert make("gru").initial_state().shape == (HIDDEN,)
    h, c = make("lstm").initial_state()
    assert h.shape == c.shape == (HIDDEN,)


@pytest.mark.slow
def test_actions_in_a_box():
    env = probes.Wander(is_continuous=True)
    policy = RecurrentActorCritic(env, dropout=RATE, key=rlscan.key(0))
    _, (_, _, trajectory) = roll(policy, env)
    assert trajectory.action.shape == (T, N, 2)
    assert error(policy, trajectory, trajectory) <= 1e-4


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"hidden_size": 0}, "hidden_size must be a positive integer, got 0"),
        ({"hidden_sizes": (8, -1)}, "hidden_sizes must be positive integers"),
        (
            {"recurrent_dropout": 1.0},
            r"recurrent_dropout must be in \[0, 1\), got 1.0; 0 switches it off",
        ),
        ({"dropout": 1.5}, "dropout must be in"),
        ({"activation": "tahn"}, "activation must be a function"),
    ],
)
def test_refusals(settings, message):
    with pytest.raises(ValueError, match=message):
        RecurrentActorCritic(ENV, key=rlscan.key(0), **settings)


def test_another_cell_is_refused():
    with pytest.raises(ValueError, match="cell must be one of gru, lstm, got 'rnn'"):
        check_recurrent_settings("rnn", 8, 0.0)


# Learning.


@pytest.mark.slow
@pytest.mark.exhaustive
def test_only_memory_solves_a_task_that_asks_for_it():
    """V = 1 of `probes.memory` with a GRU; 0 without a state."""
    config = PPOConfig(num_envs=16, num_steps=32, learning_rate=3e-3)

    def last_return(make_policy):
        policy = make_policy(probes.memory, key=rlscan.key(0))
        run = eqx.filter_jit(rlscan.ppo.train_scan)
        _, metrics = run(policy, probes.memory, config, total_steps=60_000, key=rlscan.key(1))
        return metrics["episode_return"][-10:].mean()

    assert last_return(RecurrentActorCritic) > 0.95
    assert abs(last_return(rlscan.policies.ActorCritic)) < 0.1
