import math
import os
import subprocess
import sys
import textwrap
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rlscan
from rlscan import ActorCritic

CARTPOLE, PENDULUM, LAKE = map(rlscan.make, ("CartPole-v1", "Pendulum-v1", "FrozenLake-misc"))


class Space:
    def __init__(self, **attributes: Any):
        vars(self).update(attributes)


class Env:
    """An environment with spaces only, because a policy needs nothing else."""

    def __init__(self, observation: Any, action: Any):
        self.observation, self.action = observation, action

    def reset(self, key: Any) -> Any: ...
    def step(self, key: Any, state: Any, action: Any) -> Any: ...
    def observation_space(self) -> Any:
        return self.observation

    def action_space(self) -> Any:
        return self.action


def box(low: Any, high: Any, shape: tuple[int, ...]) -> Space:
    return Space(low=low, high=high, shape=shape)


def build(env: Any = CARTPOLE, seed: int = 0, **settings: Any) -> ActorCritic:
    return ActorCritic(env, key=rlscan.key(seed), **settings)


def weights(policy: ActorCritic) -> dict[str, list[np.ndarray]]:
    nets = {"actor": policy.actor, "critic": policy.critic}
    return {
        name: [np.asarray(layer.weight, np.float64) for layer in net.layers]
        for name, net in nets.items()
    }


def mlp(matrices: list[np.ndarray], x: np.ndarray, activation: Any = np.tanh) -> np.ndarray:
    """A forward pass in float64, without biases or dropout."""
    for matrix in matrices[:-1]:
        x = activation(matrix @ x)
    return matrices[-1] @ x


def log_softmax(logits: np.ndarray) -> np.ndarray:
    return logits - np.log(np.exp(logits).sum())


# Shapes and initialisation.


@pytest.mark.slow
def test_shapes() -> None:
    def shapes(**settings: Any) -> list[list[tuple[int, ...]]]:
        policy = eqx.filter_eval_shape(lambda: build(**settings))
        return [
            [layer.weight.shape for layer in net.layers] for net in (policy.actor, policy.critic)
        ]

    assert shapes(hidden_sizes=(8, 16)) == [[(8, 4), (16, 8), (2, 16)], [(8, 4), (16, 8), (1, 16)]]
    assert shapes() == [[(64, 4), (64, 64), (2, 64)], [(64, 4), (64, 64), (1, 64)]]
    assert shapes(hidden_sizes=()) == [[(2, 4)], [(1, 4)]]

    policy = build(hidden_sizes=(8, 16))
    distribution, value, state = policy(jnp.ones(4), (), key=rlscan.key(1))
    assert distribution.sample(seed=rlscan.key(0)).shape == value.shape == () and state == ()
    assert policy.initial_state() == () and policy.head.parts.num_categories == 2

    images = Env(box(0, 1, (3, 3, 2)), box(-1, 1, (2, 3)))
    policy = build(images, hidden_sizes=[5], num_channels=())
    assert weights(policy)["actor"][0].shape == (5, 18)
    distribution, _, _ = policy(jnp.ones((3, 3, 2), bool), (), key=rlscan.key(1))
    action = distribution.sample(seed=rlscan.key(0))
    assert action.shape == (2, 3) and distribution.log_prob(action).shape == ()


@pytest.mark.parametrize("sizes", [(64, 64), (3, 7)])
def test_weights_are_orthogonal_with_their_gains(sizes: tuple[int, ...]) -> None:
    """The gains of "The 37 Implementation Details of PPO"."""
    policy = build(hidden_sizes=sizes, seed=5)
    for name, last_gain in (("actor", 0.01), ("critic", 1.0)):
        matrices = weights(policy)[name]
        for matrix, gain in zip(matrices, [math.sqrt(2)] * 2 + [last_gain], strict=True):
            np.testing.assert_allclose(np.square(matrix).sum(axis=1).mean(), gain**2, rtol=1e-5)
            wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
            products = wide @ wide.T
            eye = np.eye(len(wide)) * products[0, 0]
            np.testing.assert_allclose(products, eye, atol=1e-5, rtol=1e-5)
    for net in (policy.actor, policy.critic):
        assert all((np.asarray(layer.bias) == 0).all() for layer in net.layers)
        assert all(layer.use_bias for layer in net.layers)


