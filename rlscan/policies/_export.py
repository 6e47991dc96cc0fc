"""Policies as programs: `export` and `load_exported`."""

import dataclasses
import importlib.util
import io
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key, PRNGKeyArray

from .._check.dataflow import flow, union
from .._core.files import encode, read, write_whole
from .._core.spaces import legal_action
from .._core.tree import strong
from .._core.types import Environment, Policy, PyTree
from ..random._keys import KeyData, key as make_key, key_data, keys_from_data

FORMAT = "rlscan exported policy"


FORMAT_VERSION = 2  # raised when a reader of this one could no longer read it


PLATFORMS = ("cpu", "cuda", "tpu")


def export(
    policy: Policy,
    env: Environment,
    path: str | os.PathLike,
    *,
    stochastic: bool = False,
    generator: str = "mix32",
    platforms: Sequence[str] = PLATFORMS,
) -> None:
    """Writes a policy to a file as a program: `load_exported` runs it without its Python class.

    **Arguments:**

    - `policy`: as for `rlscan.rollout`.
    - `env`: whose observations it sees, as for `rlscan.rollout`; it is not written.
    - `path`: a file that does not exist yet.
    - `stochastic`: if not, the policy is put in inference mode, and its action is the
        distribution's mode. If so, the action is sampled, and the policy is in the mode that it
        comes in: with its noise, or without, as `rlscan.load_policy` gives it.
    - `generator`: of the keys that a stochastic one will be called with.
    - `platforms`: which it will run on, by JAX's names.

    **Raises:** `ModuleNotFoundError` without `flatbuffers`; `FileExistsError` if the file exists;
    `ValueError` for a policy whose inference mode still draws from `key`, unless `stochastic`.
    """
    _require_flatbuffers()
    if os.path.lexists(path):
        raise FileExistsError(f"{path} exists already; choose another file, or remove it")
    if not stochastic:
        policy = eqx.nn.inference_mode(policy)
        _check_deterministic(policy, env)
    initial = jax.tree.leaves(strong(policy.initial_state()))
    program = _program(policy, env, stochastic, generator, platforms)
    state = io.BytesIO()
    for leaf in initial:
        np.save(state, np.asarray(leaf))
    header = {
        "jax_version": jax.__version__,
        "stochastic": stochastic,
        "generator": generator if stochastic else None,
        "num_state_leaves": len(initial),
    }
    write_whole(Path(path), encode(FORMAT, FORMAT_VERSION, header, state.getvalue() + program))


def _program(
    policy: Policy, env: Environment, stochastic: bool, generator: str, platforms: Sequence[str]
) -> bytes:
    """The serialised program, of observations, states and words of keys, `[batch, …]` each."""
    from jax import export as jax_export

    action_space = env.action_space()

    def batched(observation: PyTree, state: list[Array], *words: Any) -> tuple:
        if words:
            keys = keys_from_data(KeyData(words[0], generator))
            return jax.vmap(partial(_decide, policy, action_space, True))(observation, state, keys)
        one = partial(_decide, policy, action_space, False, key=make_key(0))  # it reads none
        return jax.vmap(one)(observation, state)

    (batch,) = jax_export.symbolic_shape("batch")
    observation, state = _inputs(policy, env)
    words = key_data(make_key(0, generator=generator)).words
    arguments = (observation, state, words) if stochastic else (observation, state)
    batched_arguments = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct((batch, *x.shape), x.dtype), arguments
    )
    exported = jax_export.export(jax.jit(batched), platforms=platforms)(*batched_arguments)
    try:
        return bytes(exported.serialize())
    except ValueError as error:  # a class of its own among the observations, actions or values
        raise ValueError(
            f"an exported policy takes and gives arrays in dicts, lists and tuples, but {error}"
        ) from error


