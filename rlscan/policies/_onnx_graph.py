"""`Graph`: steps of a program for one example as nodes of ONNX, with a batch in front.

Inputs and what depends on them are `[batch, …]`. Constants keep their shapes, because ONNX
broadcasts as NumPy does.
"""

import math
import string
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from ._onnx_steps import Step, Value

OPSET = 18  # the first whose reductions all take axes as an input
IR_VERSION = 10
BATCH = "batch"


class UnknownStep(Exception):
    """A primitive that cannot be written, with the reason."""


class Graph:
    """Nodes and constants in the making. A tensor is known by its name."""

    def __init__(self, inputs: dict[str, Value]):
        """**Arguments:**

        - `inputs`: by name, at least one.
        """
        self.nodes: list[Any] = []
        self._constants: dict[tuple, Any] = {}
        self._names = {value: name for name, value in inputs.items()}
        self._first = next(iter(inputs))
        self._batch = ""  # the name of its size, once it is needed

    def write(self, step: Step) -> None:
        """Append the nodes of a step.

        **Raises:** `UnknownStep`.
        """
        if step.name not in _WRITERS:
            raise UnknownStep(step.name)
        names = _WRITERS[step.name](self, step)
        names = [names] if isinstance(names, str) else names
        self._names |= zip(step.outputs, names, strict=True)

    def add(self, kind: str, *inputs: str, num_outputs: int = 1, **attributes: Any) -> Any:
        """Append a node, and return the name of its output, or the names of several."""
        from onnx import helper

        at = len(self.nodes)
        names = [
            f"{kind}_{at}" if num_outputs == 1 else f"{kind}_{at}_{i}" for i in range(num_outputs)
        ]
        self.nodes.append(helper.make_node(kind, inputs, names, name=f"{kind}_{at}", **attributes))
        return names[0] if num_outputs == 1 else names

    def constant(self, x: Any) -> str:
        """The name of a constant."""
        from onnx import numpy_helper

        x = np.asarray(x)
        key = (x.dtype.name, x.shape, x.tobytes())
        if key not in self._constants:
            self._constants[key] = numpy_helper.from_array(x, f"constant_{len(self._constants)}")
        return self._constants[key].name

    def integers(self, numbers: Any) -> str:
        """The name of a vector of integers, as ONNX takes axes and shapes."""
        return self.constant(np.asarray(numbers, np.int64))

    def name(self, value: Value) -> str:
        """The name of a value: of `[batch, …]`, or of a constant without the batch."""
        return self.constant(value.constant) if value.is_known else self._names[value]

    def batched(self, value: Value) -> str:
        """The name of a value `[batch, …]`, even of a constant."""
        if not value.is_known:
            return self._names[value]
        self._batch = self._batch or self.add("Shape", self._first, start=0, end=1)
        shape = self.add("Concat", self._batch, self.integers(value.shape), axis=0)
        return self.add("Expand", self.name(value), shape)

    def aligned(self, values: Sequence[Value]) -> list[str]:
        """The names of values that broadcast with each other; scalars get the axes they lack."""
        rank = max(len(value.shape) for value in values)

        def one(value: Value) -> str:
            missing = rank - len(value.shape)
            if value.is_known or not missing:
                return self.name(value)
            return self.add("Unsqueeze", self.name(value), self.integers(range(1, 1 + missing)))

        return [one(value) for value in values]

    def reshape(self, name: str, shape: Sequence[int]) -> str:
        """A tensor `[batch, …]` in another shape; that of one example is given."""
        return self.add("Reshape", name, self.integers([-1, *shape]))

    def proto(self, name: str, inputs: dict[str, Value], outputs: dict[str, Value]) -> Any:
        """The graph with these inputs and outputs."""
        from onnx import helper

        for own, value in outputs.items():
            self.nodes.append(helper.make_node("Identity", [self.batched(value)], [own], name=own))

        def described(values: dict[str, Value]) -> list[Any]:
            return [
                helper.make_tensor_value_info(n, _dtype(v.dtype), [BATCH, *v.shape])
                for n, v in values.items()
            ]

        constants = list(self._constants.values())
        return helper.make_graph(self.nodes, name, described(inputs), described(outputs), constants)


