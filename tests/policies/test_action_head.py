"""Action heads for every kind of space: in rollouts, replay and evaluation, and on their own."""

import math
from typing import Any

import equinox as eqx
import gymnasium.spaces as gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnax.environments import spaces as gymnax
from probes import finish

import rlscan
from rlscan import ActionHead
from rlscan._core.spaces import legal_action, space_leaves
from rlscan.policies._action_head import check_continuous

BOX = gymnasium.Box(np.asarray([-2, 1], np.float32), np.asarray([6, 1.5], np.float32))
SPACES: dict[str, Any] = {
    "discrete": gymnasium.Discrete(3, start=-1),
    "multi-discrete": gymnasium.MultiDiscrete([2, 4, 3], start=[0, 0, 5]),
    "tuple of discrete": gymnax.Tuple([gymnax.Discrete(2), gymnax.Discrete(4)]),
    "box": BOX,
    "dict": gymnasium.Dict(
        z=gymnasium.Discrete(2), a=gymnasium.Tuple([BOX, gymnasium.MultiBinary(2)])
    ),
}
CONTINUOUS = [
    {"continuous": "gaussian"},
    {"continuous": "gaussian", "state_dependent_std": True},
    {"continuous": "tanh"},
    {"continuous": "tanh", "state_dependent_std": True},
    {"continuous": "beta"},
]
ALL = [("discrete", CONTINUOUS[0]), ("multi-discrete", CONTINUOUS[0])]
ALL += [("tuple of discrete", CONTINUOUS[0]), *(("box", c) for c in CONTINUOUS)]
ALL += [("dict", CONTINUOUS[2]), ("dict", CONTINUOUS[4])]


def heads(*quick: str) -> Any:
    """Parametrize over all spaces and heads; if some are named, the others are marked slow."""
    found = []
    for name, settings in ALL:
        case = " ".join([name, *map(str, settings.values())])
        marks = () if case in (quick or [case]) else pytest.mark.slow
        found.append(pytest.param(name, settings, id=case, marks=marks))
    return pytest.mark.parametrize("name, settings", found)


def contains(space: Any, action: Any) -> Any:
    """An array that says whether an action is in the space."""
    fits = []
    for path, leaf in space_leaves(space):
        part = action
        for name in path:
            part = part[name]
        low = leaf.low if hasattr(leaf, "low") else jnp.asarray(getattr(leaf, "start", 0))
        size = getattr(leaf, "nvec", 2 if leaf.shape else getattr(leaf, "n", None))
        high = leaf.high if hasattr(leaf, "high") else low + jnp.asarray(size) - 1
        fits.append(((part >= low) & (part <= high)).all() & (jnp.shape(part) == leaf.shape))
    return jnp.stack(fits).all()


class Anything(eqx.Module):
    """An environment with any action space, three observed numbers, and reward 1 for legal actions.

    Episodes are cut after five steps, and end by chance.
    """

    space: Any = eqx.field(static=True)
    time_limit: int = eqx.field(static=True, default=5)

    def reset(self, key: Any) -> Any:
        seen = jax.random.normal(key, (3,))
        return seen, (seen, jnp.zeros((), jnp.int32))

    def step(self, key: Any, state: Any, action: Any) -> Any:
        move_key, reset_key = jax.random.split(key)
        seen, time = state
        push = sum(jnp.sum(leaf) for leaf in jax.tree.leaves(action))
        seen = 0.8 * seen + 0.05 * push + 0.5 * jax.random.normal(move_key, (3,))
        ends = (seen[0] > 1.5, time + 1 == self.time_limit)
        reward = jnp.where(contains(self.space, action), 1.0, -100.0)
        return finish(self, reset_key, seen, (seen, time + 1), reward, ends)

    def observation_space(self) -> Any:
        return gymnax.Box(-9, 9, (3,))

    def action_space(self) -> Any:
        return self.space


def policy_for(env: Any, **settings: Any) -> Any:
    """A policy with outputs far from zero, like those of a trained one."""
    policy = rlscan.policies.ActorCritic(env, hidden_sizes=(16,), key=rlscan.key(0), **settings)
    return eqx.tree_at(lambda p: p.actor.layers[-1].weight, policy, replace_fn=lambda w: 100 * w)


