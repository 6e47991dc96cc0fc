import functools
import random
from collections.abc import Callable
from typing import Any

import distrax
import equinox as eqx
import gymnasium
import gymnax
import jax
import jax.numpy as jnp
import numpy as np
import probes
import pytest
from gymnax.environments import spaces
from jax.core import Tracer
from jaxtyping import Array, Float

import rlscan
from rlscan import check_policy
from rlscan._check import dataflow

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


# Valid input.


@pytest.mark.parametrize(
    "space, distribution",
    [
        (Discrete, categorical),
        (Discrete, lambda: distrax.Bernoulli(logits=jnp.zeros(()), dtype=jnp.int32)),
        (Box, lambda: gaussian(2)),
        (ScalarBox, lambda: gaussian()),
        (IntegerBox, categorical),
        (object(), lambda: gaussian(4)),  # spaces of unknown kinds are not checked
    ],
)
def test_valid_policies_and_environments_are_accepted(
    space: Any, distribution: Callable[[], Any]
) -> None:
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
        check_policy(rlscan.policies.ActorCritic(env, dropout=0.1, key=rlscan.key(0)), env)


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
        assert compiled  # the listener works
        check_policy(looking, Env())  # the first call may create a key
        del compiled[:]
        check_policy(looking, Env())
        assert compiled == []
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    assert values and all(isinstance(value, Tracer) for value in values)


# Invalid policies.


def test_a_class_in_place_of_an_object_is_refused() -> None:
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
    assert "policy Stateless has no method 'initial_state'; see rlscan.Policy for" in message
    assert "Uncallable has no method '__call__'" in refusal(TypeError, Uncallable(), Env())
    assert "has no method 'initial_state'" in refusal(TypeError, lambda o, s, *, key: o, Env())

    env = Env()
    for name in ("reset", "step", "observation_space", "action_space"):
        without = type("Without", (Env,), {name: None})()
        message = refusal(TypeError, policy(), without)
        assert f"environment Without has no method {name!r}; see rlscan.Environment" in message
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
    assert "rlscan.envs.GymnaxEnvironment(env, params)" in message


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
    assert "returns its state unchanged" in message


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


def test_an_error_raised_by_a_policy_names_its_inputs() -> None:
    wrong = Policy(jnp.zeros(4), categorical)  # for an observation of four numbers
    with pytest.raises(TypeError) as error:
        check_policy(wrong, Env())
    note = "raised in Policy.__call__, for an observation of the environment: float32[3]"
    assert note in error.value.__notes__


def test_actions_of_another_structure_are_refused() -> None:
    def acting_in(space: Any) -> Policy:
        head = rlscan.policies.ActionHead(space)
        return policy(lambda: head(jnp.zeros(head.num_outputs), key=rlscan.key(0)))

    two, pair = gymnasium.spaces.MultiDiscrete([2, 3]), spaces.Tuple([Discrete(), Box()])  # pyright: ignore
    check_policy(acting_in(pair), Env(pair))
    message = refusal(ValueError, acting_in(pair), Env(spaces.Tuple(pair.spaces[:1])))
    assert "takes a tuple of 1 (Tuple), but the policy's distribution samples a tuple" in message
    message = refusal(ValueError, acting_in(pair), Env(spaces.Dict({"a": pair})))
    assert (
        "takes a dict with ['a'] (Dict), but" in message
        and "rlscan.policies.ActionHead(env" in message
    )
    other = spaces.Dict({"a": spaces.Tuple([Discrete(), ScalarBox()])})  # pyright: ignore
    message = refusal(ValueError, acting_in(spaces.Dict({"a": pair})), Env(other))
    assert "takes at action['a'][1] floats of shape () (Box)" in message
    message = refusal(ValueError, acting_in(two), Env(gymnasium.spaces.MultiDiscrete([2, 3, 4])))
    assert "takes integers of shape (3,) (MultiDiscrete), but" in message


