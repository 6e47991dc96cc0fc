import re
import textwrap
from collections.abc import Callable
from typing import Any

import distrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings, strategies as st
from jax import lax
from jaxtyping import Array, Float, Key, PRNGKeyArray

import rlscan
from rlscan import filter_scan

# Every test outside `filter_jit` compiles its own scan, so bodies and lengths are small.


class Noisy(eqx.Module):
    """A module like the one in equinox#987: dropout, a function, and an array that changes."""

    linear: eqx.nn.Linear
    dropout: eqx.nn.Dropout
    activation: Callable[[Array], Array]
    total: Float[Array, ""]

    def __init__(self, rate: float = 0.5):
        self.linear = eqx.nn.Linear(3, 3, key=jax.random.key(0))
        self.dropout = eqx.nn.Dropout(rate)
        self.activation = jnp.tanh
        self.total = jnp.zeros(())

    def __call__(self, x: Float[Array, " 3"], *, key: PRNGKeyArray) -> Float[Array, " 3"]:
        return self.dropout(self.activation(self.linear(x)), key=key)


class Counted(eqx.Module):
    weight: Float[Array, "..."]
    count: Any
    name: str = eqx.field(static=True, default="a")


def noisy_step(carry: tuple[Noisy, Array], key: Key[Array, ""]) -> tuple[tuple, Array]:
    module, x = carry
    x = module(x, key=key)
    module = eqx.tree_at(lambda m: m.total, module, module.total + x.sum())
    return (module, x), x


def python_loop(f: Callable, carry: Any, xs: Any, length: int) -> tuple[Any, list]:
    """The definition of a scan, as a loop."""
    ys = []
    for t in range(length):
        x = jax.tree.map(lambda leaf: leaf[t] if eqx.is_array(leaf) else leaf, xs)  # noqa: B023
        carry, y = f(carry, x)
        ys.append(y)
    return carry, ys


def assert_equal(tree: Any, reference: Any) -> None:
    assert eqx.tree_equal(tree, reference, typematch=True), f"{tree}\n!=\n{reference}"


# Modules and functions in the carry, in xs and in ys.


def test_dropout_in_the_carry_fails_in_lax_scan_and_runs_here() -> None:
    """The failure of equinox#987."""
    keys = jax.random.split(jax.random.key(1), 6)
    # The module without its function, because `lax.scan` would fail on that before the flag.
    plain = (eqx.nn.Dropout(0.5), jnp.ones(3))
    with pytest.raises(jax.errors.TracerBoolConversionError):
        lax.scan(lambda c, k: ((c[0], c[0](c[1], key=k)), None), plain, keys)

    init = (Noisy(), jnp.ones(3))
    jitted = eqx.filter_jit(noisy_step)
    (module, x), ys = filter_scan(noisy_step, init, keys)
    (module_ref, x_ref), ys_ref = python_loop(jitted, init, keys, 6)
    assert_equal(ys, jnp.stack(ys_ref))
    assert_equal((module, x), (module_ref, x_ref))
    assert module.activation is jnp.tanh
    masks = np.asarray(ys) == 0
    assert 0 < masks.sum() < masks.size and not (masks == masks[0]).all()


@pytest.mark.slow
def test_module_as_the_carry() -> None:
    """The failure of equinox#630."""
    mlp = eqx.filter_jit(eqx.nn.MLP)(2, 2, 4, 1, key=jax.random.key(0))
    with pytest.raises(TypeError):
        lax.scan(lambda c, x: (c, c[0](x)), [mlp], jnp.ones((3, 2)))
    xs = jnp.arange(6.0).reshape(3, 2)
    carry, ys = filter_scan(lambda c, x: (c, c[0](x)), [mlp], xs)
    assert_equal(carry, [mlp])
    np.testing.assert_allclose(ys, jax.vmap(mlp)(xs), rtol=1e-6)


class Functions(eqx.Module):
    functions: list[Callable[[Array], Array]]
    x: Float[Array, ""]


