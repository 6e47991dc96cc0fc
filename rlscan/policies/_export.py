"""Policies exported as programs: `export` and `load_exported`."""

import dataclasses
import io
import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key, PRNGKeyArray

from .._check.dataflow import flow, union
from .._core.environment import action_space_of, observation_shapes
from .._core.files import as_written, encode, entry, read, write_whole
from .._core.require import require_extra
from .._core.spaces import legal_action
from .._core.tree import as_strong_arrays
from .._core.types import HasSpaces, Policy, PyTree
from ..random._keys import (
    Generator,
    KeyData,
    fingerprint,
    key as make_key,
    key_data,
    keys_from_data,
)

FORMAT = "rlscan exported policy"
FORMAT_VERSION = 3  # increased when older versions of rlscan can no longer read the files
PLATFORMS = ("cpu", "cuda", "tpu")


def export(
    policy: Policy,
    env: HasSpaces,
    path: str | os.PathLike,
    *,
    stochastic: bool = False,
    generator: str = "mix32",
    platforms: Sequence[str] = PLATFORMS,
) -> None:
    """Write a policy to a file as a program that `load_exported` runs without its Python class.

    **Arguments:**

    - `policy`: as for `rlscan.rollout`.
    - `env`: the environment that it acts in, or an `rlscan.envs.Spaces`. It is not written to the
        file.
    - `path`: a file that does not exist yet.
    - `stochastic`: if false, the policy is put in inference mode, and its action is the
        distribution's mode. If true, the action is sampled, and the policy keeps its mode, with or
        without noise; `rlscan.load_policy` returns it without.
    - `generator`: the generator of the keys for a stochastic policy.
    - `platforms`: the platforms to run on, by JAX's names.

    **Raises:** `ModuleNotFoundError` without `flatbuffers`; `FileExistsError` if the file exists;
    `ValueError` for a policy that draws from `key` even in inference mode, unless `stochastic`.
    """
    require_flatbuffers()
    require_new(path)
    content = exported_content(policy, env, stochastic, generator, platforms)
    write_whole(Path(path), content)


def exported_content(
    policy: Policy,
    env: HasSpaces,
    stochastic: bool = False,
    generator: str = "mix32",
    platforms: Sequence[str] = PLATFORMS,
) -> bytes:
    """The content of the file that `export` writes."""
    if not stochastic:
        policy = in_inference_mode(policy, env, edit="use stochastic=True")
    initial = jax.tree.leaves(as_strong_arrays(policy.initial_state()))
    program = _program(policy, env, stochastic, generator, platforms)
    state = io.BytesIO()
    for leaf in initial:
        np.save(state, np.asarray(leaf))
    header = {
        "jax_version": jax.__version__,
        "stochastic": stochastic,
        "generator": generator if stochastic else None,
        "generator_fingerprint": fingerprint(generator) if stochastic else None,
        "num_state_leaves": len(initial),
    }
    return encode(FORMAT, FORMAT_VERSION, header, state.getvalue() + program)


def _program(
    policy: Policy, env: HasSpaces, stochastic: bool, generator: str, platforms: Sequence[str]
) -> bytes:
    """The serialised program of observations, states and key data, `[batch, …]` each."""
    from jax import export as jax_export

    action_space = action_space_of(env)

    def batched(observation: PyTree, state: list[Array], *words: Any) -> tuple:
        if words:
            keys = keys_from_data(KeyData(words[0], generator))
            return jax.vmap(partial(_decide, policy, action_space, True))(observation, state, keys)
        one = partial(_decide, policy, action_space, False, key=make_key(0))  # the key is unused
        return jax.vmap(one)(observation, state)

    (batch,) = jax_export.symbolic_shape("batch")
    observation, state = inputs_of(policy, env)
    words = key_data(make_key(0, generator=generator)).words
    arguments = (observation, state, words) if stochastic else (observation, state)
    batched_arguments = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct((batch, *x.shape), x.dtype), arguments
    )
    exported = jax_export.export(jax.jit(batched), platforms=platforms)(*batched_arguments)
    try:
        return bytes(exported.serialize())
    except ValueError as error:  # a custom pytree class in the observation, action or value
        raise ValueError(
            f"an exported policy takes and returns arrays in dicts, lists and tuples, but {error}"
        ) from error