@pytest.mark.slow
def test_each_layer_and_each_key_has_its_own_weights() -> None:
    first, second = build(hidden_sizes=(4, 4)), build(hidden_sizes=(4, 4), seed=1)
    hidden = [w for p in (first, second) for ws in weights(p).values() for w in ws[:2]]
    for i, one in enumerate(hidden):
        assert all(np.abs(one - other).max() > 0.01 for other in hidden[:i])
    assert eqx.tree_equal(first, build(hidden_sizes=(4, 4)))
    assert not eqx.tree_equal(first, second)


@pytest.mark.slow
def test_policies_for_one_environment_have_one_structure() -> None:
    """Loading checkpoints and stacking populations depend on it."""
    for name in ("CartPole-v1", "Pendulum-v1", "FrozenLake-misc"):
        first, second = build(rlscan.make(name)), build(rlscan.make(name), seed=1)
        assert jax.tree.structure(first) == jax.tree.structure(second)
        others = jax.tree.leaves(eqx.filter(first, eqx.is_array, inverse=True))
        assert others == jax.tree.leaves(eqx.filter(second, eqx.is_array, inverse=True))
    assert jax.tree.structure(build()) != jax.tree.structure(build(PENDULUM))


# Outputs, against NumPy in float64.


@pytest.mark.parametrize(
    "activation, reference",
    [
        ("tanh", np.tanh),
        ("relu", lambda x: np.maximum(x, 0)),
        (jnp.sin, np.sin),
        ("silu", lambda x: x / (1 + np.exp(-x))),
    ],
)
def test_categorical_head_and_activations(activation: Any, reference: Any) -> None:
    policy = build(hidden_sizes=(8, 6), activation=activation)
    # With the initial gain of 0.01 every activation would give the same policy.
    policy = eqx.tree_at(lambda p: p.actor.layers[-1].weight, policy, replace_fn=lambda w: 100 * w)
    x = np.asarray([0.3, -1.2, 0.7, 2.0])
    distribution, value, _ = policy(jnp.asarray(x), (), key=rlscan.key(0))
    matrices = weights(policy)
    log_p = log_softmax(mlp(matrices["actor"], x, reference))
    for action in range(2):
        np.testing.assert_allclose(distribution.log_prob(action), log_p[action], rtol=1e-5)
    np.testing.assert_allclose(distribution.entropy(), -(np.exp(log_p) @ log_p), rtol=1e-5)
    np.testing.assert_allclose(value, mlp(matrices["critic"], x, reference)[0], rtol=1e-5)
    assert abs(log_p[0] - log_p[1]) > 0.05


def test_gaussian_head_is_in_units_of_the_box() -> None:
    low, high = np.asarray([-2.0, 1.0, -np.inf]), np.asarray([6.0, 1.5, 3.0])
    env = Env(box(-1, 1, (2,)), box(low, high, (3,)))
    policy = build(env, hidden_sizes=(5,))
    log_std = np.asarray([-0.5, 0.0, 0.7])
    policy = eqx.tree_at(
        lambda p: (p.head.parts.log_std, p.actor.layers[-1].weight),
        policy,
        (jnp.asarray(log_std, jnp.float32), 100 * policy.actor.layers[-1].weight),
    )
    x, action = np.asarray([0.5, -2.0]), np.asarray([1.0, 1.2, 0.4])
    distribution, _, _ = policy(jnp.asarray(x), (), key=rlscan.key(0))

    center, half_width = np.asarray([2.0, 1.25, 0.0]), np.asarray([4.0, 0.25, 1.0])
    output = mlp(weights(policy)["actor"], x)
    z = ((action - center) / half_width - output) / np.exp(log_std)
    log_p = (-0.5 * z**2 - log_std - np.log(half_width) - 0.5 * np.log(2 * np.pi)).sum()
    entropy = (log_std + np.log(half_width) + 0.5 * np.log(2 * np.pi * np.e)).sum()
    np.testing.assert_allclose(distribution.log_prob(jnp.asarray(action)), log_p, rtol=1e-5)
    np.testing.assert_allclose(distribution.entropy(), entropy, rtol=1e-5)
    np.testing.assert_allclose(distribution.mode(), center + half_width * output, rtol=1e-5)