def test_module_with_functions_updated_by_tree_at() -> None:
    """The failure of equinox#709."""

    def step(module: Functions, _: None) -> tuple[Functions, Array]:
        x = module.functions[1](module.x)
        return eqx.tree_at(lambda m: m.x, module, x), x

    init = Functions([lambda x: x, lambda x: 2 * x], jnp.ones(()))
    module, ys = filter_scan(step, init, length=4)
    assert_equal(ys, jnp.asarray([2.0, 4.0, 8.0, 16.0]))
    assert_equal(module, eqx.tree_at(lambda m: m.x, init, jnp.asarray(16.0)))


def test_functions_made_again_in_each_step_are_refused() -> None:
    """The code of equinox#709."""

    def step(carry: dict, _: None) -> tuple[dict, None]:
        model = carry["model"]
        return {"model": Functions([model.functions[0], lambda x: 2 * x], model.x)}, None

    message = refusal(step, {"model": Functions([jnp.sin, lambda x: 2 * x], jnp.ones(()))})
    assert message.startswith("carry['model'].functions[1] changed inside filter_scan")
    assert "eqx.tree_at" in message and message.count("<lambda>") == 2


@pytest.mark.slow
def test_modules_in_xs_are_modules_at_each_step() -> None:
    keys = jax.random.split(jax.random.key(0), 3)
    layers = eqx.filter_jit(eqx.filter_vmap(lambda k: eqx.nn.MLP(2, 2, 4, 1, key=k)))(keys)

    def step(x: Array, layer: eqx.nn.MLP) -> tuple[Array, eqx.nn.MLP]:
        assert isinstance(layer, eqx.nn.MLP) and layer.activation is layers.activation
        return layer(x), layer

    x, ys = filter_scan(step, jnp.ones(2), layers)
    x_ref = jnp.ones(2)
    for i in range(3):
        x_ref = jax.tree.map(lambda leaf: leaf[i] if eqx.is_array(leaf) else leaf, layers)(x_ref)  # noqa: B023
    np.testing.assert_allclose(x, x_ref, rtol=1e-5)
    assert_equal(ys, layers)  # modules in ys have stacked arrays and one function


def test_outputs_that_are_not_arrays_are_returned_once() -> None:
    def step(carry: Array, x: Array) -> tuple[Array, dict]:
        return carry, {"f": jnp.sin, "name": "a", "rate": 0.5, "flag": True, "none": None, "x": x}

    _, ys = filter_scan(step, jnp.zeros(()), jnp.arange(3.0))
    assert_equal(ys.pop("x"), jnp.arange(3.0))
    assert ys == {"f": jnp.sin, "name": "a", "rate": 0.5, "flag": True, "none": None}
    assert type(ys["rate"]) is float and type(ys["flag"]) is bool


def test_other_leaves_of_xs_are_passed_to_each_step() -> None:
    xs = {"x": jnp.arange(3.0), "power": 2, "f": jnp.sqrt}
    _, ys = filter_scan(lambda c, x: (c, x["f"](x["x"] ** x["power"])), None, xs)
    np.testing.assert_allclose(ys, jnp.arange(3.0), rtol=1e-6)


def test_python_floats_stay_python_floats() -> None:
    """equinox#772, #681: the rate looked trainable and broke the optimiser's state."""
    optimizer = optax.adamw(1e-2)
    module = Noisy(0.25)
    state = optimizer.init(eqx.filter(module, eqx.is_inexact_array))
    num_trainable = len(jax.tree.leaves(eqx.filter(module, eqx.is_inexact_array)))

    @eqx.filter_grad
    def gradient(module: Noisy, key: PRNGKeyArray) -> Array:
        return module(jnp.ones(3), key=key).sum()

    def step(carry: tuple[Noisy, Any], key: PRNGKeyArray) -> tuple[tuple[Noisy, Any], None]:
        module, state = carry
        assert type(module.dropout.p) is float and module.dropout.p == 0.25
        assert type(module.dropout.inference) is bool
        trainable = eqx.filter(module, eqx.is_inexact_array)
        assert len(jax.tree.leaves(trainable)) == num_trainable
        updates, state = optimizer.update(gradient(module, key), state, trainable)
        return (eqx.apply_updates(module, updates), state), None

    keys = jax.random.split(jax.random.key(2), 5)
    (after, state_after), _ = filter_scan(step, (module, state), keys)
    (reference, state_ref), _ = python_loop(eqx.filter_jit(step), (module, state), keys, 5)
    assert after.dropout == module.dropout
    assert int(state_after[0].count) == int(state_ref[0].count) == 5
    assert not jnp.allclose(after.linear.weight, module.linear.weight)
    np.testing.assert_allclose(after.linear.weight, reference.linear.weight, rtol=1e-5)


