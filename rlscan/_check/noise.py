"""Checks that a policy's noise can be replayed, for `check_policy`."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import equinox as eqx
import jax
from jax.extend.core import ClosedJaxpr, JaxprEqn
from jax.extend.source_info_util import summarize
from jax.tree_util import KeyPath, flatten_one_level_with_keys, keystr, tree_flatten_with_path
from jaxtyping import PRNGKeyArray

from .._core.scan import describe, merge_arrays, split_arrays
from .._core.types import PyTree
from ..nn._dropout import is_off
from ..nn._statistics import WithStatistics, has_index
from .dataflow import Sources, first_difference, flow, union


class CallInputs(NamedTuple):
    """The inputs of a policy's call. The field names begin the paths in messages."""

    key: PRNGKeyArray  # the first field, so that its bit is `ANYTHING`
    action_key: PRNGKeyArray
    observation: PyTree
    state: PyTree
    policy: Any


class CallOutputs(NamedTuple):
    """The outputs of a policy's call, as lists of arrays."""

    result: list[Any]  # the distribution's parameters, and the value
    state: list[Any]  # the new state, one for each array of the old state
    density: list[Any]  # the action, its log_prob and the entropy


def trace(f: Callable[[CallInputs], Any], inputs: CallInputs) -> tuple[ClosedJaxpr, Any]:
    """The jaxpr of `f` with the arrays of `inputs` as its inputs, and the shapes of its outputs."""
    arrays, rest = split_arrays(inputs)
    return jax.make_jaxpr(lambda arrays: f(merge_arrays(arrays, rest)), return_shape=True)(arrays)


def check_layers(policy: Any) -> None:
    """Refuse flags and rates that are arrays, and statistics that change during a rollout."""
    with_statistics: list[KeyPath] = []
    for path, node in _walk(policy):
        name = f"policy{keystr(path)}"
        if isinstance(node, WithStatistics):
            with_statistics.append(path)
        inference = getattr(node, "inference", None) if isinstance(node, eqx.Module) else None
        if eqx.is_array(inference):
            raise TypeError(
                f"{name}.inference must be a Python bool, got {describe(inference)}, on which "
                "no layer can branch; keep it out of jax.tree.map(jnp.asarray, …) and of a plain "
                "lax.scan (use eqx.partition(policy, eqx.is_array) or rlscan.filter_scan), and set "
                "it beforehand with eqx.nn.inference_mode"
            )
        if isinstance(node, eqx.nn.Dropout) and eqx.is_inexact_array(node.p):
            raise TypeError(
                f"{name}.p must be a Python number, got {describe(node.p)}, which the optimiser "
                "would train as a parameter; for a rate that changes at run time use "
                "rlscan.nn.AnnealedDropout"
            )
        is_inside = any(path[: len(outer)] == outer for outer in with_statistics)
        if inference is False and not is_inside and has_index(node):
            raise ValueError(
                f"{name} is a {type(node).__name__} in training mode, but statistics must not "
                f"change between a rollout and its update, or the ratio would not start at 1; "
                f"{_WITH_STATISTICS}, or freeze them with eqx.nn.inference_mode"
            )


def check_initial_state(state: PyTree) -> None:
    """Refuse the statistics of layers in a policy's state."""
    for path, node in _walk(state):
        if isinstance(node, eqx.nn.State):
            raise ValueError(
                f"policy.initial_state(){keystr(path)} must belong to one environment, got an "
                "eqx.nn.State: statistics are shared by all environments, and no episode resets "
                f"them; {_WITH_STATISTICS}"
            )


_WITH_STATISTICS = "use rlscan.nn.WithStatistics(*eqx.nn.make_with_state(Network)(…))"


def check_draws(program: ClosedJaxpr, shapes: CallOutputs, inputs: CallInputs) -> None:
    """Refuse noise that does not come from `key`, and active noise layers that draw nothing.

    A draw from the state is allowed if the state depends on `key` or on observations, because a
    layer may keep the key of its episode there. Draws that affect no output are ignored. `shapes`
    are those of the program's first outputs.
    """
    paths = [path for path, leaf in tree_flatten_with_path(inputs)[0] if eqx.is_array(leaf)]
    bits = [1 << i for i in range(len(paths))]
    of_field = {
        name: union([bit for path, bit in zip(paths, bits, strict=True) if path[0].name == name])
        for name in CallInputs._fields
    }
    replayed = of_field["key"] | of_field["observation"]
    is_drawn, first_free = 1 << len(bits), len(bits) + 1
    draws: dict[Sources, tuple[Sources, JaxprEqn]] = {}  # by the sources of the key

    def on_draw(origin: Sources, site: JaxprEqn) -> Sources:
        origin &= is_drawn - 1
        if origin & (replayed | of_field["action_key"]):
            return is_drawn if origin & replayed else 0
        return draws.setdefault(origin, (1 << (first_free + len(draws)), site))[0]

    structure = jax.tree.structure(shapes)
    found = flow(program.jaxpr, bits, on_draw)[: structure.num_leaves]
    outputs: CallOutputs = jax.tree.unflatten(structure, found)
    state_bits = [b for b in bits if b & of_field["state"]]
    fed = dict(zip(state_bits, outputs.state, strict=True))
    reached = union([*outputs.result, *outputs.state])
    for origin, (bit, site) in draws.items():
        origin = _over_steps(origin, fed)
        if reached & bit and not origin & replayed:
            roots = [keystr(p)[1:] for p, b in zip(paths, bits, strict=True) if b & origin]
            _refuse_draw(roots, site, inputs)

    acts_on = _over_steps(union([*outputs.result, *outputs.density]), fed)
    if not acts_on & (of_field["key"] | is_drawn):
        used = [path[1:] for path, bit in zip(paths, bits, strict=True) if bit & acts_on]
        _refuse_silent_layers(inputs.policy, used)