# In a policy: rollout, replay, evaluation, audit.


@pytest.mark.slow
@heads()
def test_the_ratio_begins_at_one_in_every_action_space(name: str, settings: dict) -> None:
    """Replay with dropout, legality of actions, and all kinds of evaluation."""
    env = Anything(SPACES[name])
    policy = policy_for(env, dropout=0.3, **settings)
    state = rlscan.init_rollout(policy, env, num_envs=4, key=rlscan.key(1))
    state, trajectory = eqx.filter_jit(rlscan.rollout)(policy, env, state, 12)
    assert (trajectory.reward == 1).all()  # the action that was sent is in the space
    log_prob, entropy, value = eqx.filter_jit(rlscan.replay)(policy, trajectory)
    bound = 1e-4 * jnp.maximum(1, jnp.abs(trajectory.log_prob))
    assert (jnp.abs(log_prob - trajectory.log_prob) < bound).all()
    assert np.isfinite(entropy).all() and np.isfinite(value).all()
    assert log_prob.shape == entropy.shape == (12, 4)
    assert rlscan.explain_ratio(policy, env, trajectory) is None
    # Other dropout masks give another ratio, so the audit can fail.
    other = eqx.tree_at(lambda t: t.policy_key, trajectory, jnp.roll(trajectory.policy_key, 1, 0))
    assert (jnp.abs(rlscan.replay(policy, other)[0] - trajectory.log_prob) > bound).any()


class Echo(Anything):
    """An environment whose reward is the first number of the action."""

    def step(self, key: Any, state: Any, action: Any) -> Any:
        observation, state, _, *ends, info = Anything.step(self, key, state, action)
        return observation, state, action[0], *ends, info


@pytest.mark.slow
@pytest.mark.parametrize(
    "continuous, sent",
    [
        ("gaussian", lambda x: np.clip(x, -2, 6)),
        ("tanh", lambda u: 2 + 4 * np.tanh(u)),
        ("beta", lambda x: -2 + 8 * x),
    ],
)
def test_the_environment_is_sent_the_legal_form_of_a_sample(continuous: Any, sent: Any) -> None:
    env = Echo(BOX)
    policy = policy_for(env, continuous=continuous)
    state = rlscan.init_rollout(policy, env, num_envs=4, key=rlscan.key(1))
    _, trajectory = eqx.filter_jit(rlscan.rollout)(policy, env, state, 10)
    recorded = np.asarray(trajectory.action)[..., 0]
    np.testing.assert_allclose(trajectory.reward, sent(recorded), rtol=1e-5, atol=1e-5)
    assert np.abs(recorded - trajectory.reward).max() > 0.1


@pytest.mark.slow
@heads("multi-discrete gaussian", "dict tanh")
def test_every_head_can_be_evaluated(name: str, settings: dict) -> None:
    env = Anything(SPACES[name])
    policy = policy_for(env, dropout=0.3, **settings)
    run = eqx.filter_jit(
        lambda **switches: rlscan.evaluate(policy, env, num_episodes=8, **switches)
    )
    played = run(key=rlscan.key(2), action="mode")
    assert (played.episode_return == played.episode_length).all()  # the mode is legal as well
    played = run(key=rlscan.key(2), network="mc-dropout", num_masks=4)
    assert played.spread is not None
    spread = jax.tree.leaves(played.spread.distribution)
    assert all(np.isfinite(leaf).all() and (leaf >= 0).all() for leaf in spread)
    assert any((leaf > 0.01).any() for leaf in spread)


@pytest.mark.slow
@pytest.mark.parametrize("settings", CONTINUOUS[::2], ids=str)
def test_a_log_prob_of_the_sent_action_is_explained(settings: dict) -> None:
    env = Anything(BOX)
    policy = policy_for(env, **settings)
    state = rlscan.init_rollout(policy, env, num_envs=8, key=rlscan.key(1))
    _, trajectory = eqx.filter_jit(rlscan.rollout)(policy, env, state, 10)

    def of_sent(observation: Any, action: Any, key: Any) -> Any:
        distribution, _, _ = policy(observation, (), key=key)
        return distribution.log_prob(legal_action(BOX, action, distribution))

    wrong = jax.jit(jax.vmap(jax.vmap(of_sent)))(
        trajectory.observation, trajectory.action, trajectory.policy_key
    )
    cause = rlscan.explain_ratio(policy, env, trajectory, wrong)
    assert cause is not None and cause.startswith("clipped actions")