@pytest.mark.slow
def test_a_policy_of_another_environment_is_refused() -> None:
    cartpole, pendulum = rlscan.make("CartPole-v1"), rlscan.make("Pendulum-v1")
    message = refusal(
        ValueError, rlscan.policies.ActorCritic(cartpole, key=rlscan.key(0)), pendulum
    )
    assert "takes observations of shape (4,), got one of shape (3,)" in message
    acrobot, lake = rlscan.make("Acrobot-v1"), rlscan.make("FrozenLake-misc")
    message = refusal(ValueError, rlscan.policies.ActorCritic(acrobot, key=rlscan.key(0)), lake)
    assert "got one of shape ()" in message
    message = refusal(ValueError, rlscan.policies.ActorCritic(lake, key=rlscan.key(0)), acrobot)
    assert "takes observations of shape (), got one of shape (6,)" in message


# Actions that do not fit the environment.


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


def test_a_density_that_is_not_a_scalar_is_refused() -> None:
    message = refusal(
        ValueError, policy(lambda: distrax.Normal(jnp.zeros(2), jnp.ones(2))), Env(Box)
    )
    assert "the log_prob of one action must be a scalar, got float32[2]" in message
    assert "distrax.Independent(…, 1)" in message


def test_a_distribution_without_entropy_is_refused() -> None:
    squashed = functools.partial(distrax.Transformed, bijector=distrax.Tanh())
    message = refusal(TypeError, policy(lambda: squashed(gaussian())), Env(ScalarBox))
    assert "the distribution Transformed has no entropy" in message and "an estimate" in message


# Invalid environments.


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
@pytest.mark.parametrize(
    "name, what",
    [("time_limit", "a number of steps"), ("final_slots", "a number of truncations")],
)
def test_an_invalid_time_limit_is_refused(name: str, what: str, limit: Any) -> None:
    env: Any = Env()
    setattr(env, name, limit)
    message = refusal(ValueError, policy(), env)
    assert f"Env.{name} must be a positive integer, {what}" in message
    assert f"got {limit!r}" in message


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


# Noise that cannot be replayed. `Acts` is a policy with replaceable parts.


class Acts(eqx.Module):
    part: Any  # anything
    act: Callable  # (part, observation, state, key) -> (logits, state)
    start: Any = ()

    def __call__(self, observation: Any, state: Any, *, key: Any) -> Any:
        logits, state = self.act(self.part, observation, state, key)
        return distrax.Categorical(logits=logits), None, state

    def initial_state(self) -> Any:
        return self.start


def acting(noise: Callable[[Any, Any, Any], Any], part: Any = (), start: Any = ()) -> Acts:
    """A policy that adds `noise(part, observation, key)`, a number, to its logits."""
    act = lambda part, o, state, key: (o[:2] + noise(part, o, key), state)  # noqa: E731
    return Acts(part, act, start)


normal = jax.random.normal
STORED = jax.random.key(0)


@pytest.mark.parametrize("key", [STORED, jax.random.PRNGKey(0), np.zeros(2, np.uint32)])
@pytest.mark.parametrize(
    "noise",
    [
        lambda part, o, key: normal(part["noise_key"]),
        lambda part, o, key: normal(jax.random.fold_in(part["noise_key"], jnp.int32(o[0]))),
        lambda part, o, key: jax.random.gamma(part["noise_key"], part["weight"]),
        lambda part, o, key: jax.jit(jax.checkpoint(normal))(part["noise_key"]),
        lambda part, o, key: jax.lax.cond(o[0] > 0, normal, lambda k: 0.0, part["noise_key"]),
        lambda part, o, key: jax.lax.scan(
            lambda c, _: (jax.random.split(c)[0], normal(c)), part["noise_key"], length=2
        )[1].sum(),
        lambda part, o, key: jax.lax.while_loop(
            lambda c: c < part["weight"], lambda c: c + normal(part["noise_key"]), 0.0
        ),
    ],
)
def test_noise_from_a_key_in_the_policy_is_refused(noise: Callable, key: Any) -> None:
    message = refusal(ValueError, acting(noise, {"noise_key": key, "weight": jnp.ones(())}), Env())
    assert "must be drawn from `key`, but at " in message and "test_check.py" in message
    assert "drawn from policy.part['noise_key'], the same in every step" in message
    assert "keep no key in the policy" in message