def _dtype(dtype: Any) -> int:
    from onnx import helper

    return helper.np_dtype_to_tensor_dtype(np.dtype(dtype))


Writer = Callable[[Graph, Step], str | list[str]]


def _elementwise(kind: str) -> Writer:
    return lambda graph, step: graph.add(kind, *graph.aligned(step.inputs))


def _logical(on_flags: str, on_integers: str) -> Writer:
    def write(graph: Graph, step: Step) -> str:
        kind = on_flags if step.outputs[0].dtype == bool else on_integers
        return graph.add(kind, *graph.aligned(step.inputs))

    return write


def _reduction(kind: str) -> Writer:
    def write(graph: Graph, step: Step) -> str:
        axes = graph.integers([1 + axis for axis in step.params["axes"]])
        return graph.add(kind, graph.name(step.inputs[0]), axes, keepdims=0)

    return write


def _arg_reduction(kind: str) -> Writer:
    def write(graph: Graph, step: Step) -> str:
        (axis,) = step.params["axes"]
        found = graph.add(kind, graph.name(step.inputs[0]), axis=1 + axis, keepdims=0)
        return graph.add("Cast", found, to=_dtype(step.outputs[0].dtype))

    return write


def _identity(graph: Graph, step: Step) -> list[str]:
    return [
        graph.name(value) if not value.is_known else graph.batched(value) for value in step.inputs
    ]


def _cast(graph: Graph, step: Step) -> str:
    return graph.add("Cast", graph.name(step.inputs[0]), to=_dtype(step.outputs[0].dtype))


def _reshape(graph: Graph, step: Step) -> str:
    return graph.reshape(graph.name(step.inputs[0]), step.outputs[0].shape)


def _broadcast(graph: Graph, step: Step) -> str:
    shape, kept = step.params["shape"], step.params["broadcast_dimensions"]
    name = graph.name(step.inputs[0])
    new = [axis for axis in range(len(shape)) if axis not in kept]
    if new:
        name = graph.add("Unsqueeze", name, graph.integers([1 + axis for axis in new]))
    now = [1] * len(shape)
    for axis, size in zip(kept, step.inputs[0].shape, strict=True):
        now[axis] = size
    return name if now == list(shape) else graph.add("Expand", name, graph.integers([1, *shape]))


def _transpose(graph: Graph, step: Step) -> str:
    order = [0, *(1 + axis for axis in step.params["permutation"])]
    return graph.add("Transpose", graph.name(step.inputs[0]), perm=order)


def _concatenate(graph: Graph, step: Step) -> str:
    return graph.add("Concat", *map(graph.batched, step.inputs), axis=1 + step.params["dimension"])


def _slice(graph: Graph, step: Step) -> str:
    starts, ends = step.params["start_indices"], step.params["limit_indices"]
    strides = step.params["strides"] or [1] * len(starts)
    axes = range(1, 1 + len(starts))
    given = [graph.integers(numbers) for numbers in (starts, ends, list(axes), strides)]
    return graph.add("Slice", graph.name(step.inputs[0]), *given)


def _split(graph: Graph, step: Step) -> list[str]:
    sizes, axis = step.params["sizes"], step.params["axis"]
    name = graph.name(step.inputs[0])
    found = graph.add("Split", name, graph.integers(sizes), num_outputs=len(sizes), axis=1 + axis)
    return [found] if isinstance(found, str) else found


def _cumsum(graph: Graph, step: Step) -> str:
    axis = graph.constant(np.int64(1 + step.params["axis"]))
    return graph.add(
        "CumSum", graph.name(step.inputs[0]), axis, reverse=int(step.params["reverse"])
    )


