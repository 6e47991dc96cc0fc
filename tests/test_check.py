import functools
from collections.abc import Callable
from typing import Any

import distrax
import equinox as eqx
import gymnax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.core import Tracer
from jaxtyping import Array, Float

import rlscan
from rlscan import check_policy

# A policy and an environment that fit, made of replaceable parts: each test replaces one.


class Discrete:
    n = 2


class Box:
    low, high, shape = -1.0, 1.0, (2,)


class ScalarBox:
    low, high, shape, dtype = -1.0, 1.0, (), jnp.float32


class IntegerBox:
    low, high, shape, dtype = 0, 5, (), jnp.int32


class Env:
    def __init__(self, space: Any = Discrete, **outputs: Any):
        self.space, self.outputs = space, outputs

    def reset(self, key: Any) -> Any:
        return jnp.zeros(3), {"time": 0}

    def step(self, key: Any, state: Any, action: Any) -> Any:
        named = {
            "observation": jnp.ones(3),
            "state": {"time": state["time"] + 1},
            "reward": 1.0,
            "terminated": jnp.asarray(False),
            "truncated": False,
            "info": {"final_observation": jnp.ones(3)},
        }
        return tuple((named | self.outputs).values())

    def observation_space(self) -> Any:
        return Box

    def action_space(self) -> Any:
        return self.space


def categorical(num_actions: int = 2) -> Any:
    return distrax.Categorical(logits=jnp.zeros(num_actions))


def gaussian(*shape: int) -> Any:
    normal = distrax.Normal(jnp.zeros(shape), jnp.ones(shape))
    return distrax.Independent(normal, len(shape))


class Policy(eqx.Module):
    weight: Float[Array, "3"]
    distribution: Callable[[], Any]
    start: Any = ()
    after: Callable[[Any], Any] = lambda state: state

    def __call__(self, observation: Any, state: Any, *, key: Any) -> Any:
        value = self.weight @ observation
        return self.distribution(), value, self.after(state)

    def initial_state(self) -> Any:
        return self.start


def policy(distribution: Callable[[], Any] = categorical, **parts: Any) -> Policy:
    return Policy(jnp.zeros(3), distribution, **parts)


def refusal(kind: type[Exception], policy: Any, env: Any) -> str:
    with pytest.raises(kind) as error:
        check_policy(policy, env)
    return str(error.value)


# What is good is accepted.


@pytest.mark.parametrize(
    "space, distribution",
    [
        (Discrete, categorical),
        (Discrete, lambda: distrax.Bernoulli(logits=jnp.zeros(()), dtype=jnp.int32)),
        (Box, lambda: gaussian(2)),
        (ScalarBox, lambda: gaussian()),
        (IntegerBox, categorical),
        (object(), lambda: gaussian(4)),  # a space that is not known is the environment's affair
    ],
)
def test_what_fits_is_accepted(space: Any, distribution: Callable[[], Any]) -> None:
    check_policy(policy(distribution), Env(space))


def test_numbers_and_functions_in_states_are_accepted() -> None:
    start = {"count": 0, "h": np.zeros(2), "f": jnp.tanh}
    after = lambda s: {**s, "count": s["count"] + 1, "h": s["h"] + 1}  # noqa: E731
    check_policy(policy(start=start, after=after), Env())
    env = Env(observation=np.ones(3), info={"final_observation": np.ones(3), "other": None})
    check_policy(policy(), env)


def test_library_policies_are_accepted_in_their_environments() -> None:
    for name in ("CartPole-v1", "Pendulum-v1"):
        env = rlscan.make(name)
        check_policy(rlscan.ActorCritic(env, dropout=0.1, key=rlscan.key(0)), env)


