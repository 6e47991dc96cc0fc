import inspect
import io
import re
from collections.abc import Callable
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import probes
import pytest
from jax import lax
from jax.extend.random import define_prng_impl
from jaxtyping import Array, PRNGKeyArray

import rlscan
from rlscan import GENERATORS
from rlscan._rollout.audit import audit_tolerance
from rlscan.random._keys import as_key, as_keys, generator_of
from rlscan.testing._environment_check import _check_types

OF_JAX = ["threefry2x32", "philox4x32"]
DEFAULT = "mix32"


def impl_of(key: PRNGKeyArray) -> str:
    return str(jax.random.key_impl(key))


def test_key_is_a_typed_key_of_the_default_generator() -> None:
    key = rlscan.key(3)
    assert jnp.issubdtype(key.dtype, jax.dtypes.prng_key) and key.shape == ()
    assert impl_of(key) == DEFAULT == GENERATORS[0]
    assert (key == jax.random.key(3, impl=rlscan.random.mix32)).item()
    assert (jax.vmap(rlscan.key)(jnp.arange(5))[3] == key).item()  # as seeds are vmapped


@pytest.mark.parametrize("generator", GENERATORS)
def test_a_generator_is_chosen_by_name(generator: str) -> None:
    key = rlscan.key(3, generator=generator)
    assert impl_of(key) == generator
    assert impl_of(init(key).policy_key) == generator
    if generator in OF_JAX:
        assert (key == jax.random.key(3, impl=generator)).item()


@pytest.mark.slow
def test_generators_that_are_unknown_or_inexact_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match="must be one of mix32, .*, got 'threefry'"):
        rlscan.key(0, generator="threefry")
    with pytest.raises(ValueError, match="'rbg' cannot be replayed"):
        rlscan.key(0, generator="rbg")
    own = registered("of a user")
    assert impl_of(rlscan.key(0, generator=own)) == "of a user"


@pytest.mark.parametrize(
    "seed", [-1, 2**32, 2**40 + 1, 10**30, np.int64(-1), np.array(2**32), jnp.asarray(-1)]
)
def test_seeds_that_would_share_a_stream_are_refused(seed: Any) -> None:
    told = rf"seed must be from 0 to 4294967295, got {seed}; use seed % 2\*\*32"
    with pytest.raises(ValueError, match=told):
        rlscan.key(seed)


@pytest.mark.parametrize("generator", GENERATORS)
def test_each_seed_has_a_stream_of_its_own(generator: str) -> None:
    seeds = [0, 1, 2**31 - 1, 2**31, 2**32 - 2, 2**32 - 1]
    keys = [rlscan.key(seed, generator=generator) for seed in seeds]
    assert len({tuple(jax.random.key_data(key).tolist()) for key in keys}) == len(seeds)
    same = [rlscan.key(kind(2**32 - 1), generator=generator) for kind in (np.uint32, jnp.uint32)]
    with jax.enable_x64(True):
        same.append(rlscan.key(2**32 - 1, generator=generator))
    assert all((key == keys[-1]).item() for key in same)


@pytest.mark.parametrize("generator", GENERATORS)
def test_shapes_of_keys_have_their_generator(generator: str) -> None:
    shapes = jax.eval_shape(lambda: jax.random.split(rlscan.key(0, generator=generator)))
    assert generator_of(shapes) == generator


# Keys as data.


@pytest.mark.parametrize("generator", GENERATORS)
def test_keys_are_restored_from_their_data(generator: str) -> None:
    keys = jax.random.split(rlscan.key(5, generator=generator), (2, 3))
    data = rlscan.random.key_data(keys)
    assert data.generator == generator and data.words.dtype == np.uint32
    file = io.BytesIO()
    np.savez(file, **data._asdict())
    file.seek(0)
    stored = np.load(file)
    back = rlscan.random.keys_from_data(
        rlscan.random.KeyData(stored["words"], str(stored["generator"]))
    )
    assert back.dtype == keys.dtype and (back == keys).all()


