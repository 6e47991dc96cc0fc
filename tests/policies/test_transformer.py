"""The transformer: cached, unrolled and as a naive float64 loop, with all dropout on."""

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
from rlscan import PPOConfig, TransformerActorCritic
from rlscan._rollout.audit import audit_tolerance
from rlscan._rollout.replay import is_unrolled
from rlscan.policies._transformer import _positions

L, LAYERS, HEADS, SIZE = 5, 2, 2, 8
RATE, ATTENTION_RATE = 0.2, 0.3
# Episodes of up to 12 steps: shorter and longer than the window.
ENV = probes.Wander(limit=12, time_limit=12, end_above=1.0)
CONFIG = PPOConfig(num_envs=N, num_steps=T, num_minibatches=3, learning_rate=0.003)


def make(env: Any = ENV, key: Any = None, **settings: Any) -> Any:
    sizes = {
        "context_length": L,
        "num_layers": LAYERS,
        "num_heads": HEADS,
        "embed_size": SIZE,
        "dropout": RATE,
        "attention_dropout": ATTENTION_RATE,
    }
    key = rlscan.key(0) if key is None else key
    return lively(TransformerActorCritic(env, key=key, **(sizes | settings)))


# Against a loop in NumPy that recomputes all tokens of an episode, layer by layer.


def linear(layer: Any, x: np.ndarray) -> np.ndarray:
    return x @ np.asarray(layer.weight, np.float64).T + np.asarray(layer.bias, np.float64)