def _decide(
    policy: Policy,
    action_space: Any,
    stochastic: bool,
    observation: PyTree,
    leaves: list[Array],
    key: PRNGKeyArray,
) -> tuple[PyTree, Array, PyTree, list[Array]]:
    """`(action, log_prob, value, state)` for one observation; the state is a list of arrays."""
    policy_key, action_key = jax.random.split(key)
    state = jax.tree.unflatten(jax.tree.structure(strong(policy.initial_state())), leaves)
    distribution: Any
    distribution, value, state = policy(observation, state, key=policy_key)
    sample = distribution.sample(seed=action_key) if stochastic else distribution.mode()
    log_prob = distribution.log_prob(sample)
    action = legal_action(action_space, sample, distribution)
    return action, log_prob, value, jax.tree.leaves(state)


def _inputs(policy: Policy, env: Environment) -> tuple[PyTree, list[Any]]:
    """Shapes and dtypes of one observation, and of the leaves of one state."""
    observation, _ = jax.eval_shape(lambda key: strong(env.reset(key)), make_key(0))
    return observation, jax.eval_shape(lambda: jax.tree.leaves(strong(policy.initial_state())))


def _check_deterministic(policy: Policy, env: Environment) -> None:
    """Refuses a policy whose decision depends on its key, where there will be none."""
    decide = partial(_decide, policy, env.action_space(), False)
    program = jax.make_jaxpr(decide)(*_inputs(policy, env), make_key(0))
    *_, key = (1 << i for i in range(len(program.jaxpr.invars) + 1))  # the key's bit, not the first
    sources = [0] * (len(program.jaxpr.invars) - 1) + [key]
    if union(flow(program.jaxpr, sources, lambda origin, _: origin)) & key:
        raise ValueError(
            f"{type(policy).__name__} draws from its key in inference mode, too, and a program "
            "without keys would hold one draw for ever; use stochastic=True"
        )


def load_exported(path: str | os.PathLike) -> "ExportedPolicy":
    """The policy that `export` wrote.

    **Arguments:**

    - `path`: the file.

    **Returns:** an `ExportedPolicy`, which is a function.

    **Raises:** `FileNotFoundError` if there is none; `ValueError` if it is no exported policy,
    damaged, or of a later version; `ModuleNotFoundError` without `flatbuffers`.
    """
    _require_flatbuffers()
    from jax import export as jax_export

    header, body = read(Path(path), {FORMAT: FORMAT_VERSION})
    stream = io.BytesIO(body)
    initial = [np.load(stream) for _ in range(header["num_state_leaves"])]
    program = jax_export.deserialize(bytearray(body[stream.tell() :]))
    return ExportedPolicy(program, initial, header["generator"])


@dataclasses.dataclass(frozen=True, eq=False)  # compared, and hashed by `jax.jit`, as itself
class ExportedPolicy:
    """A policy that needs no class: `policy(observation, state, keys=keys)`, batched throughout.

    It can be called within `jax.jit` and `lax.scan`, too.
    """

    _program: Any
    _initial_state: list[np.ndarray]

    # Of the keys that it is called with, such as "mix32"; `None` if it is not stochastic.
    generator: str | None

    def initial_state(self, batch_size: int) -> list[Array]:
        """The state of B episodes that begin, arrays `[B, …]`; `[]` for a feed-forward policy."""
        return [jnp.broadcast_to(leaf, (batch_size, *leaf.shape)) for leaf in self._initial_state]

    def __call__(
        self,
        observation: PyTree,
        state: Sequence[Array] = (),
        *,
        keys: Key[Array, " B"] | None = None,
    ) -> tuple[PyTree, Array, PyTree, list[Array]]:
        """What the policy does in each of B environments.

        **Arguments:**

        - `observation`: `[B, …]`.
        - `state`: of a recurrent policy, what `initial_state` or the call before returned.
        - `keys`: of a stochastic one, a key for each: `jax.random.split(rlscan.key(0), B)`.

        **Returns:** `(action, log_prob, value, state)`, `[B, …]` each: the action that the
        environment is to be sent, log π of what the distribution gave (before it was clipped to
        the space), the value, and the state of the next call.

        **Raises:** `ValueError` for keys of another generator, or missing or needless ones, and
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


def _require_flatbuffers() -> None:
    """jax.export writes with it, and JAX does not install it."""
    if importlib.util.find_spec("flatbuffers") is None:
        raise ModuleNotFoundError(
            "exported policies need flatbuffers: pip install 'rlscan[export]'", name="flatbuffers"
        )
