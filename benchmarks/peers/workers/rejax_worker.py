"""rejax."""
# pyright: reportMissingImports=false

from typing import Any

import optax
from jax_program import jax_program
from protocol import Program, serve
from rejax import PPO


def make(workload: dict) -> Program:
    algorithm = PPO.create(
        env=workload["env"],
        num_envs=workload["num_envs"],
        num_steps=workload["num_steps"],
        num_epochs=workload["num_epochs"],
        num_minibatches=workload["num_minibatches"],
        total_timesteps=workload["seed_steps"],
        eval_freq=workload["seed_steps"],
        skip_initial_evaluation=True,
        learning_rate=optax.linear_schedule(
            workload["learning_rate"], 0.0, workload["gradient_steps"]
        ),
        gamma=workload["gamma"],
        gae_lambda=workload["gae_lambda"],
        clip_eps=workload["clip_range"],
        vf_coef=workload["vf_coef"],
        ent_coef=workload["ent_coef"],
        max_grad_norm=workload["max_grad_norm"],
        agent_kwargs={"activation": "tanh"},
    )
    evaluate = algorithm.eval_callback  # 128 episodes

    def mean_return(trained: Any, key: Any) -> Any:
        _, returns = evaluate(algorithm, trained[0], key)
        return returns.mean()

    return jax_program(
        workload,
        algorithm.replace(eval_callback=lambda algorithm, state, key: ()).train,
        mean_return,
        network="2 x 64 tanh each",
        notes=[
            "the evaluation inside training is switched off",
            "an optimiser each for actor and critic",
            "clips each number of the gradient, not its norm",
            "clips values",
            "Adam's ε is 1e-8",
            "initialises as flax does",
        ],
    )


if __name__ == "__main__":
    serve(make)