@pytest.mark.slow
@heads("multi-discrete gaussian", "dict tanh")
def test_training_begins_with_a_ratio_of_one(name: str, settings: dict) -> None:
    env = Anything(SPACES[name])
    policy = rlscan.policies.ActorCritic(
        env, hidden_sizes=(8,), dropout=0.2, key=rlscan.key(0), **settings
    )
    config = rlscan.ppo.PPOConfig(num_envs=4, num_steps=8, num_minibatches=2, num_epochs=2)
    run = rlscan.train(policy, env, config, total_steps=96, key=rlscan.key(1), strict=True)
    for _, metrics in run:
        assert all(np.isfinite(metrics[name]) for name in ("loss", "entropy", "grad_norm"))
        assert metrics["grad_norm"] > 0


# The heads alone.


@pytest.mark.slow
@heads("discrete gaussian", "multi-discrete gaussian", "dict tanh", "dict beta")
def test_heads_are_finite_wherever_their_outputs_are(name: str, settings: dict) -> None:
    """Outputs up to ±30 give finite numbers and gradients."""
    head = ActionHead(SPACES[name], **settings)

    def numbers(outputs: Any, key: Any) -> Any:
        distribution = head(outputs, key=key)
        action = jax.lax.stop_gradient(distribution.sample(seed=jax.random.fold_in(key, 1)))
        return distribution.log_prob(action) + distribution.entropy()

    directions = jax.random.normal(rlscan.key(0), (200, head.num_outputs))
    outputs = jnp.concatenate([30 * jnp.sign(directions), 30 * directions, directions])
    keys = jax.random.split(rlscan.key(1), len(outputs))
    found = jax.jit(jax.vmap(jax.value_and_grad(numbers)))(outputs, keys)
    assert all(np.isfinite(leaf).all() for leaf in found)


def log_softmax(logits: np.ndarray) -> np.ndarray:
    return logits - np.log(np.exp(logits).sum())


@pytest.mark.slow
def test_multi_discrete_is_a_categorical_for_each_integer() -> None:
    head = ActionHead(SPACES["multi-discrete"])
    outputs = np.linspace(-1, 2, 9)
    distribution = head(jnp.asarray(outputs), key=rlscan.key(0))
    blocks = [log_softmax(block) for block in np.split(outputs, [2, 6])]
    for action in ([0, 0, 0], [1, 3, 2], [0, 2, 1]):
        wanted = sum(block[i] for block, i in zip(blocks, action, strict=True))
        np.testing.assert_allclose(distribution.log_prob(jnp.asarray(action)), wanted, rtol=1e-5)
    entropy = -sum(np.exp(block) @ block for block in blocks)
    np.testing.assert_allclose(distribution.entropy(), entropy, rtol=1e-5)
    mode: Any = distribution
    np.testing.assert_array_equal(mode.mode(), [1, 3, 2])
    samples = jax.vmap(lambda key: distribution.sample(seed=key))(
        jax.random.split(rlscan.key(1), 4000)
    )
    for i, block in enumerate(blocks):
        frequencies = np.bincount(np.asarray(samples)[:, i], minlength=len(block)) / 4000
        np.testing.assert_allclose(frequencies, np.exp(block), atol=0.05)
    # A tuple of Discrete spaces is equivalent.
    parts = ActionHead(gymnax.Tuple([gymnax.Discrete(n) for n in (2, 4, 3)]))
    again = parts(jnp.asarray(outputs), key=rlscan.key(0))
    np.testing.assert_allclose(again.entropy(), entropy, rtol=1e-5)