@pytest.mark.parametrize(
    "data, told",
    [
        ((np.zeros(2, np.uint32), "rbg"), "generator must be one of mix32, .*, got 'rbg'"),
        (
            (np.zeros(4, np.uint32), "mix32"),
            r"uint32\[…, 2\] for keys of mix32, got uint32\[4\]; pass",
        ),
        (
            (np.zeros((), np.uint32), "mix32"),
            r"uint32\[…, 2\] for keys of mix32, got uint32\[\]; pass",
        ),
        ((np.zeros(2), "threefry2x32"), r"words must be uint32\[…, 2\] .*, got float64\[2\]"),
    ],
)
def test_invalid_key_data_is_refused(data: tuple, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        rlscan.random.keys_from_data(rlscan.random.KeyData(*data))


def test_keys_of_an_unknown_generator_have_no_data() -> None:
    with pytest.raises(
        ValueError, match="must be of one of the generators mix32, .*, got keys of 'unnamed'; use"
    ):
        rlscan.random.key_data(jax.random.key(0, impl=registered("unnamed")))


# Keys that `as_key` accepts and rejects.


@pytest.mark.parametrize("impl", [*OF_JAX, rlscan.random.mix32], ids=str)
def test_exact_generators_are_accepted_as_they_are(impl: Any) -> None:
    key = jax.random.key(1, impl=impl)
    assert as_key(key) is key
    assert jax.eval_shape(as_key, key).dtype == key.dtype  # under a trace too
    assert (jax.vmap(as_key)(key[None])[0] == key).item()


def test_raw_keys_are_wrapped() -> None:
    raw = jax.random.PRNGKey(7)
    assert (as_key(raw) == jax.random.key(7)).item()
    state = init(raw)
    typed = init(jax.random.key(7))
    assert (state.policy_key == typed.policy_key).all()


@pytest.mark.parametrize(
    "wrong, told",
    [
        (0, "got 0 of type int"),
        (None, "got None of type NoneType"),
        (0.5, "got 0.5 of type float"),
        (np.zeros(2, np.uint32), "of type ndarray"),
        (jnp.zeros(2), "got an array float32[2]"),
        (jnp.zeros(3, jnp.uint32), "got an array uint32[3]"),
        (jnp.zeros((4, 2), jnp.uint32), "got an array uint32[4, 2]"),
    ],
)
def test_other_objects_than_keys_are_refused(wrong: Any, told: str) -> None:
    with pytest.raises(TypeError) as error:
        as_key(wrong)
    message = str(error.value)
    assert message.startswith("key must be a JAX random key") and told in message
    assert message.endswith("use key=rlscan.key(0)")


def test_one_key_or_a_row_of_keys_is_taken() -> None:
    keys, raw = jax.random.split(rlscan.key(0), 3), jax.vmap(jax.random.PRNGKey)(jnp.arange(3))
    assert as_keys(keys) is keys and as_keys(keys[0]).shape == ()
    assert (as_keys(raw) == jax.vmap(jax.random.key)(jnp.arange(3))).all()
    assert (as_keys(raw[1]) == jax.random.key(1)).item()
    for wrong in (keys[:0], keys[None], raw[:0], raw[None], jnp.zeros((3, 3), jnp.uint32), None):
        with pytest.raises((TypeError, ValueError), match="^key must be"):
            as_keys(wrong)


def test_a_batch_of_keys_is_refused() -> None:
    with pytest.raises(ValueError, match=r"got a batch of shape \(3,\); pass key=keys\[0\]"):
        as_key(jax.random.split(rlscan.key(0), 3))


@pytest.mark.parametrize(
    "impl, reason",
    [
        ("rbg", "it draws a vmapped batch from its first key only (jax#19085)"),
        ("unsafe_rbg", "it draws a vmapped batch from its first key only (jax#19085)"),
        ("philox2x32", "it holds 32 bits"),
        ("threefry4x32", "cannot be compiled: XLA takes minutes"),
    ],
)
def test_generators_that_cannot_be_used_are_refused(impl: str, reason: str) -> None:
    key = jax.random.key(0, impl=impl)
    with pytest.raises(ValueError) as error:
        as_key(key)
    message = str(error.value)
    assert repr(impl) in message and reason in message and "use key=rlscan.key(0)" in message
    with pytest.raises(ValueError, match=re.escape(reason)):
        init(key)
    with pytest.raises(ValueError, match=re.escape(reason)):
        jax.eval_shape(as_key, key)


@pytest.mark.slow
def test_the_refused_generators_have_the_faults_they_are_refused_for() -> None:
    rbg = jax.random.split(jax.random.key(0, impl="rbg"), 4)
    batched = jax.vmap(lambda k: jax.random.bits(k, (3,)))(rbg)
    assert not (batched == jnp.stack([jax.random.bits(k, (3,)) for k in rbg])).all()
    assert num_distinct("philox2x32", 500_000) < 500_000


# Generators that a user registered.


def threefry(key: Array) -> PRNGKeyArray:
    return jax.random.wrap_key_data(key, impl="threefry2x32")


def registered(name: str, **changes: Any) -> Any:
    """Register threefry under another name, with the functions in `changes` replaced."""

    def split(key: Array, shape: tuple[int, ...]) -> Array:
        return jax.random.key_data(jax.random.split(threefry(key), shape))

    def random_bits(key: Array, bit_width: int, shape: tuple[int, ...]) -> Array:
        return jax.random.bits(threefry(key), shape, f"uint{bit_width}")

    parts: dict[str, Any] = {
        "key_shape": (2,),
        "seed": lambda seed: jax.random.key_data(jax.random.key(seed, impl="threefry2x32")),
        "split": split,
        "random_bits": random_bits,
        "fold_in": lambda key, i: jax.random.key_data(jax.random.fold_in(threefry(key), i)),
    }
    return define_prng_impl(**(parts | changes), name=name, tag=name)


def rng_bits(key: Array, bit_width: int, shape: tuple[int, ...]) -> Array:
    """XLA's generator behind `rbg`, which draws other bits under vmap."""
    state = jnp.concatenate([key, key])
    dtype: Any = f"uint{bit_width}"
    return lax.rng_bit_generator(state, shape, dtype=dtype)[1]


def rng_split(key: Array, shape: tuple[int, ...]) -> Array:
    return rng_bits(key, 32, (*shape, 2))


def first_word(seed: Array) -> Array:
    return jax.random.key_data(jax.random.key(seed, impl="philox2x32"))


def test_an_exact_registered_generator_is_accepted_and_kept() -> None:
    key = jax.random.key(5, impl=registered("exact"))
    assert as_key(key) is key
    assert jax.vmap(as_key)(key[None]).dtype == key.dtype
    state = init(key)
    reference = init(jax.random.key(5, impl="threefry2x32"))
    assert state.policy_key.dtype == key.dtype != reference.policy_key.dtype
    assert_same_bits(state.policy_key, reference.policy_key)


@pytest.mark.parametrize("changes", [{"random_bits": rng_bits}, {"split": rng_split}])
def test_a_registered_generator_that_is_inexact_under_vmap_is_refused(changes: dict) -> None:
    name = f"inexact_{next(iter(changes))}"
    with pytest.raises(ValueError, match=f"'?{name}.*under vmap"):
        as_key(jax.random.key(0, impl=registered(name, **changes)))


def test_a_registered_generator_of_too_few_bits_is_refused() -> None:
    narrow = registered(
        "narrow",
        key_shape=(1,),
        seed=first_word,
        split=lambda key, shape: jax.random.key_data(
            jax.random.split(jax.random.wrap_key_data(key, impl="philox2x32"), shape)
        ),
    )
    with pytest.raises(ValueError, match="narrow.*fewer than 64 bits"):
        as_key(jax.random.key(0, impl=narrow))


# Rollouts keep the generator.


def init(key: Any) -> rlscan.RolloutState:
    return rlscan.init_rollout(Guess(), Dice(), num_envs=2, key=key)


class Guess(eqx.Module):
    """A policy whose output is noise from its key alone."""

    def __call__(self, observation: Any, state: Any, *, key: PRNGKeyArray) -> tuple:
        import distrax

        return distrax.Categorical(logits=jax.random.normal(key, (3,))), jnp.zeros(()), state

    def initial_state(self) -> tuple:
        return ()


class Space(eqx.Module):
    n: int = 3


class Dice(eqx.Module):
    def reset(self, key: PRNGKeyArray) -> tuple[Array, Array]:
        return jax.random.uniform(key), jnp.zeros(())

    def step(self, key: PRNGKeyArray, state: Array, action: Array) -> tuple:
        observation = jax.random.uniform(key)
        info = {"final_observation": observation}
        return observation, state, jnp.zeros(()), jnp.asarray(False), jnp.asarray(False), info

    def observation_space(self) -> Space:
        return Space()

    def action_space(self) -> Space:
        return Space()


@pytest.mark.slow(cases="all")
@pytest.mark.parametrize("impl", [*OF_JAX, rlscan.random.mix32], ids=str)
def test_rollouts_keep_the_generator(impl: str) -> None:
    key = jax.random.key(2, impl=impl)
    state, trajectory = rlscan.rollout(Guess(), Dice(), init(key), 3)
    assert state.key.dtype == state.policy_key.dtype == key.dtype
    assert trajectory.policy_key.dtype == key.dtype and trajectory.policy_key.shape == (3, 2)
    # Rollouts draw from it: each recorded log-probability belongs to the recorded key.
    logits = jax.vmap(jax.vmap(lambda k: jax.random.normal(k, (3,))))(trajectory.policy_key)
    logits = np.asarray(logits, np.float64)
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    expected = np.take_along_axis(log_p, np.asarray(trajectory.action)[..., None], -1)[..., 0]
    np.testing.assert_allclose(trajectory.log_prob, expected, rtol=1e-5)
    assert len(np.unique(trajectory.log_prob)) == 6


# Functions that take keys of `threefry2x32` alone.

ARGUMENTS = {
    **dict.fromkeys(("a", "alpha", "b", "concentration", "df", "dfden", "dfnum"), 2.0),
    **dict.fromkeys(("lam", "loc", "scale", "right", "upper"), 2.0),
    **dict.fromkeys(("p", "lower"), 0.5),
    **{"left": 0.0, "mode": 1.0, "n": 3, "d": 3, "x": 5, "data": 1, "shape": (2,)},
    **{"logits": np.zeros(3), "mean": np.ones(2), "cov": np.eye(2), "minval": 0, "maxval": 9},
}


def functions_of_a_key() -> dict[str, Callable[[PRNGKeyArray], Any]]:
    """All public functions of `jax.random` whose first argument is a key, with their arguments."""
    functions = {}
    for name, function in vars(jax.random).items():
        if name.startswith("_") or not inspect.isfunction(inspect.unwrap(function)):
            continue
        first, *rest = inspect.signature(function).parameters.values()
        if first.name == "key":
            wanted = [p.name for p in rest if p.default is p.empty]
            arguments = {argument: ARGUMENTS[argument] for argument in wanted}
            if name in ("choice", "dirichlet", "multinomial"):
                arguments |= {"a": 5, "alpha": np.ones(3), "p": np.ones(3) / 3}
            functions[name] = partial(function, **{n: arguments[n] for n in wanted})
    return functions


@pytest.mark.parametrize("generator", GENERATORS)
def test_all_of_jax_random_takes_keys_of_every_generator_but_poisson(generator: str) -> None:
    key, refusing = rlscan.key(0, generator=generator), []
    functions = functions_of_a_key()
    assert len(functions) > 35
    for name, draw in functions.items():
        try:
            jax.eval_shape(draw, key)
        except NotImplementedError:
            refusing.append(name)
            jax.eval_shape(lambda key, draw=draw: draw(rlscan.random.as_threefry(key)), key)
    assert refusing == ([] if generator == "threefry2x32" else ["poisson"])


@pytest.mark.slow
def test_converted_keys_are_exact_and_differ() -> None:
    keys = jax.random.split(rlscan.key(0), 1000)
    converted = jax.vmap(rlscan.random.as_threefry)(keys)
    assert impl_of(converted) == "threefry2x32"
    assert len(np.unique(jax.random.key_data(converted), axis=0)) == 1000
    assert (rlscan.random.as_threefry(keys[7]) == converted[7]).item()
    own = jax.random.key(3, impl="threefry2x32")
    assert rlscan.random.as_threefry(own) is own
    own = jax.random.key(0, impl=probes.wide_generator())
    assert impl_of(own) == "wide" and impl_of(rlscan.random.as_threefry(own)) == "threefry2x32"


class Arrivals(Dice):
    """An environment that draws Poisson numbers with converted keys."""

    convert: Callable = staticmethod(rlscan.random.as_threefry)

    def reset(self, key: PRNGKeyArray) -> tuple[Array, Array]:
        count = jax.random.poisson(self.convert(key), 2.0)
        return count.astype(jnp.float32), jnp.zeros(())


@pytest.mark.parametrize("generator", GENERATORS)
def test_environments_draw_poisson_numbers_with_every_generator(generator: str) -> None:
    def start(key: PRNGKeyArray, env: Dice) -> rlscan.RolloutState:
        return rlscan.init_rollout(Guess(), env, num_envs=2, key=key)

    key = rlscan.key(0, generator=generator)
    assert generator_of(eqx.filter_eval_shape(start, key, Arrivals()).key) == generator
    raw = Arrivals(convert=lambda key: key)
    if generator == "threefry2x32":  # all that is traced before a run draws with its keys
        eqx.filter_eval_shape(start, key, raw)
        rlscan.check_policy(Guess(), raw, key=key)
        audit_tolerance(Guess(), raw, generator)
        _check_types(raw, lambda key: jax.random.randint(key, (), 0, 3), key)
        return
    with pytest.raises(NotImplementedError) as error:
        start(key, raw)
    assert "rlscan.random.as_threefry(key)" in error.value.__notes__[-1]


# The reasons for the default generator.


def assert_same_bits(keys: PRNGKeyArray, others: PRNGKeyArray) -> None:
    np.testing.assert_array_equal(jax.random.key_data(keys), jax.random.key_data(others))


DRAWS: dict[str, Callable[[PRNGKeyArray], Array]] = {
    "bits": lambda k: jax.random.bits(k, (5,)),
    "bernoulli": lambda k: jax.random.bernoulli(k, 0.1, (7,)),
    "normal": lambda k: jax.random.normal(k, (3,)),
    "categorical": lambda k: jax.random.categorical(k, jnp.arange(4.0)),
    "split": lambda k: jax.random.key_data(jax.random.split(k, 3)),
    "fold_in": lambda k: jax.random.key_data(jax.random.fold_in(k, 9)),
}


@pytest.mark.parametrize("draw", DRAWS)
def test_default_generator_is_exact_under_vmap_and_shuffle(draw: str) -> None:
    f = jax.jit(DRAWS[draw])
    keys = jax.random.split(rlscan.key(0), 12)
    single = np.stack([f(key) for key in keys])
    order = np.random.default_rng(0).permutation(12)
    for batch in (slice(None), order, order[:5]):
        np.testing.assert_array_equal(jax.vmap(f)(keys[batch]), single[batch])
    nested = jax.vmap(jax.vmap(f))(keys.reshape(3, 4))
    np.testing.assert_array_equal(nested.reshape(single.shape), single)
    assert len(np.unique(single, axis=0)) > 1


@pytest.mark.parametrize("impl", OF_JAX)
def test_fold_in_is_the_split_of_that_index(impl: str) -> None:
    """The two must never be used with one parent key."""
    key = jax.random.key(11, impl=impl)
    folded = jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(7))
    for n in (7, 100):
        assert_same_bits(folded, jax.random.split(key, n)[:7])


def num_distinct(impl: Any, n: int) -> int:
    data = np.asarray(jax.random.key_data(jax.random.split(jax.random.key(0, impl=impl), n)))
    return len(np.unique(np.ascontiguousarray(data).view(f"u{4 * data.shape[1]}")))


def test_half_a_million_splits_of_the_default_generator_are_distinct() -> None:
    assert num_distinct(rlscan.random.mix32, 500_000) == 500_000