def _decide(*arguments: Any, **keys: Any) -> tuple[PyTree, Array, PyTree, list[Array]]:
    """`(action, log_prob, value, state)` for one observation, see `decide`."""
    return decide(*arguments, **keys)[1:]


def decide(
    policy: Policy,
    action_space: Any,
    stochastic: bool,
    observation: PyTree,
    leaves: list[Array],
    key: PRNGKeyArray,
) -> tuple[Any, PyTree, Array, PyTree, list[Array]]:
    """Act on one observation.

    **Arguments:**

    - `action_space`: the space in which the action is legal.
    - `stochastic`: whether the action is sampled; otherwise it is the mode.
    - `leaves`: the arrays of the policy's state.

    **Returns:** `(distribution, action, log_prob, value, leaves)`.
    """
    policy_key, action_key = jax.random.split(key)
    state = jax.tree.unflatten(jax.tree.structure(as_strong_arrays(policy.initial_state())), leaves)
    distribution: Any
    distribution, value, state = policy(observation, state, key=policy_key)
    sample = distribution.sample(seed=action_key) if stochastic else distribution.mode()
    log_prob = distribution.log_prob(sample)
    action = legal_action(action_space, sample, distribution)
    return distribution, action, log_prob, value, jax.tree.leaves(state)


def inputs_of(policy: Policy, env: HasSpaces) -> tuple[PyTree, list[Any]]:
    """The shapes and dtypes of one observation, and of the leaves of one state."""
    state = jax.eval_shape(lambda: as_strong_arrays(policy.initial_state()))
    return observation_shapes(env), jax.tree.leaves(state)


def require_new(path: str | os.PathLike) -> None:
    """Raise `FileExistsError` if there is a file."""
    if os.path.lexists(path):
        raise FileExistsError(f"{path} exists already; choose another file, or remove it")


def in_inference_mode(policy: Policy, env: HasSpaces, *, edit: str) -> Policy:
    """The policy without noise; `ValueError` if its action depends on its key even then."""
    policy = eqx.nn.inference_mode(policy)
    act = partial(_decide, policy, action_space_of(env), False)
    program = jax.make_jaxpr(act)(*inputs_of(policy, env), make_key(0))
    *_, key = (1 << i for i in range(len(program.jaxpr.invars) + 1))  # the key's bit, not the first
    sources = [0] * (len(program.jaxpr.invars) - 1) + [key]
    if union(flow(program.jaxpr, sources, lambda origin, _: origin)) & key:
        raise ValueError(
            f"{type(policy).__name__} draws from its key in inference mode as well, and a program "
            f"without keys would repeat one draw forever; {edit}"
        )
    return policy


def load_exported(path: str | os.PathLike) -> "ExportedPolicy":
    """Load a policy that `export` wrote.

    **Arguments:**

    - `path`: the file.

    **Returns:** an `ExportedPolicy`, which can be called.

    **Raises:** `FileNotFoundError` if there is no such file; `ValueError` if it is not an exported
    policy, is damaged, or was written by a later version; `ModuleNotFoundError` without
    `flatbuffers`.
    """
    require_flatbuffers()
    from jax import export as jax_export

    file = Path(path)
    header, body = read(file, {FORMAT: FORMAT_VERSION})
    generator = entry(file, header, "generator", Generator | None)
    num_leaves = entry(file, header, "num_state_leaves", int)
    stream = io.BytesIO(body)
    try:
        initial = [np.load(stream) for _ in range(num_leaves)]
        program = jax_export.deserialize(bytearray(body[stream.tell() :]))
    except Exception:  # NumPy and JAX raise many kinds when they read what they did not write
        raise ValueError(
            f"{file} is not as rlscan writes it: {num_leaves} arrays and a program must follow its "
            "first line; export the policy again"
        ) from None
    with as_written(file):
        _check_arguments(program, initial, generator)
    _check_generator(file, header, generator)
    return ExportedPolicy(program, initial, generator)