def check_constants(
    program: ClosedJaxpr, f: Callable[[CallInputs], Any], inputs: CallInputs
) -> None:
    """Refuse a call whose constants differ when it is traced again.

    `program` is a trace of `f`, extended by operations on its outputs. The second trace uses
    another matmul precision, which affects no constant, because functions jitted inside the call
    would otherwise come from JAX's cache unchanged.
    """
    precision = jax.config.jax_default_matmul_precision  # pyright: ignore
    with jax.default_matmul_precision("high" if precision == "highest" else "highest"):
        again, _ = trace(f, inputs)
    difference = first_difference(again, program)
    if difference is not None:
        eqn, became, was = difference
        where = _at(eqn) if eqn else "in its outputs"
        raise ValueError(
            f"a policy must be the same program each time it is traced, got {was} the first time "
            f"and {became} the second time, {where}: numbers from NumPy or `random` are drawn only "
            f"once, during compilation; {_FROM_KEY}"
        )


_FROM_KEY = "draw with jax.random from `key`, split for each layer that draws: layer(x, key=key)"


def _refuse_draw(roots: list[str], site: JaxprEqn, inputs: CallInputs) -> None:
    own = [root for root in roots if root.startswith("policy")]
    if own:
        leaves = {
            f"policy{keystr(path)}": leaf for path, leaf in tree_flatten_with_path(inputs.policy)[0]
        }
        # Floating-point leaves are weights that were mixed into the key.
        keys = [root for root in own if not eqx.is_inexact_array(leaves[root])] or own
        origin = f"{' and '.join(keys)}, the same in every step and environment"
        remedy = f"{_FROM_KEY}, and keep no key in the policy"
    elif roots:
        origin = (
            f"{' and '.join(roots)}, which starts as initial_state() makes it, equal in all "
            "environments, and never depends on `key`"
        )
        remedy = f"{_FROM_KEY}, or split a key from `key` into the state"
    else:
        origin = (
            "a key that is a constant: closed over, or created in the call, as jax.random.key(0) "
            "or PRNGKey(np.random.randint(…)), which runs only once, during tracing. "
            "It freezes one mask forever"
        )
        remedy = _FROM_KEY
    raise ValueError(
        f"all noise of a policy must be drawn from `key`, but {_at(site)} it is drawn from "
        f"{origin}; {remedy}"
    )


def _refuse_silent_layers(policy: Any, used: list[KeyPath]) -> None:
    """Refuse active noise layers of a module whose parameters are used.

    Layers of a module that is not used at all are allowed.
    """
    silent = [
        f"policy{keystr(path)}"
        for path, node in _walk(policy)
        if _is_noisy(node) and _is_in_use(path, used, policy)
    ]
    if silent:
        raise ValueError(
            "a policy with active noise layers must depend on `key`, but neither its distribution "
            f"nor its value does, although it has {', '.join(silent)}; pass the key on, "
            "layer(x, key=key), or switch the noise off: a rate of 0, or eqx.nn.inference_mode"
        )


def _is_noisy(node: Any) -> bool:
    ours = type(node).__module__.startswith("rlscan.nn")
    if (
        not (ours or isinstance(node, eqx.nn.Dropout))
        or getattr(node, "inference", None) is not False
    ):
        return False
    rates = [getattr(node, name, None) for name in ("p", "input_dropout", "hidden_dropout")]
    rates = [rate for rate in rates if rate is not None]
    return not rates or not all(is_off(rate) for rate in rates)


def _is_in_use(path: KeyPath, used: list[KeyPath], policy: Any) -> bool:
    """Whether the innermost module with arrays around a layer has an array that is used."""
    paths = [
        leaf_path for leaf_path, leaf in tree_flatten_with_path(policy)[0] if eqx.is_array(leaf)
    ]
    for length in range(len(path) - 1, -1, -1):
        around = path[:length]
        if any(p[:length] == around for p in paths):
            return any(p[:length] == around for p in used)
    return True


def _over_steps(sources: Sources, fed: dict[Sources, Sources]) -> Sources:
    """The sources of a value after any number of steps; `fed` maps state inputs to outputs."""
    before = None
    while sources != before:
        before = sources
        sources |= union([outs for bit, outs in fed.items() if sources & bit])
    return sources


def _walk(node: Any, path: KeyPath = ()) -> Iterator[tuple[KeyPath, Any]]:
    """All nodes of a pytree with their paths, from the root to the leaves."""
    yield path, node
    try:
        children, _ = flatten_one_level_with_keys(node)
    except ValueError:  # a leaf
        return
    for key, child in children:
        yield from _walk(child, (*path, key))


def _at(eqn: JaxprEqn) -> str:
    return f"at {summarize(eqn.source_info)}"
