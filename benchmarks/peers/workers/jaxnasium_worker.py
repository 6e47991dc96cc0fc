"""jaxnasium."""
# pyright: reportMissingImports=false

from typing import Any

import equinox as eqx
import jax
from jax_program import EPISODES, initialize_one_by_one, jax_program
from protocol import Program, serve


def make(workload: dict) -> Program:
    initialize_one_by_one()
    import jaxnasium  # after the initialiser is replaced
    from jaxnasium.algorithms import PPO
    from jaxnasium.algorithms.architectures import MLP

    env = jaxnasium.make(workload["env"])
    if workload["env"].endswith("MinAtar"):
        env = jaxnasium.FlattenObservationWrapper(env)
    network = {"body": MLP.with_params(hidden_sizes=(64, 64), activation=jax.nn.tanh)}
    algorithm = PPO(
        num_envs=workload["num_envs"],
        num_steps=workload["num_steps"],
        num_epochs=workload["num_epochs"],
        num_minibatches=workload["num_minibatches"],
        total_timesteps=workload["seed_steps"],
        learning_rate_start=workload["learning_rate"],
        learning_rate_end=0.0,
        gamma=workload["gamma"],
        gae_lambda=workload["gae_lambda"],
        clip_coef=workload["clip_range"],
        clip_coef_vf=float("inf"),
        vf_coef=workload["vf_coef"] / 2,  # its value loss lacks the factor of 1/2
        ent_coef_start=workload["ent_coef"],
        ent_coef_end=None,
        max_grad_norm=workload["max_grad_norm"],
        normalize_observations=False,
        normalize_rewards=False,
        warmup_steps=0,
        log_function=None,
        actor_kwargs=network,
        critic_kwargs=network,
    )

    def mean_return(trained: Any, key: Any) -> Any:
        agent, _ = trained
        return agent.evaluate(
            key, env, num_eval_episodes=EPISODES, deterministic_policy=False
        ).mean()

    return jax_program(
        workload,
        lambda key: algorithm.train(key, env),
        mean_return,
        jit=eqx.filter_jit,
        vmap=eqx.filter_vmap,
        network="2 x 64 tanh each",
        notes=[
            "normalisation is off",
            "one more step of each environment, to warm up",
            "its own environments where it has them",
            "Adam's ε is 1e-4",
        ],
    )


if __name__ == "__main__":
    serve(make)