def test_weights_that_choose_a_key_are_not_blamed() -> None:
    part = {"keys": jax.random.split(STORED), "weight": jnp.ones(2)}
    chosen = acting(lambda part, o, key: normal(part["keys"][jnp.argmax(part["weight"])]), part)
    assert "drawn from policy.part['keys'], the same" in refusal(ValueError, chosen, Env())


def with_constant_in_a_scan(part: Any, o: Any, key: Any) -> Any:
    body = lambda carry, k: (carry + normal(jax.random.key(1)) + normal(k), None)  # noqa: E731
    return jax.lax.scan(body, 0.0, jax.random.split(key, 2))[0]


@pytest.mark.parametrize(
    "noise",
    [
        lambda part, o, key: normal(jax.random.PRNGKey(np.random.randint(9))),
        lambda part, o, key: normal(jax.random.fold_in(jax.random.key(0), 7)),
        lambda part, o, key: normal(STORED),
        lambda part, o, key: normal(key) + normal(jax.random.key(0)),
        with_constant_in_a_scan,
    ],
)
def test_noise_from_a_constant_key_is_refused(noise: Callable) -> None:
    message = refusal(ValueError, acting(noise), Env())
    assert "it is drawn from a key that is a constant" in message
    assert "It freezes one mask forever; draw with jax.random from `key`" in message