def layer_norm(layer: Any, x: np.ndarray) -> np.ndarray:
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    return x * np.asarray(layer.weight, np.float64) + np.asarray(layer.bias, np.float64)


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def join(gate: Any, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The residual sum, or GTrXL's gate: r, z, then the candidate."""
    if gate is None:
        return x + y
    from_y = np.split(
        np.maximum(y, 0) @ np.asarray(gate.weight_ih, np.float64).T
        + np.asarray(gate.bias, np.float64),
        3,
        axis=-1,
    )
    from_x = np.split(x @ np.asarray(gate.weight_hh, np.float64).T, 3, axis=-1)
    r, z = (sigmoid(a + b) for a, b in zip(from_y[:2], from_x[:2], strict=True))
    h = np.tanh(from_y[2] + r * (from_x[2] + np.asarray(gate.bias_n, np.float64)))
    return (1 - z) * h + z * x


class Masks:
    """The masks of one step, drawn as the policy's layers draw them."""

    def __init__(self, key: Any):
        embedding_key, blocks_key, _ = jax.random.split(key, 3)
        self.embedding = mask(embedding_key, RATE, SIZE)
        self.attention, self.attended, self.mlp = [], [], []
        for block_key in jax.random.split(blocks_key, LAYERS):
            attention_key, rest = jax.random.split(block_key)
            attended_key, mlp_key = jax.random.split(rest)
            self.attention.append(mask(attention_key, ATTENTION_RATE, (HEADS, L)))
            self.attended.append(mask(attended_key, RATE, SIZE))
            self.mlp.append(mask(mlp_key, RATE, SIZE))


def attention_by_hand(layer: Any, x: np.ndarray, rows: list[np.ndarray]) -> np.ndarray:
    """Attention for an episode's tokens `[steps, SIZE]`; `rows` are masks of its weights."""
    shape = len(x), HEADS, SIZE // HEADS
    q, k, v = (linear(f, x).reshape(shape) for f in (layer.query, layer.key, layer.value))
    r = np.asarray(layer.distance, np.float64)
    out = np.zeros(shape)
    for t in range(len(x)):
        window = range(max(0, t - L + 1), t + 1)
        for h in range(HEADS):
            scores = [q[t, h] @ (k[s, h] + r[t - s, h]) / np.sqrt(shape[2]) for s in window]
            weights = np.exp(log_softmax(np.array(scores)))
            for s, weight in zip(window, weights, strict=True):
                out[t, h] += weight * rows[t][h, t - s] * v[s, h]
    return linear(layer.output, out.reshape(len(x), SIZE))


def episode_by_hand(policy: Any, observation: np.ndarray, keys: Any) -> tuple:
    """`(log π [steps, 3], V [steps])` of an episode from its first step."""
    masks = [Masks(key) for key in keys]
    x = linear(policy.embedding, observation) * np.stack([m.embedding for m in masks])
    for i, block in enumerate(policy.blocks):
        gates = block.gates or (None, None)
        rows = [m.attention[i] for m in masks]
        y = attention_by_hand(block.attention, layer_norm(block.attention_norm, x), rows)
        x = join(gates[0], x, y * np.stack([m.attended[i] for m in masks]))
        hidden = linear(block.mlp[0], layer_norm(block.mlp_norm, x))
        hidden = 0.5 * hidden * (1 + np.tanh(np.sqrt(2 / np.pi) * (hidden + 0.044715 * hidden**3)))
        y = linear(block.mlp[1], hidden) * np.stack([m.mlp[i] for m in masks])
        x = join(gates[1], x, y)
    x = layer_norm(policy.norm, x)
    log_policy = np.stack([log_softmax(logits) for logits in linear(policy.actor, x)])
    return log_policy, linear(policy.critic, x)[:, 0]


def by_hand(policy: Any, trajectories: list[Any]) -> tuple[np.ndarray, np.ndarray]:
    """`(log π(a), V)` of consecutive rollouts of `[T, N]` each, concatenated."""
    whole = jax.tree.map(lambda *x: jnp.concatenate(x), *map(flags_and_steps, trajectories))
    observation, action, done, keys = whole
    observation = np.asarray(observation, np.float64)
    log_prob, value = np.zeros(done.shape), np.zeros(done.shape)
    for n in range(done.shape[1]):
        ends = [*(np.flatnonzero(done[:, n]) + 1), len(done)]
        for start, end in zip([0, *ends[:-1]], ends, strict=True):
            if start < end:
                log_policy, value[start:end, n] = episode_by_hand(
                    policy, observation[start:end, n], keys[start:end, n]
                )
                chosen = np.asarray(action[start:end, n])
                log_prob[start:end, n] = log_policy[np.arange(end - start), chosen]
    return log_prob, value


def flags_and_steps(t: Any) -> tuple:
    return t.observation, t.action, t.terminated | t.truncated, t.policy_key


@pytest.mark.slow
@pytest.mark.parametrize("gated", [False, True])
def test_cached_and_unrolled_are_a_naive_loop(gated):
    """Across resets, sliding windows and the border of two rollouts, with all dropout on."""
    policy = make(gated=gated)
    rolled = roll(policy, ENV)
    trajectories = [t for _, _, t in rolled]
    second = trajectories[1]
    done = np.concatenate([np.asarray(t.terminated | t.truncated) for t in trajectories])
    assert done[T:].any() and (rolled[1][0].policy_state.num_steps > 0).any()
    assert max(int(t.episode_length.max()) for t in trajectories) > L + 1
    log_prob, value = by_hand(policy, trajectories)
    assert np.abs(log_prob).max() > 1  # so an error would be visible
    acted = np.concatenate([t.log_prob for t in trajectories])
    np.testing.assert_allclose(acted, log_prob, atol=2e-5)
    np.testing.assert_allclose(np.concatenate([t.value for t in trajectories]), value, atol=2e-5)
    replayed = jit_replay(policy, second)
    np.testing.assert_allclose(replayed[0], log_prob[T:], atol=2e-5)
    np.testing.assert_allclose(replayed[2], value[T:], atol=2e-5)


# Replay.


def test_the_ratio_is_1():
    """The replay differs with other resets, caches or keys."""
    policy = make()
    _, (_, _, trajectory) = roll(policy, ENV)
    assert trajectory.truncated.any()
    assert error(policy, trajectory, trajectory) <= 1e-5
    for defect, planted in sequences.planted_defects(trajectory).items():
        assert error(policy, planted, trajectory) > 0.01, defect


@pytest.mark.slow
@pytest.mark.exhaustive
def test_unrolled_is_step_by_step():
    sequences.assert_unrolled(make(gated=True), ENV, atol=2e-5, gradient_tolerance=1e-3)


@pytest.mark.slow
@pytest.mark.exhaustive
def test_normalised_observations_are_unrolled_too():
    """The wrapper unrolls if the inner policy does; checked after the statistics have changed."""
    policy = rlscan.policies.NormalizedObservations(make(), ENV)
    (_, _, first), *_ = roll(policy, ENV)
    policy = rlscan.move_statistics(policy, first)
    _, (_, _, trajectory) = roll(policy, ENV)
    program = str(eqx.filter_make_jaxpr(rlscan.replay)(policy, trajectory)[0])
    assert is_unrolled(policy) and " scan[" not in program
    assert error(policy, trajectory, trajectory) <= 1e-5
    assert error(make(), trajectory, trajectory) > 0.01
    assert not is_unrolled(rlscan.policies.NormalizedObservations(probes.Recurrent(), ENV))


@pytest.mark.slow
def test_rollouts_chain():
    """Two rollouts of T steps equal one of 2T, because the cache continues."""
    policy = make()
    (_, _, one), (_, after, two) = roll(policy, ENV)
    ((_, end, whole),) = roll(policy, ENV, 1, 2 * T)
    for name in ("log_prob", "value", "action"):
        halves = np.concatenate([getattr(one, name), getattr(two, name)])
        np.testing.assert_allclose(getattr(whole, name), halves, atol=1e-6)
    for x, y in zip(*(jax.tree.leaves(s.policy_state) for s in (after, end)), strict=True):
        np.testing.assert_allclose(x, y, atol=1e-6)


@pytest.mark.exhaustive
@pytest.mark.slow
@pytest.mark.parametrize("settings", [{}, {"gated": True}], ids=["", "gated"])
def test_the_ratio_is_1_late_in_training(settings):
    policy = make(**settings)
    key = rlscan.key(1)
    updates = rlscan.train(policy, ENV, CONFIG, total_steps=10 * N * T, key=key, strict=True)
    metrics = [metrics for _, metrics in updates]
    assert max(m["audit_error"] for m in metrics) <= audit_tolerance(policy, ENV) == 1e-4
    assert max(m["approx_kl"] for m in metrics) > 1e-3  # the policy has changed


@pytest.mark.slow
@pytest.mark.exhaustive
def test_vmapped_seeds_are_single_runs():
    def run(key):
        policy_key, train_key = jax.random.split(key)
        policy = make(key=policy_key)
        state, _ = rlscan.ppo.train_scan(policy, ENV, CONFIG, total_steps=N * T, key=train_key)
        return eqx.filter(state.policy, eqx.is_inexact_array)

    keys = jax.random.split(rlscan.key(5), 2)
    together = eqx.filter_jit(eqx.filter_vmap(run))(keys)
    for i in range(2):
        alone = eqx.filter_jit(run)(keys[i])
        for one, both in zip(jax.tree.leaves(alone), jax.tree.leaves(together), strict=True):
            # Adam's first steps have the same length for gradients that are only rounding errors.
            np.testing.assert_allclose(one, both[i], atol=1e-5)


# The window.


@eqx.filter_jit
def unroll(policy, observation, state, done):
    keys = jax.random.split(rlscan.key(3), len(done))
    return policy.unroll(observation, state, done, key=keys)


def reach(policy: Any, done: Any, at: int) -> np.ndarray:
    """The steps whose outputs depend on the observation of step `at`."""
    observation = jax.random.normal(rlscan.key(2), (len(done), 4))
    other = observation.at[at].add(1.0)
    features = [unroll(policy, x, policy.initial_state(), done) for x in (observation, other)]
    return np.flatnonzero(np.abs(features[0] - features[1]).max(axis=1) > 0)


@pytest.mark.slow
def test_the_window_slides_and_ends_with_the_episode():
    done = jnp.zeros(24, bool)
    one, two = (make(num_layers=n, dropout=0.0, attention_dropout=0.0) for n in (1, 2))
    np.testing.assert_array_equal(reach(one, done, 3), np.arange(3, 3 + L))
    np.testing.assert_array_equal(reach(two, done, 3), np.arange(3, 3 + 2 * (L - 1) + 1))
    np.testing.assert_array_equal(reach(two, done.at[5].set(True), 3), [3, 4, 5])
    np.testing.assert_array_equal(reach(make(context_length=1), done, 3), [3])


@pytest.mark.parametrize("num_steps", [0, 3, 7])
def test_positions(num_steps):
    done = jnp.asarray([0, 0, 1, 0, 1, 1, 0, 0], bool)
    position, expected = num_steps, []
    for ended in done:
        expected.append(position)
        position = 0 if ended else position + 1
    np.testing.assert_array_equal(_positions(jnp.asarray(num_steps), done), expected)


@pytest.mark.slow
def test_no_step_is_too_late():
    """The output does not depend on the position in the episode once the window is full."""
    policy = make()
    state = policy.initial_state()
    keys = jax.random.split(rlscan.key(4), L + 3)
    call = eqx.filter_jit(lambda x, state, key: policy(x, state, key=key)[1:])
    for i, key in enumerate(keys):
        _, state = call(jnp.full(4, float(i)), state, key)
    late = dataclasses.replace(state, num_steps=state.num_steps + 1_000_000 * L)
    one, other = (call(jnp.ones(4), s, rlscan.key(7))[0] for s in (state, late))
    assert one == other


# Noise and initialisation.


def says(policy: Any, key: Any) -> Any:
    state = policy.initial_state()
    _, _, state = policy(jnp.zeros(4), state, key=rlscan.key(0))
    distribution, value, _ = policy(jnp.arange(4.0), state, key=key)
    return np.append(distribution.logits, value)


@pytest.mark.slow
@pytest.mark.parametrize("rates", [(0.5, 0.0), (0.0, 0.5)], ids=["dropout", "attention"])
def test_each_dropout_is_on_and_goes_off(rates):
    policy = make(dropout=rates[0], attention_dropout=rates[1])
    one, other = (says(policy, rlscan.key(i)) for i in (1, 2))
    assert not np.allclose(one, other)
    quiet = eqx.nn.inference_mode(policy)
    np.testing.assert_array_equal(says(quiet, rlscan.key(1)), says(quiet, rlscan.key(2)))


@pytest.fixture(scope="module")
def gated() -> Any:
    return make(gated=True, embed_size=64, dropout=0.0)


def test_layers_see_as_much_of_few_numbers_as_of_many(gated):
    """Inputs of variance 1 give each unit of the embedding and of a block a variance of 1/3."""
    arrays = jax.tree.leaves(eqx.filter((gated.embedding, gated.blocks), eqx.is_array))
    weights = [np.asarray(x) for x in arrays if x.ndim == 2]
    assert {weight.shape[1] for weight in weights} == {4, 64, 256}
    for weight in weights:
        np.testing.assert_allclose(np.square(weight).sum(axis=1).mean(), 1 / 3, rtol=0.2)


@pytest.mark.slow
def test_gates_start_near_the_identity(gated):
    """Each gate passes σ(2) = 0.88 of the stream, whatever the sublayer's output."""
    gate = gated.blocks[0].gates[0]
    x, y = jax.random.normal(rlscan.key(1), (2, 1000, 64))
    out = jax.vmap(gate)(jax.nn.relu(y), x)
    slope = (out * x).sum() / (x * x).sum()
    assert 0.8 < slope < 0.95
    opened = eqx.tree_at(lambda g: g.bias, gate, jnp.zeros_like(gate.bias))
    assert (jax.vmap(opened)(jax.nn.relu(y), x) * x).sum() / (x * x).sum() < 0.65


def test_the_size_of_the_state():
    """The caches take 32 KiB by default, as documented."""
    state = TransformerActorCritic(ENV, key=rlscan.key(0)).initial_state()
    assert sum(x.nbytes for x in jax.tree.leaves(state.caches)) == 2 * 2 * 32 * 64 * 4 == 32 * 1024


def test_a_schedule_of_the_rate_is_followed():
    policy = make(dropout=lambda count: 0.5 - 0.1 * count)
    later = rlscan.nn.anneal(policy, 4)
    rates = [layer.p for layer in (later.dropout, *(block.dropout for block in later.blocks))]
    np.testing.assert_allclose(rates, 0.1, atol=1e-6)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"context_length": 0}, "context_length must be a positive integer, got 0"),
        ({"num_layers": -1}, "num_layers must be a positive integer"),
        (
            {"embed_size": 9},
            "embed_size = 9 is not divisible by num_heads = 2; use embed_size = 10",
        ),
        (
            {"attention_dropout": 1.0},
            r"attention_dropout must be in \[0, 1\), got 1.0; 0 switches it off",
        ),
        ({"dropout": -0.1}, "dropout must be in"),
    ],
)
def test_refusals(settings, message):
    with pytest.raises(ValueError, match=message):
        make(**settings)
