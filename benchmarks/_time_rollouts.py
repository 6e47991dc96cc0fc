"""`time_rollouts`: the suite's timing and table, for any function that steps environments."""

from collections.abc import Callable, Mapping

from benchmarks import _table
from benchmarks._benchmark import Result
from benchmarks._figures import Comparison, Line, figures_of, ratios
from benchmarks._timing import interleaved


def time_rollouts(
    contestants: Mapping[str, tuple[Callable, tuple]],
    *,
    num_steps: int,
    num_envs: int,
    over: str | None = None,
    repeats: int = 21,
    show: bool = True,
) -> Result:
    """Time functions that each make T steps in N environments, in turn, and print a table.

    JAX's caches are cleared before each compilation, so that each function is traced in full.

    **Arguments:**

    - `contestants`: by name, a function and its arguments. It is compiled by `eqx.filter_jit`;
        it may return anything, but only what its results depend on is computed.
    - `num_steps`, `num_envs`: T and N, to compute steps per second.
    - `over`: the contestant that the others are compared with; by default the first.
    - `repeats`: the number of interleaved runs of each, after its first call.
    - `show`: whether to print the table.

    **Returns:** `Result`, with a `Line` for each contestant: steps per second of each run; seconds
    of tracing, of XLA and of the first call; and the program's temporary memory.

    **Raises:** `ValueError` for a count below 1, for no contestants, and if `over` is not one of
    them.

    ```python
    state = rlscan.init_rollout(policy, env, num_envs=64, key=rlscan.key(0))
    contestants = {
        "rlscan": (rlscan.rollout, (policy, env, state, 128)),
        "mine": (my_rollout, (my_policy, my_state)),
    }
    benchmarks.time_rollouts(contestants, num_steps=128, num_envs=64)
    ```
    """
    for name, count in {"num_steps": num_steps, "num_envs": num_envs, "repeats": repeats}.items():
        if count < 1:
            raise ValueError(f"{name} must be 1 or more, got {count!r}")
    if not contestants:
        raise ValueError("contestants must name at least one function, got none")
    over = next(iter(contestants)) if over is None else over
    if over not in contestants:
        raise ValueError(f"over must be one of {', '.join(contestants)}, got {over!r}")

    lines = rollout_lines(contestants, num_steps=num_steps, num_envs=num_envs, repeats=repeats)
    result = Result(f"T = {num_steps}", lines)
    if show:
        others = [Comparison(name, over, "") for name in contestants if name != over]
        _table.show("rollouts", result.setting, lines, ratios(lines, others))
        _table.explain_columns(lines)
    return result


def rollout_lines(
    contestants: Mapping[str, tuple[Callable, tuple]],
    *,
    num_steps: int,
    num_envs: int,
    repeats: int,
    meanings: Mapping[str, str] | None = None,
) -> list[Line]:
    """A line for each contestant, at the size `N = num_envs`."""
    timings = interleaved(contestants, repeats=repeats)
    return [
        Line(
            name,
            f"N = {num_envs}",
            (meanings or {}).get(name, ""),
            figures_of(timing, num_steps=num_steps * num_envs),
        )
        for name, timing in timings.items()
    ]