def test_the_scale_of_a_gaussian_may_be_an_output() -> None:
    head = ActionHead(BOX, state_dependent_std=True)
    assert head.num_outputs == 4 and jax.tree.leaves(eqx.filter(head, eqx.is_array)) == []
    base: Any = head(jnp.asarray([0.5, -1.0, 0.0, 2.0]), key=rlscan.key(0))
    np.testing.assert_allclose(base.mean(), [2 + 4 * 0.5, 1.25 - 0.25], rtol=1e-6)
    std = [1.0, 0.01 + math.log1p(math.exp(2) * math.expm1(0.99))]
    np.testing.assert_allclose(base.stddev(), np.asarray([4, 0.25]) * std, rtol=1e-5)
    squashed: Any = ActionHead(BOX, continuous="tanh", state_dependent_std=True)(
        jnp.asarray([0.5, -1.0, 0.0, 2.0]), key=rlscan.key(0)
    )
    np.testing.assert_allclose(squashed.loc, [0.5, -1.0])
    np.testing.assert_allclose(squashed.scale, std, rtol=1e-5)


def test_outputs_stand_in_the_order_of_jaxs_leaves() -> None:
    """a[0] (2 means), a[1] (2 × 2 categories), z (2 categories)."""
    head = ActionHead(SPACES["dict"])
    assert head.num_outputs == 2 + 4 + 2
    outputs = jnp.asarray([0.5, -1.0, 9, -9, -9, 9, -9, 9])
    mode = head(outputs, key=rlscan.key(0)).mode()  # pyright: ignore
    np.testing.assert_allclose(mode["a"][0], [4, 1], rtol=1e-6)
    np.testing.assert_array_equal(mode["a"][1], [0, 1])
    assert mode["z"] == 1


@pytest.mark.parametrize("continuous", ["tanh", "beta"])
@pytest.mark.parametrize("low, high", [(-np.inf, np.inf), (0, np.inf), (-3.4028235e38, 1)])
def test_heads_that_fill_a_box_need_its_bounds(continuous: Any, low: float, high: float) -> None:
    with pytest.raises(ValueError, match="with bounds on all sides, got .*continuous='gaussian'"):
        ActionHead(gymnax.Box(low, high, (2,)), continuous=continuous)


def test_settings_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="must be one of gaussian, tanh, beta, got 'normal'"):
        check_continuous("normal", False)
    with pytest.raises(ValueError, match="state_dependent_std applies to a Gaussian.*leave it out"):
        ActionHead(BOX, continuous="beta", state_dependent_std=True)
    for odd in (gymnasium.Text(3), gymnax.Dict({}), gymnasium.Tuple([gymnasium.Text(3)])):
        with pytest.raises(ValueError, match="acts in a Discrete.*write a policy of your own"):
            ActionHead(odd)
    with pytest.raises(ValueError, match="takes 3 outputs, got an array of shape"):
        ActionHead(SPACES["discrete"])(jnp.zeros(3)[:2], key=rlscan.key(0))


# Masks.


def sizes_of(space: Any) -> list[int]:
    """The number of categories of each integer of a space, in order."""
    sizes = []
    for _, leaf in space_leaves(space):
        if not hasattr(leaf, "low"):
            default = [2] * math.prod(leaf.shape) if leaf.shape else [getattr(leaf, "n", 0)]
            sizes += [int(n) for n in np.ravel(getattr(leaf, "nvec", default))]
    return sizes


def in_parts(space: Any, mask: Any) -> Any:
    """The mask in the structure of the action; a Dict lacks the parts without one."""
    if not hasattr(space, "spaces"):
        return None if hasattr(space, "low") else mask
    named = isinstance(space.spaces, dict)
    items = sorted(space.spaces.items()) if named else list(enumerate(space.spaces))
    ends = np.cumsum([sum(sizes_of(child)) for _, child in items])[:-1]
    parts = [in_parts(child, m) for (_, child), m in zip(items, jnp.split(mask, ends), strict=True)]
    if not named:
        return tuple(parts)
    return {name: part for (name, _), part in zip(items, parts, strict=True) if part is not None}