# Errors: the non-array half changes.


def refusal(f: Callable, init: Any, xs: Any = None, length: int | None = 2) -> str:
    with pytest.raises(TypeError) as error:
        filter_scan(f, init, xs, length)
    return str(error.value)


def test_a_flag_that_changes_is_refused() -> None:
    def step(carry: tuple, _: None) -> tuple[tuple, None]:
        return (carry[0], eqx.nn.inference_mode(carry[1])), None

    message = refusal(step, (jnp.zeros(()), Noisy()))
    assert message.startswith("carry[1].dropout.inference changed inside filter_scan")
    assert "False (bool)" in message and "True (bool)" in message
    assert "set a flag before the loop (eqx.nn.inference_mode" in message


@pytest.mark.parametrize("start, remedy", [(0, "jnp.asarray(0)"), (1.5, "jnp.asarray(1.5)")])
def test_a_python_number_that_counts_is_refused(start: float, remedy: str) -> None:
    init = {"state": Counted(jnp.zeros(2), start)}

    def step(carry: dict, _: None) -> tuple[dict, None]:
        old = carry["state"]
        return {"state": eqx.tree_at(lambda m: m.count, old, old.count + 1)}, None

    message = refusal(step, init)
    assert message.startswith("carry['state'].count changed inside filter_scan")
    assert f"{start} ({type(start).__name__})" in message and f"{start + 1} (" in message
    assert f"start from an array: write {remedy} in `init`" in message
    # The edit that the message suggests works.
    remedied = {"state": Counted(jnp.zeros(2), jnp.asarray(start))}
    after, _ = filter_scan(step, remedied, length=3)
    assert float(after["state"].count) == start + 3


@pytest.mark.parametrize("was, became", [(1, 1.0), (1, True), ("a", "b"), (0.0, None)])
def test_a_value_of_another_kind_is_refused(was: Any, became: Any) -> None:
    assert "inside filter_scan" in refusal(lambda c, _: ([became], None), [was])


def test_a_python_number_that_becomes_an_array_is_refused() -> None:
    message = refusal(lambda c, x: (c + x, None), 0.0, jnp.ones(2))
    assert message.startswith("carry changed inside filter_scan: it came in as 0.0 (float)")
    assert "went out as the array float32[]" in message and "jnp.asarray(0.0)" in message


def test_an_array_that_becomes_a_python_number_is_refused() -> None:
    message = refusal(lambda c, _: ([0.0], None), [jnp.ones(())])
    assert message.startswith("carry[0] changed inside filter_scan: it came in as the array")
    assert "0.0 (float)" in message and "return an array here" in message


def test_a_carry_changed_in_place_is_refused() -> None:
    """A dict that the body changed in place would look unchanged if compared with itself."""

    def counts(carry: dict, _: None) -> tuple[dict, None]:
        carry["count"] += 1
        return carry, None

    def grows(carry: dict, _: None) -> tuple[dict, None]:
        carry["list"].append(3)
        return carry, None

    init = {"count": 0, "list": [1], "x": jnp.zeros(())}
    assert refusal(counts, init).startswith("carry['count'] changed")
    assert "at carry['list']" in refusal(grows, init)
    assert init["count"] == 0 and init["list"] == [1]  # the dict of the caller is unchanged


def test_a_static_field_that_changes_is_refused() -> None:
    def step(carry: list[Counted], _: None) -> tuple[list[Counted], None]:
        return [Counted(carry[0].weight, carry[0].count, carry[0].name + "b")], None

    message = refusal(step, [Counted(jnp.zeros(2), 0)])
    assert "at carry[0].name: it came in as 'a' (str) and went out as 'ab' (str)" in message
    assert "a static field" in message