def test_nothing_is_compiled_or_computed() -> None:
    values = []

    def look(state: Any) -> Any:
        values.append(state["h"] + 1)
        return state

    compiled: list[str] = []

    def listen(event: str, duration_secs: float, **kwargs: Any) -> None:
        if "backend_compile" in event:
            compiled.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        looking = policy(start={"h": jnp.zeros(2)}, after=look)
        jax.jit(lambda x: x + len(values))(jnp.ones(7))
        assert compiled  # so that the listener hears
        check_policy(looking, Env())  # the first may make a key
        del compiled[:]
        check_policy(looking, Env())
        assert compiled == []
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    assert values and all(isinstance(value, Tracer) for value in values)


# Policies that are refused.


def test_a_class_is_refused_where_an_object_is_wanted() -> None:
    assert "got the class Policy; build one" in refusal(TypeError, Policy, Env())
    assert "environment must be an object, got the class Env" in refusal(TypeError, policy(), Env)


def test_a_missing_method_is_refused() -> None:
    class Stateless(eqx.Module):
        def __call__(self, observation: Any, state: Any, *, key: Any) -> Any: ...

    class Uncallable(eqx.Module):
        def initial_state(self) -> Any: ...

    class Unstepped:
        reset = observation_space = action_space = lambda self: None

    message = refusal(TypeError, Stateless(), Env())
    assert "policy Stateless has no method 'initial_state'; rlscan.Policy says" in message
    assert "Uncallable has no method '__call__'" in refusal(TypeError, Uncallable(), Env())
    assert "has no method 'initial_state'" in refusal(TypeError, lambda o, s, *, key: o, Env())

    env = Env()
    for name in ("reset", "step", "observation_space", "action_space"):
        without = type("Without", (Env,), {name: None})()
        message = refusal(TypeError, policy(), without)
        assert f"environment Without has no method {name!r}; rlscan.Environment" in message
    check_policy(policy(), env)


def without_key(self: Any, observation: Any, state: Any) -> Any: ...
def observation_alone(self: Any, observation: Any, *, key: Any) -> Any: ...
def one_too_many(self: Any, observation: Any, state: Any, hidden: Any, *, key: Any) -> Any: ...
def other_name(self: Any, observation: Any, state: Any, *, rng: Any) -> Any: ...


@pytest.mark.parametrize(
    "call, told",
    [
        (without_key, "'key'"),
        (observation_alone, "too many positional"),
        (one_too_many, "'hidden'"),
        (other_name, "'rng'"),
    ],
)
@pytest.mark.parametrize("jit", [False, True])
def test_a_wrong_signature_is_refused(call: Callable, told: str, jit: bool) -> None:
    class Wrong(Policy):
        __call__ = eqx.filter_jit(call) if jit else call

    message = refusal(TypeError, Wrong(jnp.zeros(3), categorical), Env())
    assert "Wrong.__call__ must take (observation, state, *, key), got Wrong.__call__(" in message
    assert told in message


def test_a_wrong_signature_of_another_method_is_refused() -> None:
    class Sized(Policy):
        def initial_state(self, size: int) -> Any:  # pyright: ignore
            ...

    message = refusal(TypeError, Sized(jnp.zeros(3), categorical), Env())
    assert "Sized.initial_state must take (), got Sized.initial_state(size" in message

    class Unkeyed(Env):
        def step(self, state: Any, action: Any) -> Any:  # pyright: ignore
            ...

    message = refusal(TypeError, policy(), Unkeyed())
    assert "Unkeyed.step must take (key, state, action), got Unkeyed.step(state" in message


def test_an_environment_of_gymnax_itself_is_refused() -> None:
    env, _ = gymnax.make("CartPole-v1")
    message = refusal(TypeError, policy(), env)
    assert "CartPole.observation_space must take (), got" in message
    assert "rlscan.GymnaxEnvironment(env, params)" in message