class Masked(eqx.Module):
    """`Anything` with legal integers that change at every step, rewarded relative to the best."""

    space: Any = eqx.field(static=True)
    is_flat: bool = eqx.field(static=True, default=False)
    time_limit: int = eqx.field(static=True, default=5)

    def reset(self, key: Any) -> Any:
        state = self._draw(key), jnp.zeros((), jnp.int32)
        return self._see(state[0]), state

    def step(self, key: Any, state: Any, action: Any) -> Any:
        mask_key, reset_key = jax.random.split(key)
        blocks = jnp.split(state[0], np.cumsum(sizes_of(self.space))[:-1])
        integers = []
        for path, leaf in space_leaves(self.space):
            part = action
            for name in path:
                part = part[name]
            if not hasattr(leaf, "low"):
                integers += list(jnp.ravel(part - getattr(leaf, "start", 0)))
        is_legal = jnp.stack([b[i] for b, i in zip(blocks, integers, strict=True)]).all()
        best = sum(jnp.max(jnp.arange(len(b)) * b) for b in blocks)
        reward = jnp.where(is_legal, sum(integers) / jnp.maximum(best, 1), -100.0)
        mask, time = self._draw(mask_key), state[1] + 1
        ends = (jnp.asarray(False), time == self.time_limit)
        return finish(self, reset_key, self._see(mask), (mask, time), reward, ends)

    def _draw(self, key: Any) -> Any:
        draws = jax.random.uniform(key, (sum(sizes_of(self.space)),))
        blocks = jnp.split(draws, np.cumsum(sizes_of(self.space))[:-1])
        return jnp.concatenate([(b > 0.6) | (b == b.max()) for b in blocks])  # at least one

    def _see(self, mask: Any) -> Any:
        mask = mask if self.is_flat else in_parts(self.space, mask)
        return {"x": jnp.zeros(1), "action_mask": mask}

    def observation_space(self) -> Any:
        size = sum(sizes_of(self.space))
        mask = gymnasium.MultiBinary(size)
        return gymnax.Dict({"x": gymnax.Box(-1, 1, (1,)), "action_mask": mask})

    def action_space(self) -> Any:
        return self.space


@pytest.mark.exhaustive
@pytest.mark.slow
@pytest.mark.parametrize(
    "name, is_flat",
    [
        ("tuple of discrete", False),
        ("discrete", True),
        ("multi-discrete", True),
        ("dict", False),
        ("dict", True),
    ],
)
def test_masks_are_honoured(name: str, is_flat: bool) -> None:
    env = Masked(SPACES[name], is_flat)
    policy = policy_for(env, dropout=0.3)
    state = rlscan.init_rollout(policy, env, num_envs=16, key=rlscan.key(1))
    state, trajectory = eqx.filter_jit(rlscan.rollout)(policy, env, state, 12)
    assert (trajectory.reward >= 0).all()
    log_prob, entropy, value = eqx.filter_jit(rlscan.replay)(policy, trajectory)
    np.testing.assert_allclose(log_prob, trajectory.log_prob, rtol=1e-4, atol=1e-4)
    assert rlscan.explain_ratio(policy, env, trajectory) is None
    # The final observation has a mask as well.
    assert trajectory.final is not None
    masks = jax.tree.leaves(trajectory.final.observation["action_mask"])
    assert all(mask.dtype == bool and mask.shape[:2] == (3, 16) for mask in masks)
    assert np.isfinite(rlscan.next_value(policy, state, trajectory, value)).all()
    if name != "dict":  # without Gaussians, the entropy depends only on the legal actions
        masks = jax.tree.leaves(trajectory.observation["action_mask"])
        flat = np.concatenate([np.asarray(m).reshape(12, 16, -1) for m in masks], axis=-1)
        blocks = np.split(flat, np.cumsum(sizes_of(env.space))[:-1], axis=-1)
        most = sum(np.log(b.sum(axis=-1)) for b in blocks)
        assert (entropy <= most + 1e-5).all() and (entropy >= -1e-6).all()
        assert (np.abs(np.asarray(entropy)[most == 0]) < 1e-5).all()
    switches: Any
    for switches in ({"action": "mode"}, {"network": "mc-dropout", "num_masks": 4}):
        played = rlscan.evaluate(policy, env, num_episodes=8, key=rlscan.key(2), **switches)
        assert (played.episode_return >= 0).all()
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(played))