def test_gaussian_of_gymnaxs_boxes() -> None:
    """Pendulum's torque is within ±2; gymnax writes a missing bound as the largest float."""
    policy = build(PENDULUM)
    box_part = policy.head.parts
    assert (np.asarray(box_part.log_std) == 0).all()
    assert (box_part.center, box_part.half_width) == ((0.0,), (2.0,))
    largest = float(np.finfo(np.float32).max)
    policy = build(Env(box(-1, 1, (2,)), box(-largest, largest, (2,))))
    box_part = policy.head.parts
    assert (box_part.center, box_part.half_width) == ((0.0, 0.0), (1.0, 1.0))


def test_standard_deviation_is_learned() -> None:
    policy = build(PENDULUM)

    def entropy(policy: ActorCritic) -> Any:
        return policy(jnp.ones(3), (), key=rlscan.key(0))[0].entropy()  # pyright: ignore

    gradient = eqx.filter_grad(entropy)(policy)
    np.testing.assert_allclose(gradient.head.parts.log_std, [1.0])  # ∂/∂log σ of log σ + const


def test_discrete_observations_are_one_hot() -> None:
    policy = build(LAKE, hidden_sizes=(8,))
    for observation in (0, 7, 15):
        value = policy(jnp.asarray(observation), (), key=rlscan.key(0))[1]
        reference = mlp(weights(policy)["critic"], np.eye(16)[observation])
        np.testing.assert_allclose(value, reference[0], rtol=1e-5)


# Images and masks.


@pytest.mark.exhaustive
@pytest.mark.slow
def test_images_go_through_convolutions_of_actor_and_critic() -> None:
    env = rlscan.make("Breakout-MinAtar")
    policy = build(env, hidden_sizes=(8,))
    for encoder, net in (
        (policy.actor_encoder, policy.actor),
        (policy.critic_encoder, policy.critic),
    ):
        kernel = encoder.parts[0].layers[0].weight  # pyright: ignore
        assert kernel.shape == (16, 3 * 3 * 4) and net.layers[0].weight.shape == (8, 1024)
    kernels = [e.parts[0].layers[0].weight for e in (policy.actor_encoder, policy.critic_encoder)]  # pyright: ignore
    assert np.abs(kernels[0] - kernels[1]).max() > 0.1  # each has its own
    image, _ = env.reset(rlscan.key(0))
    assert image.dtype == bool
    _, value, _ = policy(image, (), key=rlscan.key(1))
    x = policy.critic_encoder(image)
    wanted = mlp(weights(policy)["critic"], np.asarray(x, np.float64))[0]
    np.testing.assert_allclose(value, wanted, rtol=1e-4, atol=1e-5)

    state = rlscan.init_rollout(policy, env, num_envs=2, key=rlscan.key(0))
    _, trajectory = eqx.filter_jit(rlscan.rollout)(policy, env, state, 4)
    assert trajectory.observation.dtype == bool and trajectory.observation.nbytes == 4 * 2 * 400
    log_prob, _, _ = eqx.filter_jit(rlscan.replay)(policy, trajectory)
    np.testing.assert_allclose(log_prob, trajectory.log_prob, atol=1e-5)


@pytest.mark.slow
def test_a_mask_is_of_the_actions_and_no_input() -> None:
    parts = Space(spaces={"x": box(-1, 1, (2,)), "action_mask": box(0, 1, (3,))})
    policy = build(Env(parts, Space(n=3)))
    assert weights(policy)["actor"][0].shape == (64, 2)

    def act(*mask: int) -> Any:
        observation = {"x": jnp.ones(2), "action_mask": jnp.asarray(mask)}
        return policy(observation, (), key=rlscan.key(0))

    all_of_them: Any = act(1, 1, 1)[0]
    some: Any = act(0, 1, 1)[0]
    p = np.asarray(all_of_them.probs)[1:]
    np.testing.assert_allclose(some.probs, [0, *p / p.sum()], rtol=1e-5)
    assert act(0, 1, 1)[1] == act(1, 1, 1)[1]  # the value does not depend on the mask
    # Without a legal action all is NaN except the value, because it may be a final observation.
    distribution, value, _ = act(0, 0, 0)
    assert np.isnan(distribution.entropy()) and np.isfinite(value)