@pytest.mark.parametrize(
    "returned, told",
    [
        (lambda d, v, s: (d, v), "got a tuple of 2: (a Categorical, float32[])"),
        (lambda d, v, s: (d, v, s, s), "got a tuple of 4"),
        (lambda d, v, s: d, "got a Categorical"),
        (lambda d, v, s: [d, v, s], "got a list"),
    ],
)
def test_a_wrong_number_of_results_is_refused(returned: Callable, told: str) -> None:
    class Wrong(Policy):
        def __call__(self, observation: Any, state: Any, *, key: Any) -> Any:
            return returned(*super().__call__(observation, state, key=key))

    message = refusal(TypeError, Wrong(jnp.zeros(3), categorical), Env())
    assert "Wrong.__call__ must return (distribution, value, state)" in message and told in message
    assert "returns its state as it came in" in message


def test_logits_in_place_of_a_distribution_are_refused() -> None:
    message = refusal(TypeError, policy(lambda: jnp.zeros(2)), Env())
    assert "must be a distribution with sample, log_prob and entropy, got float32[2]" in message
    assert "distrax.Categorical(logits)" in message


@pytest.mark.parametrize(
    "start, after, told",
    [
        (jnp.zeros(4), lambda s: s[:2], "must have the shape (4,) of initial_state(), got (2,)"),
        (
            jnp.zeros(4),
            lambda s: (s, s),
            "must have the structure of initial_state(), PyTreeDef(*)",
        ),
        ({"h": [0.0]}, lambda s: {"h": [jnp.zeros(1)]}, "['h'][0] must have the shape ()"),
        ((), lambda s: jnp.zeros(4), "must have the structure of initial_state()"),
        (jnp.zeros(4), lambda s: None, "must have the structure of initial_state()"),
    ],
)
def test_a_recurrent_state_of_another_shape_is_refused(
    start: Any, after: Callable[[Any], Any], told: str
) -> None:
    message = refusal(ValueError, policy(start=start, after=after), Env())
    assert message.startswith("the state that Policy.__call__ returns") and told in message


def test_what_a_policy_raises_itself_says_what_it_was_given() -> None:
    wrong = Policy(jnp.zeros(4), categorical)  # for an observation of four numbers
    with pytest.raises(TypeError) as error:
        check_policy(wrong, Env())
    note = "raised in Policy.__call__, for an observation of the environment: float32[3]"
    assert note in error.value.__notes__


def test_a_policy_of_another_environment_is_refused() -> None:
    cartpole, pendulum = rlscan.make("CartPole-v1"), rlscan.make("Pendulum-v1")
    message = refusal(ValueError, rlscan.ActorCritic(cartpole, key=rlscan.key(0)), pendulum)
    assert "takes observations of 4 numbers, got one of shape (3,)" in message
    acrobot, lake = rlscan.make("Acrobot-v1"), rlscan.make("FrozenLake-misc")
    message = refusal(ValueError, rlscan.ActorCritic(acrobot, key=rlscan.key(0)), lake)
    assert "got one of shape ()" in message
    message = refusal(ValueError, rlscan.ActorCritic(lake, key=rlscan.key(0)), acrobot)
    assert "takes observations of 16 numbers, got one of shape (6,)" in message


# Actions that the environment does not take.


@pytest.mark.parametrize(
    "space, distribution, told",
    [
        (Discrete, lambda: categorical(3), "takes 2 actions (Discrete)"),
        (Discrete, lambda: categorical(3), "has 3 categories; give it 2 logits"),
        (Discrete, lambda: gaussian(), "one integer below 2 (Discrete)"),
        (Discrete, lambda: gaussian(), "samples float32[]; use distrax.Categorical"),
        (Discrete, lambda: gaussian(2), "samples float32[2]"),
        (Discrete, lambda: distrax.OneHotCategorical(jnp.zeros(2)), "samples int32[2]"),
        (Discrete, lambda: distrax.Categorical(jnp.zeros((1, 2))), "samples int32[1]"),
        (Box, lambda: gaussian(3), "of shape (2,) (Box)"),
        (Box, lambda: gaussian(), "samples float32[]"),
        (Box, lambda: gaussian(), "Normal(mean, scale), 1) with a mean of shape (2,)"),
        (Box, categorical, "samples int32[]"),
        (ScalarBox, categorical, "takes floats of shape () (Box)"),
    ],
)
def test_an_action_that_does_not_fit_is_refused(
    space: Any, distribution: Callable[[], Any], told: str
) -> None:
    assert told in refusal(ValueError, policy(distribution), Env(space))