@pytest.mark.exhaustive
@pytest.mark.slow
def test_a_policy_learns_under_masks() -> None:
    """The highest legal action is best, and only the mask shows which ones are legal."""
    env = Masked(SPACES["multi-discrete"])
    policy = rlscan.policies.ActorCritic(env, hidden_sizes=(8,), dropout=0.1, key=rlscan.key(0))
    config = rlscan.ppo.PPOConfig(num_envs=32, num_steps=16, learning_rate=1e-2)

    def performance(policy: Any) -> float:
        played = rlscan.evaluate(policy, env, num_episodes=200, key=rlscan.key(2), action="mode")
        return float((played.episode_return / played.episode_length).mean())

    run = rlscan.train(
        policy, env, config, total_steps=32 * 16 * 15, key=rlscan.key(1), strict=True
    )
    *_, (state, metrics) = run
    assert performance(state.policy) > 0.97 > 0.8 > performance(policy)
    assert np.isfinite(metrics["loss"])


def test_forms_of_a_mask() -> None:
    """A mask as one array, as its parts, and as Gymnasium's tuple of integers 0 and 1."""
    outputs = jnp.linspace(-1, 2, 9)
    mask = np.asarray([1, 1, 0, 1, 0, 1, 1, 0, 1], np.int8)
    multi = ActionHead(SPACES["multi-discrete"])
    wanted = multi(outputs, mask=jnp.asarray(mask, bool), key=rlscan.key(0)).entropy()
    parts = tuple(map(jnp.asarray, np.split(mask, [2, 6])))
    as_tuple = ActionHead(gymnax.Tuple([gymnax.Discrete(n) for n in (2, 4, 3)]))
    for head, form in ((multi, parts), (as_tuple, parts), (as_tuple, jnp.asarray(mask))):
        found = head(outputs, mask=form, key=rlscan.key(0)).entropy()
        np.testing.assert_allclose(found, wanted, rtol=1e-6)
    assert wanted < multi(outputs, key=rlscan.key(0)).entropy()
    # A part without a mask is unrestricted.
    some = as_tuple(outputs, mask=(None, parts[1], None), key=rlscan.key(0)).entropy()
    assert wanted < some < multi(outputs, key=rlscan.key(0)).entropy()


@pytest.mark.parametrize(
    "name, mask, told",
    [
        ("discrete", np.ones(4, bool), "must have an entry for each of 3 categories"),
        ("multi-discrete", np.ones((3, 4), bool), "an entry for each of 9 categories"),
        ("box", np.ones(2, bool), "an entry for each of 0 categories"),
        ("tuple of discrete", (np.ones(2), np.ones(4), np.ones(1)), "has 3 parts, the actions 2"),
        ("tuple of discrete", (np.ones(4), np.ones(2)), "an entry for each of 2 categories"),
        ("dict", {"z": np.ones(2), "y": np.ones(2)}, "has ['y'], but the actions ['a', 'z']"),
    ],
)
def test_masks_that_do_not_fit_are_refused(name: str, mask: Any, told: str) -> None:
    head = ActionHead(SPACES[name])
    with pytest.raises(ValueError) as error:
        head(jnp.zeros(head.num_outputs), mask=jax.tree.map(jnp.asarray, mask), key=rlscan.key(0))
    assert told in str(error.value)


@pytest.mark.parametrize("continuous", ["gaussian", "tanh", "beta"])
def test_a_side_of_no_width_has_one_action(continuous):
    space = gymnasium.Box(np.array([0, 1], np.float32), np.array([1, 1], np.float32))
    head: Any = ActionHead(space, continuous=continuous)
    distribution = head(jnp.ones(head.num_outputs), key=rlscan.key(1))
    sample = distribution.sample(seed=rlscan.key(0))
    assert jnp.isfinite(distribution.log_prob(sample)) and jnp.isfinite(distribution.entropy())
    assert legal_action(space, sample, distribution)[1] == 1


@pytest.mark.parametrize(
    "space", [gymnax.Box(0, 10, (3,), jnp.int32), gymnasium.Box(0, 10, (3,), np.int64)]
)
def test_a_box_of_integers_is_sent_integers(space):
    distribution = ActionHead(space)(jnp.zeros(3), key=rlscan.key(1))
    sent = legal_action(space, jnp.array([3.7, -2.0, 11.0]), distribution)
    assert sent.dtype == jnp.int32 and sent.tolist() == [4, 0, 10]
