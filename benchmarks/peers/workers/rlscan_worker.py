"""rlscan."""

import math
import os
from collections.abc import Callable
from functools import partial
from typing import Any

import equinox as eqx
import jax
from jax_program import EPISODES, jax_program
from protocol import Program, serve

import rlscan
from rlscan._core.cpu import splitting_pays


def make(workload: dict) -> Program:
    # As in its scripts. Seeds exchange nothing, so they are split over the cores.
    num_devices = math.gcd(workload["num_seeds"], rlscan.num_cores())
    minibatch = workload["num_envs"] * workload["num_steps"] // workload["num_minibatches"]
    one_thread = not splitting_pays(minibatch, width=64)
    rlscan.configure_cpu(num_devices=num_devices, one_thread=one_thread)
    dropout = workload.get("dropout", 0.0)
    env = rlscan.make(workload["env"])
    config = rlscan.ppo.PPOConfig(
        num_envs=workload["num_envs"],
        num_steps=workload["num_steps"],
        num_epochs=workload["num_epochs"],
        num_minibatches=workload["num_minibatches"],
        learning_rate=workload["learning_rate"],
        gamma=workload["gamma"],
        gae_lambda=workload["gae_lambda"],
        clip_range=workload["clip_range"],
        value_coef=workload["vf_coef"],
        value_clip_range=workload["clip_range"] if workload["clips_values"] else math.inf,
        entropy_coef=workload["ent_coef"],
        max_grad_norm=workload["max_grad_norm"],
    )

    make_policy, network = policy_of(workload)

    def train(key: Any) -> Any:
        policy_key, train_key = jax.random.split(key)
        policy = make_policy(env, dropout=dropout, key=policy_key)
        total_steps = workload["seed_steps"]
        return rlscan.ppo.train_scan(policy, env, config, total_steps=total_steps, key=train_key)

    def mean_return(trained: Any, key: Any) -> Any:
        policy = trained[0].policy
        return rlscan.evaluate(policy, env, num_episodes=EPISODES, key=key).episode_return.mean()

    def over_seeds(f: Callable) -> Callable:
        return rlscan.on_devices(eqx.filter_vmap(f), rlscan.make_mesh(num_devices))

    # Set by `configure_cpu`, which the scripts call; peers run with their default flags.
    notes = [f"{name}={os.environ[name]}" for name in ("XLA_FLAGS", "NPROC") if name in os.environ]
    notes += ["dropout is off when the return is measured"] * bool(dropout)
    notes += [f"seeds split over {num_devices} devices of the host"] * (num_devices > 1)
    return jax_program(
        workload,
        train,
        mean_return,
        make_key=rlscan.key,
        jit=eqx.filter_jit,
        vmap=over_seeds,
        network=network,
        notes=[*notes, *["clips values"] * workload["clips_values"]],
    )


def policy_of(workload: dict) -> tuple[Callable, str]:
    """A function that makes the workload's policy, and what its network is."""
    if not workload["is_recurrent"]:
        # The peers' networks take an image as a flat vector.
        return partial(rlscan.policies.ActorCritic, num_channels=()), "2 x 64 tanh each"
    make_policy = partial(
        rlscan.policies.RecurrentActorCritic,
        hidden_size=64,
        hidden_sizes=(64,),
        activation="relu",
    )
    return make_policy, "a GRU of 64, then 64 relu each"


if __name__ == "__main__":
    serve(make)