def test_a_density_that_is_no_scalar_is_refused() -> None:
    message = refusal(
        ValueError, policy(lambda: distrax.Normal(jnp.zeros(2), jnp.ones(2))), Env(Box)
    )
    assert "the log_prob of one action must be a scalar, got float32[2]" in message
    assert "distrax.Independent(…, 1)" in message


def test_a_distribution_without_entropy_is_refused() -> None:
    squashed = functools.partial(distrax.Transformed, bijector=distrax.Tanh())
    message = refusal(TypeError, policy(lambda: squashed(gaussian())), Env(ScalarBox))
    assert "the distribution Transformed has no entropy" in message and "an estimate" in message


# Environments that are refused.


def test_a_reset_that_returns_no_pair_is_refused() -> None:
    class Wrong(Env):
        def reset(self, key: Any) -> Any:
            return jnp.zeros(3)

    message = refusal(TypeError, policy(), Wrong())
    assert "env.reset must return (observation, state), got float32[3]" in message


def test_five_values_of_gymnax_before_1_are_refused() -> None:
    class Old(Env):
        def step(self, key: Any, state: Any, action: Any) -> Any:
            observation, state, reward, terminated, _, info = super().step(key, state, action)
            return observation, state, reward, terminated, info

    message = refusal(TypeError, policy(), Old())
    assert "env.step must return six values" in message and "got 5;" in message
    assert "terminated and truncated are two flags" in message


@pytest.mark.parametrize(
    "outputs, told",
    [
        ({"info": {}}, "in info['final_observation'], got info with []"),
        ({"info": {"last": 0}}, "got info with ['last']"),
        ({"info": None}, "got info with a NoneType"),
        (
            {"info": {"final_observation": jnp.ones(4)}},
            "info['final_observation'] must have the shape (3,) of the observation of env.step",
        ),
        ({"info": {"final_observation": None}}, "must have the structure"),
        ({"reward": jnp.ones(1)}, "a scalar reward, got float32[1]"),
        ({"terminated": jnp.zeros(2, bool)}, "a scalar terminated, got bool[2]"),
        ({"truncated": jnp.zeros((1, 1), bool)}, "a scalar truncated, got bool[1, 1]"),
        (
            {"observation": jnp.ones(2)},
            "the observation of env.step must have the shape (3,) of env.reset's, got (2,)",
        ),
        ({"state": {"time": jnp.zeros(2)}}, "the state of env.step['time'] must have the shape ()"),
        ({"state": {}}, "the state of env.step must have the structure of env.reset's"),
    ],
)
def test_a_step_that_breaks_the_contract_is_refused(outputs: dict, told: str) -> None:
    assert told in refusal(ValueError, policy(), Env(**outputs))


@pytest.mark.parametrize("limit", [0, -1, 2.5, "500", True])
def test_a_time_limit_that_is_no_number_of_steps_is_refused(limit: Any) -> None:
    env: Any = Env()
    env.time_limit = limit
    message = refusal(ValueError, policy(), env)
    assert f"Env.time_limit must be a positive integer, a number of steps, got {limit!r}" in message


@pytest.mark.parametrize("limit", [None, 5, np.int64(5)])
def test_a_time_limit_in_steps_is_accepted(limit: Any) -> None:
    env: Any = Env()
    env.time_limit = limit
    check_policy(policy(), env)


def test_init_rollout_refuses_the_same() -> None:
    wrong: Any = policy(lambda: categorical(3))
    env: Any = Env()
    with pytest.raises(ValueError, match="has 3 categories; give it 2 logits"):
        rlscan.init_rollout(wrong, env, num_envs=2, key=rlscan.key(0))
