"""`export_onnx`: a policy as a file of ONNX, which runs without Python."""

import json
import os
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.tree_util import tree_flatten_with_path

from .._core.environment import action_space_of
from .._core.files import write_whole
from .._core.require import require_extra
from .._core.tree import as_strong_arrays
from .._core.types import HasSpaces, Policy, PyTree
from .._rollout.evaluate import parameters_of
from .._version import __version__
from ..random._keys import key as make_key
from ._export import decide, in_inference_mode, inputs_of, require_new
from ._onnx_graph import IR_VERSION, OPSET, Graph, UnknownStep
from ._onnx_steps import Value, steps_of


def export_onnx(policy: Policy, env: HasSpaces, path: str | os.PathLike) -> None:
    """Write a policy in inference mode to a file of ONNX, for runtimes without Python or JAX.

    Every input and output has a first axis `batch` of any size.

    | input | |
    |---|---|
    | `observation` | the observation; the parts of a dict or tuple are `observation.NAME` |
    | `state.0`, … | the arrays of a recurrent policy's state |

    | output | |
    |---|---|
    | `action` | the mode of the distribution, as the environment receives it |
    | `log_prob` | log π of the mode, before it was mapped to the action space |
    | `value` | the value, if the policy has one |
    | `distribution.logits`, or `distribution.mean` and `distribution.stddev` | the parameters |
    | `next_state.0`, … | the state for the next call |

    The metadata `initial_state` is the state at the start of an episode: a list of arrays in JSON,
    without the batch.

    **Arguments:**

    - `policy`: as for `rlscan.rollout`, of any class.
    - `env`: the environment that it acts in, or an `rlscan.envs.Spaces`. It is not written to the
        file, and neither are its wrappers.
    - `path`: a file that does not exist yet.

    **Raises:** `ModuleNotFoundError` without `onnx`; `FileExistsError` if the file exists;
    `ValueError` for a policy that draws from `key` even in inference mode, or that computes what
    cannot be written, with the name of JAX's primitive.
    """
    require_onnx()
    require_new(path)
    write_whole(Path(path), onnx_content(policy, env))


def require_onnx() -> None:
    """Raise `ModuleNotFoundError` without `onnx`."""
    require_extra("ONNX files", "onnx", "onnx")


def onnx_content(policy: Policy, env: HasSpaces) -> bytes:
    """The content of the file that `export_onnx` writes."""
    import onnx

    policy = in_inference_mode(policy, env, edit="make it deterministic there")
    program, shape = jax.make_jaxpr(partial(_act, policy, env), return_shape=True)(
        *inputs_of(policy, env)
    )
    given = dict(zip(("observation", "state"), inputs_of(policy, env), strict=True))
    inputs = {name: Value(x.shape, x.dtype, varies=True) for name, x in _named(given).items()}
    steps, results = steps_of(program, list(inputs.values()))
    outputs = dict(zip(_named(shape), results, strict=True))
    graph = Graph(inputs)
    for step in steps:
        try:
            graph.write(step)
        except UnknownStep as unknown:
            raise ValueError(
                f"{type(policy).__name__} cannot be written as ONNX: it computes JAX's {unknown}; "
                "use other operations, or rlscan.policies.export, which takes all of them"
            ) from None
    model = onnx.helper.make_model(
        graph.proto("policy", inputs, outputs),
        opset_imports=[onnx.helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="rlscan",
        producer_version=__version__,
    )
    states = jax.tree.leaves(as_strong_arrays(policy.initial_state()))
    text = json.dumps([np.asarray(x).tolist() for x in states])
    onnx.helper.set_model_props(model, {"initial_state": text})
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()


def _act(policy: Policy, env: HasSpaces, observation: PyTree, leaves: list[Any]) -> dict[str, Any]:
    """The outputs of the file, for one observation."""
    distribution, action, log_prob, value, leaves = decide(
        policy, action_space_of(env), False, observation, leaves, key=make_key(0)
    )
    return {
        "action": action,
        "log_prob": log_prob,
        "value": value,
        "distribution": parameters_of(distribution),
        "next_state": leaves,
    }


def _named(tree: PyTree) -> dict[str, Any]:
    """The leaves of a tree by their names, such as `observation.position`."""

    def name(key: Any) -> str:
        parts = (getattr(key, kind, None) for kind in ("key", "idx", "name"))
        return str(next(part for part in parts if part is not None))

    return {".".join(map(name, path)): leaf for path, leaf in tree_flatten_with_path(tree)[0]}