def _round(graph: Graph, step: Step) -> str:
    if step.params["rounding_method"] != lax.RoundingMethod.TO_NEAREST_EVEN:
        raise UnknownStep("round away from zero")
    return graph.add("Round", graph.name(step.inputs[0]))


def _select(graph: Graph, step: Step) -> str:
    which, *cases = step.inputs
    if len(cases) != 2:
        raise UnknownStep("select_n of more than two cases")
    flag, first, second = graph.aligned(step.inputs)
    if which.dtype != bool:
        from onnx import TensorProto

        flag = graph.add("Cast", flag, to=TensorProto.BOOL)
    if step.outputs[0].dtype != bool:
        return graph.add("Where", flag, second, first)
    # Runtimes have no `Where` of flags.
    chosen, other = graph.add("And", flag, second), graph.add("And", graph.add("Not", flag), first)
    return graph.add("Or", chosen, other)


def _dot(graph: Graph, step: Step) -> str:
    left, right = step.inputs
    ((on_left, on_right), (of_both, _)) = step.params["dimension_numbers"]
    for weight, x, on_weight, on_x in (
        (right, left, on_right, on_left),
        (left, right, on_left, on_right),
    ):
        rank = len(x.shape)
        if x.is_known or not weight.is_known or of_both or tuple(on_x) != (rank - 1,):
            continue
        if len(weight.shape) == 2:  # a linear layer
            matrix = np.asarray(weight.constant)
            matrix = matrix if tuple(on_weight) == (0,) else matrix.T
            name = graph.add("MatMul", graph.name(x), graph.constant(matrix))
            first = [0, rank, *range(1, rank)]  # the units of the layer, in front of other axes
            return graph.add("Transpose", name, perm=first) if weight is left and rank > 1 else name
    return graph.add("Einsum", graph.name(left), graph.name(right), equation=_equation(step))


def _equation(step: Step) -> str:
    """A `dot_general` as an equation for `Einsum`; `z` is the batch of the graph."""
    left, right = step.inputs
    contracted, shared = step.params["dimension_numbers"]
    letters = string.ascii_letters.replace("z", "")
    on_left, on_right = letters[: len(left.shape)], list(letters[len(left.shape) :])
    for i, j in [*zip(*contracted, strict=True), *zip(*shared, strict=True)]:
        on_right[j] = on_left[i]
    on_right = "".join(on_right[: len(right.shape)])
    both = "".join(on_left[i] for i in shared[0])
    free = [c for c in on_left if c not in on_right] + [c for c in on_right if c not in on_left]
    terms = [
        own if value.is_known else f"z{own}"
        for own, value in zip((on_left, on_right), step.inputs, strict=True)
    ]
    return f"{','.join(terms)}->z{both}{''.join(free)}"


def _convolution(graph: Graph, step: Step) -> str:
    x, kernel = step.inputs
    p, numbers = step.params, step.params["dimension_numbers"]
    is_plain = max(p["lhs_dilation"], default=1) == 1 and p["batch_group_count"] == 1
    if not (is_plain and kernel.is_known and x.shape[numbers.lhs_spec[0]] == 1):
        raise UnknownStep("conv_general_dilated with a dilated input, or weights that are computed")
    # One example has a batch of one, in whose place the batch of the graph comes.
    spec = [1 + axis for axis in numbers.lhs_spec]
    name = graph.add("Transpose", graph.name(x), perm=[0, *spec])
    name = graph.add("Squeeze", name, graph.integers([1]))
    weights = np.asarray(kernel.constant).transpose(numbers.rhs_spec)
    name = graph.add(
        "Conv",
        name,
        graph.constant(weights),
        strides=list(p["window_strides"]),
        pads=[low for low, _ in p["padding"]] + [high for _, high in p["padding"]],
        dilations=list(p["rhs_dilation"]),
        group=p["feature_group_count"],
    )
    name = graph.add("Unsqueeze", name, graph.integers([1]))
    back = np.argsort(numbers.out_spec)
    return graph.add("Transpose", name, perm=[0, *(1 + int(axis) for axis in back)])


