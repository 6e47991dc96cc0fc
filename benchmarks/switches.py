"""Three ways to switch dropout off, in one and the same rollout.

    python -m benchmarks.switches [--smoke] [--repeats 7] [--json FILE]

CartPole, two hidden layers of 64, tanh, dropout 0.1 on both layers of the actor; T steps in N
environments. A layer may look at a flag that is traced, by `lax.cond`: unbatched, or with a flag in
each environment, as under `vmap`. Or the flag is a Python bool that shapes the program: given to
the layer's call, or set beforehand by `eqx.nn.inference_mode`. Equations are counted in the jaxpr,
those of inner programs included; memory is what the compiled program needs beside its arguments and
results. Ratios are medians over pairs of interleaved runs.
"""

import argparse
from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jax import lax
from jax.extend.core import ClosedJaxpr, Jaxpr
from jaxtyping import Array, Bool, PRNGKeyArray
from rich.console import Console
from rich.table import Table

import rlscan
from benchmarks._timing import interleaved, ratio, write_json

REFERENCE = "inference mode"
RATE = 0.1


class CondDropout(eqx.Module):
    """Dropout behind a flag that is an array: both branches are in the program."""

    rate: float
    is_off: Bool[Array, ""]

    def __call__(self, x: Array, *, key: PRNGKeyArray) -> Array:
        dropout = eqx.nn.Dropout(self.rate)
        return lax.cond(self.is_off, lambda x: x, lambda x: dropout(x, key=key), x)


class StaticDropout(eqx.Module):
    """Dropout behind a Python flag that is given to the call."""

    rate: float
    is_off: bool = eqx.field(static=True)

    def __call__(self, x: Array, *, key: PRNGKeyArray) -> Array:
        return eqx.nn.Dropout(self.rate)(x, key=key, inference=self.is_off)


class FlagInEachEnvironment(eqx.Module):
    """A policy that takes its flag from its state, which each environment has one of."""

    policy: Any

    def __call__(self, observation: Array, state: Array, *, key: PRNGKeyArray) -> tuple:
        policy = with_dropout(self.policy, CondDropout(RATE, state))
        distribution, value, _ = policy(observation, (), key=key)
        return distribution, value, state

    def initial_state(self) -> Array:
        return jnp.asarray(True)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--smoke", action="store_true", help="a size that only shows that it runs")
    parser.add_argument("--repeats", type=int, default=7, help="interleaved runs of each")
    parser.add_argument("--json", metavar="FILE", help="keep the figures in this file")
    args = parser.parse_args(argv)
    num_steps, sizes = (8, [4]) if args.smoke else (128, [64, 1024])
    repeats = 2 if args.smoke else args.repeats

    figures = []
    for num_envs in sizes:
        contestants = {
            name: rollout_of(policy, num_envs, num_steps) for name, policy in policies().items()
        }
        timings = interleaved(contestants, repeats=repeats)
        for name, timing in timings.items():
            program = eqx.filter_make_jaxpr(contestants[name][0])(*contestants[name][1])[0]
            figures.append(
                {
                    "num_envs": num_envs,
                    "contestant": name,
                    "equations": len(equations(program)),
                    "draws": equations(program).count("random_bits"),
                    "compile_seconds": timing.compile,
                    "temporary_bytes": timing.temporary_bytes,
                    "run_seconds": timing.runs,
                    "times_reference": ratio(timings[REFERENCE], timing),
                }
            )
    show(figures)
    write_json(args.json, "switches", {"num_steps": num_steps, "repeats": repeats}, figures)


def policies() -> dict[str, Any]:
    policy = rlscan.ActorCritic(rlscan.make("CartPole-v1"), dropout=RATE, key=rlscan.key(0))
    return {
        REFERENCE: eqx.nn.inference_mode(policy),
        "static flag, off": with_dropout(policy, StaticDropout(RATE, True)),
        "lax.cond, off": with_dropout(policy, CondDropout(RATE, jnp.asarray(True))),
        "lax.cond, off in each environment": FlagInEachEnvironment(policy),
        "lax.cond, on": with_dropout(policy, CondDropout(RATE, jnp.asarray(False))),
        "static flag, on": with_dropout(policy, StaticDropout(RATE, False)),
    }


def with_dropout(policy: Any, layer: Any) -> Any:
    return eqx.tree_at(lambda p: p.actor.dropout, policy, layer)


def rollout_of(policy: Any, num_envs: int, num_steps: int) -> tuple:
    env = rlscan.make("CartPole-v1")
    state = rlscan.init_rollout(policy, env, num_envs=num_envs, key=rlscan.key(1))
    return (lambda policy, state: rlscan.rollout(policy, env, state, num_steps)), (policy, state)


def equations(program: Any) -> list[str]:
    """The primitives of a jaxpr and of all programs inside of it."""
    jaxpr = program.jaxpr if isinstance(program, ClosedJaxpr) else program
    found = []
    for equation in jaxpr.eqns:
        found.append(equation.primitive.name)
        for value in equation.params.values():
            for inner in value if isinstance(value, tuple | list) else (value,):
                if isinstance(inner, Jaxpr | ClosedJaxpr):
                    found += equations(inner)
    return found


def show(figures: list[dict]) -> None:
    table = Table(
        "N", "dropout switched by", "equations", "draws", "compile s", "memory kB", "time",
        title="One rollout on CartPole",
    )  # fmt: skip
    for f in figures:
        table.add_row(
            str(f["num_envs"]),
            f["contestant"],
            str(f["equations"]),
            str(f["draws"]),
            f"{f['compile_seconds']:.1f}",
            f"{f['temporary_bytes'] / 1024:,.0f}",
            f"{f['times_reference']:.2f}",
        )
    Console(width=110).print(table)
    print(f"draws: equations that make random bits. time: over that of {REFERENCE}.")


if __name__ == "__main__":
    main()