# Dropout.


def outputs(policy: ActorCritic, num_keys: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """`(logit difference, value)` of one observation with many keys."""

    def one(key: Any) -> Any:
        distribution, value, _ = policy(jnp.ones(4), (), key=key)
        return distribution.log_prob(1) - distribution.log_prob(0), value

    actor, critic = jax.vmap(one)(jax.random.split(rlscan.key(9), num_keys))
    return np.asarray(actor), np.asarray(critic)


@pytest.mark.slow
@pytest.mark.parametrize("rates", [(0.0, 0.0), (0.5, 0.0), (0.0, 0.5), (0.5, 0.5)])
def test_dropout_only_where_asked(rates: tuple[float, float]) -> None:
    policy = build(dropout=rates[0], critic_dropout=rates[1])
    reference = outputs(build())
    for values, rate, quiet in zip(outputs(policy), rates, reference, strict=True):
        assert (len(np.unique(values)) > 32) == (rate > 0)
        if rate == 0:
            np.testing.assert_array_equal(values, quiet)
    # In inference mode it is the network without dropout.
    for values, quiet in zip(outputs(eqx.nn.inference_mode(policy)), reference, strict=True):
        np.testing.assert_allclose(values, quiet, rtol=1e-6, atol=1e-8)


@pytest.mark.slow
def test_dropout_drops_at_its_rate() -> None:
    """All units are 1, so the output counts the units that were kept."""
    policy = build(hidden_sizes=(32, 32), dropout=0.25, activation=lambda x: 0 * x + 1)
    policy = eqx.tree_at(lambda p: p.actor.layers[-1].weight, policy, jnp.ones((2, 32)))

    output = jax.vmap(lambda k: policy.actor(jnp.ones(4), key=k))(
        jax.random.split(rlscan.key(3), 2000)
    )
    kept = np.asarray(output)[:, 0] * 0.75  # the number of units kept, of 32
    np.testing.assert_allclose(kept, np.round(kept), atol=1e-4)
    # Binomial(32, 0.75): mean 24, standard deviation 2.45; 2000 draws, five standard errors.
    assert abs(kept.mean() - 24) < 5 * 2.45 / math.sqrt(2000)
    assert abs(kept.std() - 2.45) < 0.25


@pytest.mark.slow
def test_the_layers_have_masks_of_their_own() -> None:
    seen = []

    def spy(x: Any) -> Any:
        seen.append(x == 0)
        return jnp.ones_like(x)

    policy = build(hidden_sizes=(64, 64, 64), dropout=0.5, activation=spy)
    eye = eqx.tree_at(
        lambda p: [layer.weight for layer in p.actor.layers[1:-1]], policy, [jnp.eye(64)] * 2
    )
    eye.actor(jnp.ones(4), key=rlscan.key(1))
    _, first, second = map(
        np.asarray, seen[-3:]
    )  # the inputs that the masks of layers 1 and 2 leave to layers 2 and 3
    assert 16 < first.sum() < 48 and 16 < second.sum() < 48 and (first != second).any()


def test_actor_and_critic_have_masks_of_their_own() -> None:
    policy = build(Env(box(-1, 1, (4,)), box(-1, 1, (1,))), dropout=0.5, critic_dropout=0.5)
    policy = eqx.tree_at(lambda p: p.actor, policy, policy.critic)  # one network, twice
    distribution, value, _ = policy(jnp.ones(4), (), key=rlscan.key(0))
    quiet = eqx.nn.inference_mode(policy)(jnp.ones(4), (), key=rlscan.key(0))
    np.testing.assert_allclose(quiet[0].mode()[0], quiet[1], rtol=1e-6)  # pyright: ignore
    assert abs(distribution.mode()[0] - value) > 1e-3  # pyright: ignore


# Invalid settings.


@pytest.mark.parametrize(
    "settings, told",
    [
        (
            {"dropout": 1.0},
            "dropout must be in [0, 1), got 1.0; 0 switches it off",
        ),
        ({"dropout": -0.1}, "dropout must be in [0, 1), got -0.1"),
        ({"dropout": math.nan}, "dropout must be in [0, 1), got nan"),
        ({"critic_dropout": 1.5}, "critic_dropout must be in [0, 1), got 1.5"),
        ({"hidden_sizes": (64, 0)}, "hidden_sizes must be positive integers, got [64, 0]"),
        ({"hidden_sizes": (-1,)}, "got [-1]; such as [64, 64]"),
        ({"activation": "tnah"}, "the name of one in jax.nn, got 'tnah'"),
        ({"activation": "initializers"}, "got 'initializers'"),
        ({"activation": "__name__"}, "got '__name__'"),
        ({"activation": "logsumexp"}, "keeps the shape of an array"),
        ({"activation": lambda x: x[:1]}, "such as tanh, relu, silu or gelu"),
    ],
)
def test_bad_settings_are_refused(settings: dict, told: str) -> None:
    with pytest.raises(ValueError) as error:
        build(**settings)
    assert told in str(error.value)


def test_spaces_that_do_not_fit_are_refused() -> None:
    odd, good = Space(spaces={}), Space(n=2)
    with pytest.raises(ValueError, match="takes observations of a Discrete.*of your own"):
        build(Env(odd, good))
    with pytest.raises(ValueError, match="acts in a Discrete.*of your own"):
        build(Env(good, odd))


def test_keys_that_are_none_are_refused() -> None:
    with pytest.raises(TypeError, match=r"key must be a JAX random key, got 0 of type int"):
        ActorCritic(CARTPOLE, key=0)
    with pytest.raises(ValueError, match="'rbg' cannot be replayed"):
        ActorCritic(CARTPOLE, key=jax.random.key(0, impl="rbg"))


# A population.


@pytest.mark.exhaustive
@pytest.mark.slow
def test_construction_vmaps_over_keys_again_and_again() -> None:
    """Runs in a subprocess, because batched QR decompositions used to deadlock."""
    code = """
        import equinox as eqx, jax, numpy as np, rlscan
        env = rlscan.make("CartPole-v1")
        policy = rlscan.policies.ActorCritic
        build = eqx.filter_jit(eqx.filter_vmap(lambda key: policy(env, key=key)))
        for repeat in range(10):
            keys = jax.random.split(rlscan.key(repeat), 32)
            jax.block_until_ready(jax.tree.leaves(eqx.filter(build(keys), eqx.is_array)))
        population = build(keys)
        for i in (0, 31):
            one = rlscan.policies.ActorCritic(env, key=keys[i])
            for many, single in zip(*map(jax.tree.leaves, (population, one)), strict=True):
                if eqx.is_array(many):
                    np.testing.assert_allclose(many[i], single, rtol=1e-5, atol=1e-6)
        print("done")
    """
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=120
    )
    assert result.stdout == "done\n", result.stderr