def _moved(*data: int) -> Writer:
    """A primitive that moves the elements of its operands `data`, as the others say."""

    def write(graph: Graph, step: Step) -> str:
        if any(not x.is_known for i, x in enumerate(step.inputs) if i not in data):
            raise UnknownStep(f"{step.name} at indices that depend on the inputs")
        # The primitive itself tells which element goes where, if each is its own number.
        sizes = [math.prod(step.inputs[i].shape) for i in data]
        operands = [x.constant for x in step.inputs]
        for i, end, size in zip(data, np.cumsum(sizes), sizes, strict=True):
            numbers = jnp.arange(end - size, end, dtype=jnp.int32)
            operands[i] = numbers.reshape(step.inputs[i].shape)
        places = np.asarray(step.apply(operands)[0])
        if places.size and not 0 <= places.min() <= places.max() < sum(sizes):
            raise UnknownStep(f"{step.name} out of bounds")
        flat = [
            graph.reshape(graph.batched(step.inputs[i]), [size])
            for i, size in zip(data, sizes, strict=True)
        ]
        source = flat[0] if len(flat) == 1 else graph.add("Concat", *flat, axis=1)
        found = graph.add("Gather", source, graph.integers(places.ravel()), axis=1)
        return graph.reshape(found, step.outputs[0].shape)

    return write


_SAME = {
    **{"add": "Add", "sub": "Sub", "mul": "Mul", "div": "Div", "pow": "Pow"},
    **{"max": "Max", "min": "Min", "neg": "Neg", "abs": "Abs", "sign": "Sign"},
    **{"exp": "Exp", "log": "Log", "sqrt": "Sqrt", "tanh": "Tanh", "logistic": "Sigmoid"},
    **{"erf": "Erf", "sin": "Sin", "cos": "Cos", "tan": "Tan", "asin": "Asin", "acos": "Acos"},
    **{"atan": "Atan", "sinh": "Sinh", "cosh": "Cosh", "floor": "Floor", "ceil": "Ceil"},
    **{"eq": "Equal", "lt": "Less", "le": "LessOrEqual"},
    **{"gt": "Greater", "ge": "GreaterOrEqual"},
}

_WRITERS: dict[str, Writer] = {
    **{name: _elementwise(kind) for name, kind in _SAME.items()},
    "rem": lambda graph, step: graph.add("Mod", *graph.aligned(step.inputs), fmod=1),
    "and": _logical("And", "BitwiseAnd"),
    "or": _logical("Or", "BitwiseOr"),
    "xor": _logical("Xor", "BitwiseXor"),
    "not": _logical("Not", "BitwiseNot"),
    "reduce_sum": _reduction("ReduceSum"),
    "reduce_max": _reduction("ReduceMax"),
    "reduce_min": _reduction("ReduceMin"),
    "reduce_prod": _reduction("ReduceProd"),
    "argmax": _arg_reduction("ArgMax"),
    "argmin": _arg_reduction("ArgMin"),
    **dict.fromkeys(("stop_gradient", "copy", "copy_p", "optimization_barrier"), _identity),
    "convert_element_type": _cast,
    **dict.fromkeys(("reshape", "squeeze", "expand_dims"), _reshape),
    "broadcast_in_dim": _broadcast,
    "transpose": _transpose,
    "concatenate": _concatenate,
    "slice": _slice,
    "split": _split,
    "cumsum": _cumsum,
    "round": _round,
    "select_n": _select,
    "dot_general": _dot,
    "conv_general_dilated": _convolution,
    "gather": _moved(0),
    "dynamic_slice": _moved(0),
    "rev": _moved(0),
    "pad": _moved(0, 1),
    "scatter": _moved(0, 2),
    "dynamic_update_slice": _moved(0, 1),
}