@pytest.mark.parametrize("primitive", ["scan", "while", "cond"])
def test_an_equation_that_jax_writes_in_another_way_is_passed_over(
    primitive: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def noise(part: Any, o: Any, key: Any) -> Any:
        body = lambda carry, k: (carry + normal(k), None)  # noqa: E731
        total = jax.lax.scan(body, 0.0, jax.random.split(key, 2))[0]
        more = jax.lax.while_loop(lambda x: x < 1, lambda x: x + o[0], total)
        return jax.lax.cond(o[0] > 0, lambda: more, lambda: total)

    check_policy(acting(noise), Env())
    read = dataflow._RULES[primitive]
    renamed = lambda eqn: read(eqn.replace(params={"renamed": eqn.params}))  # noqa: E731
    monkeypatch.setitem(dataflow._RULES, primitive, renamed)
    with pytest.warns(UserWarning, match=f"noise is not traced through `{primitive}`, which jax"):
        check_policy(acting(noise), Env())


def as_raw(key: Any) -> Any:
    return jax.random.key_data(key)[:2]  # of as many words as the default generator takes


def through_a_while_loop(part: Any, o: Any, key: Any) -> Any:
    """A scan whose carry starts with a constant key that is never used."""
    fresh = lambda c: (c[0] + 1, key, c[2] + jnp.where(c[0] > 0, normal(c[1]), 0))  # noqa: E731
    return jax.lax.while_loop(lambda c: c[0] < 3, fresh, (0, rlscan.key(0), 0.0))[2]


def through_a_reference(part: Any, o: Any, key: Any) -> Any:
    ref = jax.new_ref(jnp.zeros(2, jnp.uint32))
    ref[...] = as_raw(key)
    return normal(ref[...])


def of_a_dead_layer(part: Any, o: Any, key: Any) -> Any:
    layer = eqx.nn.Linear(3, 2, key=jax.random.key(0))  # whose weights are replaced
    weight = normal(key, (2, 3))
    layer = eqx.tree_at(lambda m: (m.weight, m.bias), layer, (weight, jnp.zeros(2)))
    return layer(o)


@pytest.mark.parametrize(
    "noise",
    [
        lambda part, o, key: normal(key),
        lambda part, o, key: normal(jax.random.fold_in(key, jnp.int32(o[0]))),
        lambda part, o, key: normal(jax.random.fold_in(key, part["index"])),
        lambda part, o, key: normal(jax.random.key(jax.random.bits(key))),
        lambda part, o, key: normal(jax.random.fold_in(part["key"], jax.random.bits(key))),
        lambda part, o, key: normal(jax.random.wrap_key_data(as_raw(key))),
        lambda part, o, key: normal(as_raw(key)),
        lambda part, o, key: jax.random.gamma(key, 2.0) + jax.random.poisson(as_raw(key), 2.0),
        lambda part, o, key: jax.nn.relu(jax.nn.silu(jax.checkpoint(normal)(key))),
        lambda part, o, key: eqx.filter_jit(lambda m, k: m(jnp.ones(2), key=k))(part["layer"], key),
        lambda part, o, key: jax.lax.cond(o[0] > 0, normal, lambda k: 0.0, key),
        lambda part, o, key: jax.vmap(normal)(jax.random.split(key, 2)),
        through_a_while_loop,
        through_a_reference,
        of_a_dead_layer,
    ],
)
def test_noise_from_key_is_accepted_however_it_gets_there(noise: Callable) -> None:
    part = {"index": jnp.asarray(3), "key": STORED, "layer": eqx.nn.Dropout(0.5)}
    check_policy(acting(noise, part), Env())


def keeps_a_key(part: Any, o: Any, state: Any, key: Any) -> Any:
    """One mask per episode, drawn from the `key` of its first step."""
    own = jnp.where(state["t"] == 0, jax.random.key_data(key), state["key"])
    noise = normal(jax.random.wrap_key_data(own, impl="philox4x32"))
    return o[:2] + noise, {"key": own, "t": state["t"] + 1}


def keeps_the_last_key(part: Any, o: Any, state: Any, key: Any) -> Any:
    noise = part(jnp.ones(2), key=state["key"])
    return o[:2] + noise, {"key": key, "t": state["t"] + 1}


def splits_its_own(part: Any, o: Any, state: Any, key: Any) -> Any:
    own, draw = jax.random.split(state["key"])
    return o[:2] + normal(draw), {"key": own, "t": state["t"] + 1}


def folds_its_step(part: Any, o: Any, state: Any, key: Any) -> Any:
    draw = jax.random.fold_in(jax.random.key(0), state["t"])
    return o[:2] + normal(draw), {**state, "t": state["t"] + 1}


def test_a_key_in_the_state_is_accepted_if_it_was_once_drawn_from_key() -> None:
    data = jax.random.key_data(rlscan.key(0))
    check_policy(Acts((), keeps_a_key, {"key": data, "t": 0}), Env())
    start = {"key": rlscan.key(0), "t": 0}
    check_policy(Acts(eqx.nn.Dropout(0.5), keeps_the_last_key, start), Env())
    for act, leaf in ((splits_its_own, "key"), (folds_its_step, "t")):
        message = refusal(ValueError, Acts((), act, start), Env())
        assert f"drawn from state['{leaf}'], which starts as initial_state() makes it" in message
        assert "split a key from `key` into the state" in message


def test_keys_of_two_generators_in_one_place_are_refused() -> None:
    start = {"key": jax.random.key(0, impl="threefry2x32"), "t": 0}
    keeps = Acts(eqx.nn.Dropout(0.5), keeps_the_last_key, start)
    assert (
        "the state that Acts.__call__ returns['key'] must be a key of threefry2x32, to match "
        "initial_state(), got a key of mix32; hold keys of one generator in both, that of `key`"
    ) in refusal(ValueError, keeps, Env())
    check_policy(keeps, Env(), key=start["key"])  # as in rollouts with keys of threefry2x32
    grows = policy(start={"h": jnp.zeros(())}, after=lambda state: {"h": rlscan.key(0)})
    assert "['h'] must be float32[], to match" in refusal(ValueError, grows, Env())
    env = Env(state={"time": rlscan.key(0)})
    assert "env.step['time'] must be int32[], to match" in refusal(ValueError, policy(), env)


def test_a_key_in_the_observation_is_accepted() -> None:
    class Keyed(Env):
        def reset(self, key: Any) -> Any:
            return {"x": jnp.zeros(3), "key": rlscan.key(0)}, {"time": 0}

    seen = {"x": jnp.zeros(3), "key": rlscan.key(0)}
    env = Keyed(observation=seen, info={"final_observation": seen})
    act = lambda part, o, s, key: (part(o["x"][:2], key=o["key"]), s)  # noqa: E731
    check_policy(Acts(eqx.nn.Dropout(0.5), act), env)


def test_keys_of_every_kind_and_generator_are_followed() -> None:
    from jax.extend.random import define_prng_impl, threefry_prng_impl as threefry

    impl = define_prng_impl(
        key_shape=(2,),
        seed=threefry.seed,
        split=threefry.split,
        random_bits=threefry.random_bits,
        fold_in=threefry.fold_in,
        name="check_policy_test",
        tag="chk",
    )
    for kind in (impl, "threefry2x32", "philox4x32", "rbg"):
        size = jax.random.key_data(jax.random.key(0, impl=kind)).size
        wrap = lambda k, n=size, i=kind: jax.random.wrap_key_data(jnp.tile(k, n // 2), impl=i)  # noqa: E731
        check_policy(acting(lambda part, o, key, w=wrap: normal(w(as_raw(key)))), Env())
        stored = acting(lambda part, o, key: normal(part), jax.random.key(0, impl=kind))
        assert "policy.part, the same" in refusal(ValueError, stored, Env())
    bits = lambda key: jax.lax.rng_bit_generator(key, ())[1] / 2.0**32  # noqa: E731
    check_policy(acting(lambda part, o, key: bits(jnp.tile(as_raw(key), 2))), Env())
    stored = acting(lambda part, o, key: bits(part), jnp.zeros(4, jnp.uint32))
    assert "policy.part, the same" in refusal(ValueError, stored, Env())


@eqx.filter_jit
def jitted_noise(x: Any) -> Any:
    return x + np.random.normal()


@pytest.mark.parametrize(
    "noise",
    [
        lambda part, o, key: np.random.normal(),
        lambda part, o, key: random.random(),
        lambda part, o, key: np.random.default_rng().normal(size=2),
        lambda part, o, key: jnp.asarray(np.random.permutation(1000))[:2],
        lambda part, o, key: jitted_noise(o[0]),
        lambda part, o, key: jnp.ones(1000)[np.random.randint(1000)],
        lambda part, o, key: jax.lax.cond(o[0] > 0, lambda: random.random(), lambda: 0.0),
    ],
)
def test_numbers_of_numpy_are_refused(noise: Callable) -> None:
    for _ in range(2):  # also if the jitted function was traced before
        message = refusal(ValueError, acting(noise), Env())
        assert "must be the same program each time it is traced, got " in message
        assert "test_check.py" in message and "draw with jax.random from `key`" in message


def test_another_program_each_time_is_refused() -> None:
    turns = []

    def noise(part: Any, o: Any, key: Any) -> Any:
        turns.append(0)
        return o[0] if len(turns) % 2 else jnp.sin(o[0])

    assert "traced, got " in refusal(ValueError, acting(noise), Env())

    class Bare(Policy):
        def __call__(self, observation: Any, state: Any, *, key: Any) -> Any:
            return categorical(), random.random(), state

    message = refusal(ValueError, Bare(jnp.zeros(3), categorical), Env())
    assert "the second time, in its outputs: numbers" in message


def test_constants_that_stay_are_accepted() -> None:
    table, seeded = np.arange(2.0), np.random.default_rng(0).normal(size=(100, 100))
    check_policy(acting(lambda part, o, key: table + jnp.asarray(seeded)[3, 5] + np.nan), Env())
    check_policy(acting(lambda p, o, k: np.random.default_rng(0).normal(size=2) * o[0]), Env())


# Flags, rates and states that become arrays or change.


def nested(layer: Any) -> Acts:
    body = eqx.nn.Sequential([eqx.nn.Linear(3, 2, key=STORED), layer])
    return Acts({"body": body}, lambda part, o, s, key: (part["body"](o, key=key), s))


def test_a_flag_that_is_an_array_is_refused() -> None:
    for flag in (jnp.asarray(False), np.asarray(True)):
        broken = nested(eqx.nn.Dropout(0.5, inference=flag))  # pyright: ignore
        message = refusal(TypeError, broken, Env())
        assert "policy.part['body'].layers[1].inference must be a Python bool, got the" in message
        assert "eqx.nn.inference_mode" in message and "rlscan.filter_scan" in message

    class Holds(eqx.Module):
        """A module of another kind may have arrays of any other name."""

        training: Any

        def __call__(self, x: Any, *, key: Any = None) -> Any:
            return jnp.where(self.training, x, 0)

    check_policy(nested(Holds(jnp.asarray(True))), Env())
    check_policy(nested(eqx.nn.Dropout(0.5)), Env())


def test_a_rate_that_would_be_trained_is_refused() -> None:
    message = refusal(TypeError, nested(eqx.nn.Dropout(jnp.asarray(0.5))), Env())  # pyright: ignore
    assert "policy.part['body'].layers[1].p must be a Python number, got the array" in message
    assert "rlscan.nn.AnnealedDropout" in message
    call = lambda part, o, s, key: (part(*[o[None, :]] * 3, key=key)[0, :2], s)  # noqa: E731
    attend = eqx.nn.MultiheadAttention(1, 3, dropout_p=0.5, key=STORED)
    check_policy(Acts(attend, call), Env())
    traced = eqx.tree_at(lambda m: m.dropout.p, attend, jnp.asarray(0.5))
    assert "policy.part.dropout.p must be" in refusal(TypeError, Acts(traced, call), Env())
    check_policy(nested(rlscan.nn.AnnealedDropout(0.5)), Env())


@pytest.mark.parametrize(
    "start, after, told",
    [
        ({"h": 0, "f": jnp.tanh}, lambda s: {**s, "f": jnp.sin}, "returns['f'] must stay"),
        ({"mode": "a"}, lambda s: {"mode": "b"}, "['mode'] must stay 'a' (str), got"),
        ({"mode": "a"}, lambda s: {"mode": "b"}, "got 'b' (str): only arrays may change"),
        ([0, "a"], lambda s: [s[0], jnp.zeros(())], "returns[1] must stay"),
        ([jnp.zeros(())], lambda s: ["a"], "returns[0] must stay the array float32[]"),
    ],
)
def test_a_state_whose_static_half_changes_is_refused(
    start: Any, after: Callable, told: str
) -> None:
    message = refusal(TypeError, policy(start=start, after=after), Env())
    assert told in message and "in initial_state()" in message


def test_numbers_and_flags_of_a_state_may_change() -> None:
    start = {"t": 0, "first": True, "f": jnp.tanh, "name": "".join(["a", "b"])}
    after = lambda s: {"t": 3, "first": False, "f": jnp.tanh, "name": "ab"}  # noqa: E731
    check_policy(policy(start=start, after=after), Env())


def test_a_state_of_another_structure_is_refused_by_its_path() -> None:
    start = {"a": {"b": (jnp.zeros(2), 1)}}
    changed = policy(start=start, after=lambda s: {"a": {"b": [jnp.zeros(2), 1]}})
    message = refusal(ValueError, changed, Env())
    assert "at the state that Policy.__call__ returns['a']['b'], give (" in message


# Noise layers that draw nothing.


@pytest.mark.parametrize("layer", [eqx.nn.Dropout(0.5), rlscan.nn.DropPath(0.5)])
def test_a_layer_that_is_left_out_is_refused(layer: Any) -> None:
    skip = lambda part, o, s, key: (part.layers[0](o), s)  # noqa: E731
    still = lambda part, o, s, key: (part.layers[1](part.layers[0](o), inference=True), s)  # noqa: E731
    body = nested(layer).part["body"]
    for act in (skip, still):
        message = refusal(ValueError, Acts(body, act), Env())
        assert (
            "although it has policy.part.layers[1]; pass the key on, layer(x, key=key)" in message
        )
        assert "eqx.nn.inference_mode" in message
        check_policy(eqx.nn.inference_mode(Acts(body, act)), Env())
        check_policy(eqx.tree_at(lambda m: m.part.layers[1].p, Acts(body, act), 0.0), Env())
        # Layers of a module that is not used, such as a world model, are ignored.
        spare = Acts((body, body), lambda part, o, s, key: (o[:2], s))
        check_policy(spare, Env())


def test_noise_that_only_decides_how_long_is_accepted() -> None:
    def act(part: Any, o: Any, s: Any, key: Any) -> Any:
        limit = part(jnp.ones(3), key=key).sum()
        return o[:2] + jax.lax.while_loop(lambda c: c < limit, lambda c: c + 1, 0.0), s

    check_policy(Acts(eqx.nn.Dropout(0.5), act), Env())


@pytest.mark.slow
def test_dropout_in_one_network_or_in_none_is_accepted() -> None:
    env = rlscan.make("CartPole-v1")
    for actor, critic in ((0.0, 0.5), (0.5, 0.0), (0.0, 0.0)):
        actor_critic = rlscan.policies.ActorCritic(
            env, dropout=actor, critic_dropout=critic, key=rlscan.key(0)
        )
        for module in (actor_critic, eqx.nn.inference_mode(actor_critic)):
            check_policy(module, env)


# Statistics.


class Counter(eqx.Module):
    """A user's own stateful layer, with its indices in a list."""

    indices: list
    inference: bool = False


class OfNetwork(eqx.Module):
    norm: Any

    def __call__(self, observation: Any, state: Any, *, key: Any) -> Any:
        return categorical(), None, state

    def initial_state(self) -> Any:
        return ()


def test_statistics_that_move_are_refused() -> None:
    index = eqx.nn.StateIndex(jnp.zeros(()))
    linear = eqx.nn.Linear(2, 2, key=STORED)
    layers = (
        eqx.nn.BatchNorm(2, "batch", mode="batch"),
        eqx.nn.SpectralNorm(linear, "weight", key=STORED),
        Counter([index]),
    )
    for layer in layers:
        message = refusal(ValueError, OfNetwork({"of": layer}), Env())
        assert f"policy.norm['of'] is a {type(layer).__name__} in training mode" in message
        assert "rlscan.nn.WithStatistics(*eqx.nn.make_with_state(Network)(…))" in message
        check_policy(eqx.nn.inference_mode(OfNetwork(layer)), Env())


class Normalised(eqx.Module):
    norm: eqx.nn.BatchNorm

    def __init__(self) -> None:
        self.norm = eqx.nn.BatchNorm(3, "batch", mode="batch")

    def __call__(self, observation: Any, state: Any, statistics: Any, *, key: Any) -> Any:
        seen, statistics = self.norm(observation, statistics)
        return categorical(), seen[0], state, statistics

    def initial_state(self) -> Any:
        return ()


def test_statistics_in_their_own_place_are_accepted() -> None:
    own: Any = rlscan.nn.WithStatistics(*eqx.nn.make_with_state(Normalised)())
    check_policy(own, Env())
    check_policy(OfNetwork(own), Env())


def test_statistics_in_the_state_are_refused() -> None:
    _, statistics = eqx.nn.make_with_state(eqx.nn.BatchNorm)(2, "batch", mode="batch")
    message = refusal(ValueError, policy(start={"h": 0, "s": statistics}), Env())
    assert "policy.initial_state()['s'] must belong to one environment" in message
    assert "rlscan.nn.WithStatistics(" in message


def test_an_axis_without_a_name_is_explained() -> None:
    with pytest.raises(NameError) as error:
        check_policy(acting(lambda part, o, key: jax.lax.pmean(o[0], "batch")), Env())
    assert any("a policy is called for one observation; use" in n for n in error.value.__notes__)
    with pytest.raises(NameError) as error:
        check_policy(acting(lambda part, o, key: nowhere), Env())  # noqa: F821 # pyright: ignore
    assert not any("for one observation; use" in note for note in error.value.__notes__)


# Inside a trace.


def test_traced_policies_and_keys_are_checked() -> None:
    env = rlscan.make("CartPole-v1")
    silent = nested(eqx.nn.Dropout(0.5)).part["body"]
    silent = Acts(silent, lambda part, o, s, key: (part.layers[0](o), s))

    def make(key: Any) -> Any:
        good = rlscan.policies.ActorCritic(env, dropout=0.1, key=key)
        check_policy(good, env)
        with pytest.raises(ValueError, match="policy.part, the same"):
            check_policy(acting(lambda part, o, key: normal(part), key), Env())
        with pytest.raises(ValueError, match="a constant"):  # closed over
            check_policy(acting(lambda part, o, _: normal(key)), Env())
        return good

    def check(module: Any) -> Any:
        with pytest.raises(ValueError, match=r"it has policy.part.layers\[1\]"):
            check_policy(module, Env())
        return module

    jax.eval_shape(lambda key: eqx.filter(make(key), eqx.is_array), rlscan.key(0))
    keys = jax.ShapeDtypeStruct((3,), rlscan.key(0).dtype)
    jax.eval_shape(jax.vmap(lambda key: eqx.filter(make(key), eqx.is_array)), keys)
    eqx.filter_eval_shape(check, silent)


class Logits(eqx.Module):
    """A distribution returned from a filtered transformation."""

    logits: Any

    def sample(self, *, seed: Any) -> Any:
        return jax.random.categorical(seed, self.logits)

    def log_prob(self, value: Any) -> Any:
        return jax.nn.log_softmax(self.logits)[value]

    def entropy(self) -> Any:
        return jnp.zeros(())


def test_a_jitted_call_is_seen_through() -> None:
    class Jitted(Acts):
        @eqx.filter_jit
        def __call__(self, observation: Any, state: Any, *, key: Any) -> Any:
            logits, state = self.act(self.part, observation, state, key)
            return Logits(logits), None, state

    draw = lambda part, o, s, key: (part(o, key=key)[:2], s)  # noqa: E731
    stored = lambda part, o, s, key: (o[:2] + normal(part), s)  # noqa: E731
    frozen = lambda part, o, s, key: (o[:2] + np.random.normal(), s)  # noqa: E731
    for _ in range(2):
        check_policy(Jitted(eqx.nn.Dropout(0.5), draw), Env())
        message = refusal(ValueError, Jitted(STORED, stored), Env())
        assert "drawn from policy.part, the same" in message
        assert "the same program" in refusal(ValueError, Jitted((), frozen), Env())


def test_a_distribution_that_is_no_pytree_is_refused() -> None:
    class Opaque:
        def __init__(self, logits: Any):
            self.inner = Logits(logits)
            self.sample, self.log_prob = self.inner.sample, self.inner.log_prob
            self.entropy = self.inner.entropy

    class Hiding(Acts):
        def __call__(self, observation: Any, state: Any, *, key: Any) -> Any:
            logits, state = self.act(self.part, observation, state, key)
            return Opaque(logits), None, state

    act = lambda part, o, s, key: (part(o, key=key)[:2], s)  # noqa: E731
    message = refusal(TypeError, Hiding(eqx.nn.Dropout(0.5), act), Env())
    assert "Hiding.__call__ returns must be a pytree" in message and "got a Opaque" in message
    assert "make the class an eqx.Module" in message


def test_the_sampling_of_a_distribution_is_its_own_affair() -> None:
    class Estimates(Logits):
        def entropy(self) -> Any:
            return normal(jax.random.key(0)).sum()

    class Estimating(Acts):
        def __call__(self, observation: Any, state: Any, *, key: Any) -> Any:
            return Estimates(observation[:2]), None, state

    check_policy(Estimating((), normal), Env())


def test_the_probes_are_accepted() -> None:
    wander = probes.Wander()
    for make in (
        probes.dropout_policy,
        probes.noise_policy,
        probes.conv_policy,
        probes.attention_policy,
        probes.Recurrent,
    ):
        check_policy(make(), wander)
        check_policy(eqx.nn.inference_mode(make()), wander)
    check_policy(probes.gaussian_dropout_policy(), probes.Wander(is_continuous=True))
    for is_recurrent in (False, True):
        check_policy(probes.Masks(0.5, is_recurrent), probes.both)
    check_policy(probes.Coin(jnp.zeros(()), jnp.zeros(())), probes.both)
    check_policy(probes.OneNumber(jnp.zeros(())), probes.WhatWasSent())