@pytest.mark.exhaustive
@pytest.mark.slow
@pytest.mark.parametrize("num_devices", [1, 2])
def test_training_32_seeds_never_hangs(num_devices: int) -> None:
    """Initialise and train 50 times in one process, with the flags that the scripts set."""
    code = f"""
        import equinox as eqx, jax, rlscan
        env = rlscan.make("CartPole-v1")
        config = rlscan.ppo.PPOConfig(num_envs=4, num_steps=32)
        rlscan.configure_cpu(num_devices={num_devices})

        @jax.vmap
        def train(key):
            policy_key, train_key = jax.random.split(key)
            policy = rlscan.policies.ActorCritic(env, dropout=0.1, key=policy_key)
            return rlscan.ppo.train_scan(policy, env, config, total_steps=256, key=train_key)[1]

        run = jax.jit(rlscan.on_devices(train, rlscan.make_mesh()))
        for repeat in range(50):
            metrics = run(jax.random.split(rlscan.key(repeat), 32))
            assert metrics["audit_log_ratio"].max() < 1e-4
            print(repeat, flush=True)
    """
    environ = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    try:
        result = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(code)],
            capture_output=True,
            text=True,
            timeout=300,
            env=environ,
        )
    except subprocess.TimeoutExpired as error:
        pytest.fail(f"hung after {len((error.stdout or b'').splitlines())} of 50 repetitions")
    assert result.stdout.split() == [str(i) for i in range(50)], result.stderr