def test_a_structure_that_changes_is_refused() -> None:
    init = {"a": [{"x": jnp.zeros(2)}], "b": (jnp.zeros(()),)}
    added = refusal(lambda c, _: ({**c, "a": [{**c["a"][0], "new": 1}]}, None), init)
    assert "at carry['a'][0]: it came in as dict with [\"['x']\"]" in added
    assert "[\"['new']\", \"['x']\"]" in added and "structure of `init`" in added

    longer = refusal(lambda c, _: ({**c, "b": (*c["b"], 1)}, None), init)
    assert "at carry['b']: it came in as tuple with ['[0]']" in longer
    assert "went out as tuple with ['[0]', '[1]']" in longer

    filled = refusal(lambda c, _: (jnp.zeros(2), None), None)
    assert "it came in as None (NoneType) and went out as the array float32[2]" in filled


def test_an_array_of_another_shape_or_dtype_is_refused() -> None:
    init = {"h": jnp.zeros(2), "k": jax.random.key(0)}
    shape = refusal(lambda c, _: ({**c, "h": jnp.zeros((2, 1))}, None), init)
    assert shape.startswith("carry['h'] changed inside filter_scan")
    assert "float32[2]" in shape and "float32[2, 1]" in shape
    dtype = refusal(lambda c, _: ({**c, "h": c["h"].astype(jnp.int32)}, None), init)
    assert dtype.startswith("carry['h'] ") and "int32[2]" in dtype
    key = refusal(lambda c, _: ({**c, "k": jax.random.key_data(c["k"])}, None), init)
    assert key.startswith("carry['k'] ") and "key<fry>[]" in key and "uint32[2]" in key


def test_a_body_that_returns_no_pair_is_refused() -> None:
    assert "got ArrayImpl" not in refusal(lambda c, _: c + 1, jnp.zeros(()))
    assert "must return (carry, y), got list" in refusal(lambda c, _: [c, c], jnp.zeros(()))
    assert "write `return carry, None`" in refusal(lambda c, _: (c,), jnp.zeros(()))


# Values of each dtype that a scan may meet; the last two are weakly typed.
SCALARS = {
    "bool": lambda: jnp.asarray(True),
    "int32": lambda: jnp.asarray(1, jnp.int32),
    "float16": lambda: jnp.asarray(1, jnp.float16),
    "float32": lambda: jnp.asarray(1, jnp.float32),
    "weak int32": lambda: jnp.asarray(1),
    "weak float32": lambda: jnp.asarray(1.0),
}


@pytest.mark.parametrize("became", SCALARS)
@pytest.mark.parametrize("was", SCALARS)
def test_dtypes_are_accepted_exactly_where_lax_scan_accepts_them(was: str, became: str) -> None:
    def run(scan: Callable) -> Any:
        init, step = SCALARS[was](), lambda carry, _: (SCALARS[became](), None)
        try:
            return jax.eval_shape(lambda init: scan(step, init, None, 1), init)[0].dtype
        except TypeError as error:
            assert scan is lax.scan or str(error).startswith("carry changed inside filter_scan")
            return "refused"

    assert run(filter_scan) == run(lax.scan)
    if was == became:
        assert run(filter_scan) != "refused"
    if was.startswith("weak int") and became == "float32":  # as `jnp.asarray(0)` in a carry
        assert run(filter_scan) == jnp.float32


def test_lengths_that_do_not_fit_name_the_leaf() -> None:
    def step(carry: Array, x: Any) -> tuple[Array, None]:
        return carry, None

    zero, four = jnp.zeros(()), {"a": jnp.zeros(4), "b": [jnp.zeros((3, 2))]}
    with pytest.raises(ValueError, match=re.escape("xs['b'][0] has length 3, but the length of")):
        filter_scan(step, zero, four)
    with pytest.raises(ValueError, match=re.escape("xs['a'] has length 4, but length is 3")):
        filter_scan(step, zero, four, 3)
    with pytest.raises(ValueError, match=re.escape("xs.weight has no first axis to scan over")):
        filter_scan(step, zero, Counted(jnp.zeros(()), 0))
    with pytest.raises(ValueError, match=r"xs has no first axis.*float64"):
        filter_scan(step, zero, np.float64(1))
    for nothing in (None, {}, [jnp.sin, 2]):
        with pytest.raises(ValueError, match="xs holds no array.*length="):
            filter_scan(step, zero, nothing)


