"""Steps per second of a rollout: dropout on and off, beside the loop that one would write by hand.

    python -m benchmarks.rollout [--smoke] [--repeats 7] [--json FILE]

All contestants run the same network in the same environment (CartPole, two hidden layers of 64,
tanh) for T steps in N environments. `plain` is the usual pattern: `lax.scan` over gymnax's `step`,
a vmapped policy with `eqx.nn.Dropout`, one threefry key split at every step. It records no keys,
so its noise cannot be replayed. Ratios are medians over pairs of runs.
"""

import argparse

import equinox as eqx
import jax
from jax import lax
from rich.console import Console
from rich.table import Table

import rlscan
from benchmarks._timing import Timing, interleaved, ratio, write_json


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--smoke", action="store_true", help="a size that only shows that it runs")
    parser.add_argument("--repeats", type=int, default=7, help="interleaved runs of each")
    parser.add_argument("--json", metavar="FILE", help="keep the figures in this file")
    args = parser.parse_args(argv)
    num_steps, sizes = (8, [4]) if args.smoke else (128, [4, 64, 1024])
    repeats = 2 if args.smoke else args.repeats

    figures = []
    for num_envs in sizes:
        timings = interleaved(contestants(num_envs, num_steps), repeats=repeats)
        figures += [row(name, t, timings, num_envs, num_steps) for name, t in timings.items()]
    show(figures)
    write_json(args.json, "rollout", {"num_steps": num_steps, "repeats": repeats}, figures)


def contestants(num_envs: int, num_steps: int) -> dict[str, tuple]:
    env = rlscan.make("CartPole-v1")

    def ours(dropout: float, impl: str) -> tuple:
        key = jax.random.key(0, impl=impl)
        policy = rlscan.ActorCritic(env, dropout=dropout, key=key)
        state = rlscan.init_rollout(policy, env, num_envs=num_envs, key=key)
        return (lambda policy, state: rlscan.rollout(policy, env, state, num_steps)), (
            policy,
            state,
        )

    default = str(jax.random.key_impl(rlscan.key(0)))
    return {
        "plain, dropout 0": plain(env, num_envs, num_steps, dropout=0.0),
        "plain, dropout 0.1": plain(env, num_envs, num_steps, dropout=0.1),
        f"rlscan, dropout 0, {default}": ours(0.0, default),
        f"rlscan, dropout 0.1, {default}": ours(0.1, default),
        "rlscan, dropout 0.1, threefry2x32": ours(0.1, "threefry2x32"),
    }


def plain(env: rlscan.Environment, num_envs: int, num_steps: int, *, dropout: float) -> tuple:
    key = jax.random.key(0, impl="threefry2x32")
    policy = rlscan.ActorCritic(env, dropout=dropout, key=key)
    observation, env_state = jax.vmap(env.reset)(jax.random.split(key, num_envs))

    def act(policy, observation, key):
        policy_key, action_key = jax.random.split(key)
        distribution, value, _ = policy(observation, (), key=policy_key)
        action = distribution.sample(seed=action_key)
        return action, distribution.log_prob(action), value

    def scan(policy, observation, env_state, key):
        def step(carry, _):
            observation, env_state, key = carry
            key, act_key, env_key = jax.random.split(key, 3)
            act_keys = jax.random.split(act_key, num_envs)
            action, log_prob, value = eqx.filter_vmap(act, in_axes=(None, 0, 0))(
                policy, observation, act_keys
            )
            new_observation, env_state, reward, terminated, truncated, _ = jax.vmap(env.step)(
                jax.random.split(env_key, num_envs), env_state, action
            )
            done = terminated | truncated
            return (new_observation, env_state, key), (
                observation, action, log_prob, value, reward, done,
            )  # fmt: skip

        return lax.scan(step, (observation, env_state, key), None, num_steps)

    strong = jax.tree.map(lambda x: lax.convert_element_type(x, x.dtype), env_state)
    return scan, (policy, observation, strong, key)


def row(
    name: str, timing: Timing, timings: dict[str, Timing], num_envs: int, num_steps: int
) -> dict:
    dropout = "dropout 0.1" if "0.1" in name else "dropout 0"
    return {
        "num_envs": num_envs,
        "contestant": name,
        "compile_seconds": timing.compile,
        "run_seconds": timing.runs,
        "steps_per_second": num_envs * num_steps / timing.median,
        "times_plain": ratio(timing, timings[f"plain, {dropout}"]),
        "times_without_dropout": ratio(timing, timings[_without_dropout(name)]),
    }


def _without_dropout(name: str) -> str:
    library = name.split(",")[0]
    default = str(jax.random.key_impl(rlscan.key(0)))
    return "plain, dropout 0" if library == "plain" else f"rlscan, dropout 0, {default}"


def show(figures: list[dict]) -> None:
    table = Table(
        "N", "contestant", "compile s", "M steps/s", "min … max", "x plain", "x dropout 0",
        title="One rollout on CartPole",
    )  # fmt: skip
    for f in figures:
        runs = f["run_seconds"]
        steps = f["steps_per_second"] * sorted(runs)[len(runs) // 2] / 1e6
        table.add_row(
            str(f["num_envs"]),
            f["contestant"],
            f"{f['compile_seconds']:.1f}",
            f"{f['steps_per_second'] / 1e6:.2f}",
            f"{steps / max(runs):.2f} … {steps / min(runs):.2f}",
            f"{f['times_plain']:.2f}",
            f"{f['times_without_dropout']:.2f}",
        )
    Console(width=110).print(table)
    print("x plain: steps/s over those of the hand-written loop with the same dropout.")
    print("x dropout 0: over the same library without dropout.")


if __name__ == "__main__":
    main()