def _check_arguments(program: Any, initial: Sequence[np.ndarray], generator: str | None) -> None:
    """Raise `ValueError` if a program takes other states or keys than those beside it."""
    arguments, _ = jax.tree.unflatten(program.in_tree, program.in_avals)
    states = [(state.shape[1:], state.dtype) for state in arguments[1]]
    if states != (found := [(leaf.shape, leaf.dtype) for leaf in initial]):
        raise ValueError(f"num_state_leaves must count the states {states}, got {found}")
    taken = [words.shape[1:] for words in arguments[2:]]
    keys = [] if generator is None else [key_data(make_key(0, generator=generator)).words.shape]
    if taken != keys:
        raise ValueError(f"generator must be one whose keys have the shapes {taken}, got {keys}")


def _check_generator(file: Path, header: Mapping[str, Any], generator: str | None) -> None:
    """Raise `ValueError` for a generator that draws other bits than that of the program.

    The program holds its own generator; the name is there for the keys that it is given.
    """
    saved = entry(file, header, "generator_fingerprint", str | None)
    is_known = saved is not None or header["format_version"] > 2  # earlier ones have none
    own = None if generator is None else fingerprint(generator)
    if is_known and saved != own:
        raise ValueError(
            f"{file} is not as rlscan writes it: generator_fingerprint must be {own} for the "
            f"generator {generator}, got {saved}; export the policy again with this rlscan"
        )


@dataclasses.dataclass(frozen=True, eq=False)  # hashable by identity, so `jax.jit` accepts it
class ExportedPolicy:
    """A policy without its class, for batches: `policy(observation, state, keys=keys)`.

    It can also be called inside `jax.jit` and `lax.scan`.
    """

    _program: Any
    _initial_state: list[np.ndarray]

    # The generator of its keys, such as "mix32"; `None` if it is not stochastic.
    generator: str | None
    """The generator of its keys, such as "mix32"; `None` if it is not stochastic."""

    def __repr__(self) -> str:
        """One line, with the shapes for one environment."""
        (observation, state, *_), _ = jax.tree.unflatten(
            self._program.in_tree, self._program.in_avals
        )
        action, _, value, _ = jax.tree.unflatten(self._program.out_tree, self._program.out_avals)
        parts = {"observation": observation, "action": action, "value": value, "state": state}
        texts = [f"{name}={_one_line(part)}" for name, part in parts.items()]
        platforms = "/".join(self._program.platforms)
        return (
            f"ExportedPolicy({', '.join(texts)}, generator={self.generator}, platforms={platforms})"
        )

    def initial_state(self, batch_size: int) -> list[Array]:
        """The state at the start of B episodes, arrays `[B, …]`; `[]` for a feed-forward policy."""
        return [jnp.broadcast_to(leaf, (batch_size, *leaf.shape)) for leaf in self._initial_state]

    def __call__(
        self,
        observation: PyTree,
        state: Sequence[Array] = (),
        *,
        keys: Key[Array, " B"] | None = None,
    ) -> tuple[PyTree, Array, PyTree, list[Array]]:
        """Act in each of B environments.

        **Arguments:**

        - `observation`: `[B, …]`.
        - `state`: for a recurrent policy, the result of `initial_state` or of the previous call.
        - `keys`: for a stochastic policy, one for each environment:
            `jax.random.split(rlscan.key(0), B)`.

        **Returns:** `(action, log_prob, value, state)`, `[B, …]` each: the action for the
        environment, log π of the action before it was mapped to the action space, the value, and
        the state for the next call.

        **Raises:** `ValueError` for keys of another generator, for missing or superfluous keys, and
        for arrays of other shapes.
        """
        given = [observation, list(state)]
        if (keys is None) != (self.generator is None):
            wanted = "a key for each observation: keys=jax.random.split(rlscan.key(0), batch_size)"
            if self.generator is None:
                wanted = "no keys, as it is not stochastic"
            raise ValueError(f"this policy takes {wanted}")
        if keys is not None:
            if (got := str(jax.random.key_impl(keys))) != self.generator:
                raise ValueError(
                    f"keys must be of the generator {self.generator}, got {got}; "
                    f"use rlscan.key(0, generator={self.generator!r})"
                )
            given.append(jax.random.key_data(keys))
        return self._program.call(*given)


def _one_line(batched: PyTree) -> str:
    """The shapes and dtypes of arrays `[batch, …]` without their first axis."""
    one = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), batched)
    return eqx.tree_pformat(one, width=10**6, struct_as_array=True)


def require_flatbuffers() -> None:
    # `jax.export` imports it, but JAX does not install it.
    require_extra("exported policies", "export", "flatbuffers")