# Transformations.


def test_gradient_is_that_of_the_unrolled_loop() -> None:
    keys = jax.random.split(jax.random.key(3), 4)

    def loss(module: Noisy, scan: Callable) -> Array:
        (module, x), ys = scan(noisy_step, (module, jnp.ones(3)), keys)
        return module.total + (jnp.stack(list(ys)) ** 2).sum()

    def unrolled(f: Callable, init: Any, xs: Any) -> tuple[Any, list]:
        return python_loop(f, init, xs, 4)

    grad = eqx.filter_jit(eqx.filter_grad(loss))
    gradient, reference = grad(Noisy(), filter_scan), grad(Noisy(), unrolled)
    assert float(jnp.abs(reference.linear.weight).max()) > 0.1
    for leaf, leaf_ref in zip(*map(jax.tree.leaves, (gradient, reference)), strict=True):
        np.testing.assert_allclose(leaf, leaf_ref, rtol=1e-5, atol=1e-6)
    assert gradient.dropout.p is None and gradient.activation is None


def test_transposes() -> None:
    matrix = jnp.asarray([[1.0, 2.0], [3.0, 5.0]])

    def linear(x: Array) -> tuple[Array, Array]:
        return filter_scan(lambda c, _: (matrix @ c, (c, jnp.sin)), x, length=3, unroll=1)[1][0], x

    (transposed,) = jax.linear_transpose(linear, jnp.zeros(2))((jnp.ones((3, 2)), jnp.zeros(2)))
    power = np.eye(2) + np.asarray(matrix) + np.asarray(matrix) @ np.asarray(matrix)
    np.testing.assert_allclose(transposed, power.T @ np.ones(2))


@pytest.mark.slow
def test_vmaps_over_modules_and_streams() -> None:
    keys = jax.random.split(jax.random.key(4), 8).reshape(2, 4)
    modules = eqx.filter_vmap(lambda t: eqx.tree_at(lambda m: m.total, Noisy(), t))(jnp.arange(2.0))

    def run(module: Noisy, keys: Array) -> tuple[Noisy, Array]:
        (module, _), ys = filter_scan(noisy_step, (module, jnp.ones(3)), keys)
        return module, ys

    after, ys = eqx.filter_vmap(run)(modules, keys)
    for i in range(2):
        one = eqx.tree_at(lambda m: m.total, Noisy(), jnp.asarray(float(i)))
        one, ys_ref = run(one, keys[i])
        np.testing.assert_allclose(ys[i], ys_ref, rtol=1e-6)
        np.testing.assert_allclose(after.total[i], one.total, rtol=1e-6)
    assert after.activation is jnp.tanh


def test_nests_and_jits() -> None:
    keys = jax.random.split(jax.random.key(5), 6).reshape(2, 3)

    @eqx.filter_jit
    @eqx.debug.assert_max_traces(max_traces=1)
    def run(carry: Any, keys: Array) -> tuple[Any, Array]:
        return filter_scan(lambda c, ks: filter_scan(noisy_step, c, ks), carry, keys)

    init = (Noisy(), jnp.ones(3))
    carry, ys = run(init, keys)
    run(carry, keys)  # the result can be passed in again without another trace
    flat, ys_flat = filter_scan(noisy_step, init, keys.reshape(6))
    assert_equal((carry, ys.reshape(6, 3)), (flat, ys_flat))


@pytest.mark.parametrize("reverse, unroll", [(True, 1), (False, 2), (True, 4), (False, True)])
def test_reverse_and_unroll(reverse: bool, unroll: int | bool) -> None:
    xs = np.arange(1.0, 6.0, dtype=np.float32)
    order = range(4, -1, -1) if reverse else range(5)
    carry_ref, ys_ref = np.float32(1), np.zeros(5, np.float32)
    for t in order:
        carry_ref = np.float32(0.5) * carry_ref + xs[t]
        ys_ref[t] = carry_ref

    def step(carry: Array, x: Array) -> tuple[Array, tuple]:
        carry = 0.5 * carry + x
        return carry, (carry, jnp.sin)

    def run(carry: Array) -> tuple:
        return filter_scan(step, carry, jnp.asarray(xs), reverse=reverse, unroll=unroll)[1][0]

    assert_equal(run(jnp.ones(())), jnp.asarray(ys_ref))
    jaxpr = jax.make_jaxpr(run)(jnp.ones(()))
    scans = [eqn for eqn in jaxpr.eqns if eqn.primitive.name == "scan"]
    assert [(s.params["reverse"], s.params["unroll"]) for s in scans] == [
        (reverse, 5 if unroll is True else unroll)
    ]


def test_length_alone_and_length_zero() -> None:
    carry, ys = filter_scan(lambda c, x: (c * 2, (c, x)), jnp.ones(()), length=3)
    assert_equal((carry, ys), (jnp.asarray(8.0), (jnp.asarray([1.0, 2.0, 4.0]), None)))
    carry, ys = filter_scan(lambda c, x: (c * 2, c), jnp.ones(()), length=0)
    assert_equal((carry, ys), (jnp.ones(()), jnp.zeros(0)))


# Other carries.


def test_typed_keys_in_the_carry() -> None:
    def step(key: PRNGKeyArray, _: None) -> tuple[PRNGKeyArray, tuple]:
        key, draw = jax.random.split(key)
        return key, (draw, jax.random.normal(draw))

    key, (draws, numbers) = filter_scan(step, rlscan.key(0), length=3)
    key_ref, ys_ref = python_loop(eqx.filter_jit(step), rlscan.key(0), None, 3)
    assert key.dtype == key_ref.dtype and (key == key_ref).item()
    assert (draws == jnp.stack([draw for draw, _ in ys_ref])).all()
    assert_equal(numbers, jnp.stack([number for _, number in ys_ref]))


def test_distrax_distributions_in_carry_and_outputs() -> None:
    normal = distrax.Independent(distrax.Normal(jnp.zeros(2), jnp.ones(2)), 1)

    def step(carry: Any, x: Array) -> tuple[Any, Any]:
        loc = carry.distribution.loc + x
        return distrax.Independent(distrax.Normal(loc, carry.distribution.scale), 1), (
            carry,
            distrax.Categorical(logits=x * jnp.arange(3.0)),
        )

    last, (normals, categoricals) = filter_scan(step, normal, jnp.asarray([1.0, 2.0]))
    assert_equal(last.distribution.loc, jnp.asarray([3.0, 3.0]))
    assert_equal(normals.distribution.loc, jnp.asarray([[0.0, 0.0], [1.0, 1.0]]))
    assert normals.log_prob(jnp.zeros((2, 2))).shape == (2,)
    reference = np.exp([[0, 1, 2], [0, 2, 4]])
    reference /= reference.sum(1, keepdims=True)
    np.testing.assert_allclose(categoricals.probs, reference, rtol=1e-6)


@pytest.mark.parametrize("jit", [True, False])
def test_numpy_arrays_count_as_arrays(jit: bool) -> None:
    init, xs = {"a": np.zeros(2), "b": np.float64(1)}, np.arange(6.0).reshape(3, 2)

    def step(carry: dict, x: Any) -> tuple[dict, Any]:
        return {"a": carry["a"] + x, "b": carry["b"] * 2}, x

    with jax.disable_jit(not jit):
        carry, ys = filter_scan(step, init, xs)
    np.testing.assert_array_equal(carry["a"], xs.sum(0))
    assert float(carry["b"]) == 8 and ys.dtype == jnp.float32
    np.testing.assert_array_equal(ys, xs)


def test_stateful_layers_in_the_carry() -> None:
    """`eqx.nn.State` forbids a second use of the old state, and the check must not use it."""

    class Counter(eqx.Module):
        index: eqx.nn.StateIndex

        def __init__(self):
            self.index = eqx.nn.StateIndex(jnp.asarray(0))

        def __call__(self, state: eqx.nn.State) -> eqx.nn.State:
            return state.set(self.index, state.get(self.index) + 1)

    counter, state = eqx.nn.make_with_state(Counter)()
    (_, state), _ = filter_scan(lambda c, _: ((c[0], c[0](c[1])), None), (counter, state), length=3)
    assert int(state.get(counter.index)) == 3


# Properties.


@st.composite
def array_trees(draw: st.DrawFn) -> tuple[Any, Any]:
    """Draw a carry and xs of the same structure, made only of arrays."""
    shapes = st.sampled_from([(), (2,), (1, 2)])
    leaves = st.integers(0, 100).flatmap(lambda seed: shapes.map(lambda shape: (seed, shape)))
    spec = draw(
        st.recursive(
            leaves,
            lambda trees: st.one_of(
                st.dictionaries(st.sampled_from("abc"), trees, max_size=2),
                st.lists(trees, max_size=2).map(lambda children: ["list", *children]),
                trees.map(lambda child: ["tuple", child, child]),
            ),
            max_leaves=4,
        )
    )

    def build(spec: Any, batch: tuple[int, ...]) -> Any:
        if isinstance(spec, dict):
            return {name: build(child, batch) for name, child in spec.items()}
        if isinstance(spec, list):
            children = [build(child, batch) for child in spec[1:]]
            return tuple(children) if spec[0] == "tuple" else children
        seed, shape = spec
        return jax.random.normal(jax.random.key(seed), (*batch, *shape))

    return build(spec, ()), build(spec, (3,))


@pytest.mark.slow
@given(array_trees(), st.booleans())
@settings(max_examples=12, deadline=None, derandomize=True)
def test_on_arrays_it_equals_lax_scan(trees: tuple[Any, Any], reverse: bool) -> None:
    init, xs = trees

    def step(carry: Any, x: Any) -> tuple[Any, Any]:
        return jax.tree.map(lambda c, x: 0.5 * c + x, carry, x), jax.tree.map(jnp.sin, carry)

    assert_equal(
        filter_scan(step, init, xs, 3, reverse=reverse), lax.scan(step, init, xs, 3, reverse)
    )


# A program from an article.


def test_the_articles_pattern_needs_a_key() -> None:
    """Taken literally, it passes no key to the model, so it runs in inference mode only."""

    def scan_with_dropout(model: Any, initial_state: Array, inputs: Array) -> Array:
        dynamic, static = eqx.partition(model, eqx.is_array)

        def step(carry: tuple, x: Array) -> tuple[tuple, None]:
            model = eqx.combine(carry[0], static)
            output = model(x)
            return (eqx.partition(model, eqx.is_array)[0], output), None

        return lax.scan(step, (dynamic, initial_state), inputs)[0][1]

    linear = eqx.nn.Linear(3, 2, key=jax.random.key(0))
    model = eqx.nn.Sequential([linear, eqx.nn.Dropout(0.5)])
    inputs = jax.random.normal(jax.random.key(1), (4, 3))
    with pytest.raises(RuntimeError, match="key"):
        scan_with_dropout(model, jnp.zeros(2), inputs)
    output = scan_with_dropout(eqx.nn.inference_mode(model), jnp.zeros(2), inputs)
    np.testing.assert_allclose(output, linear(inputs[-1]), rtol=1e-6)


def test_the_example_in_the_docstring() -> None:
    block = re.search(r"```python\n(.*?)```", filter_scan.__doc__ or "", re.DOTALL)
    assert block is not None
    names: dict[str, Any] = {}
    exec(textwrap.dedent(block[1]), names)

    key, inputs = rlscan.key(1), jnp.ones((10, 3))
    output = None
    for x in inputs:
        key, dropout_key = jax.random.split(key)
        output = names["model"](x, key=dropout_key)
    np.testing.assert_allclose(names["output"], np.asarray(output), rtol=1e-6)

    @jax.vmap
    def run(key: PRNGKeyArray) -> Array:
        return names["scan_with_dropout"](names["model"], jnp.zeros(2), inputs, key=key)

    dropped = np.asarray(run(jax.random.split(key, 64))) == 0
    assert 0.2 < dropped.mean() < 0.8  # about half of 128
