"""The `Program` of a library with Stable-Baselines3's interface, in gymnasium's environments."""
# pyright: reportMissingImports=false

from typing import Any

from protocol import Cannot, Program
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy

EPISODES, ENVS_TO_EVALUATE = 128, 16


def sb3_program(workload: dict, algorithm: Any, activation: Any, **settings: Any) -> Program:
    """Make a program from a library's PPO, its tanh, and further settings of its PPO."""
    if workload["env"].endswith("MinAtar"):
        raise Cannot("gymnasium has no MinAtar")
    if workload["num_seeds"] > 1:
        raise Cannot("trains one seed at a time; many take as long as one after the other")
    num_envs, num_steps = workload["num_envs"], workload["num_steps"]

    def run(seed: int, num_updates: int = workload["num_updates"]) -> Any:
        model = algorithm(
            "MlpPolicy",
            make_vec_env(workload["env"], num_envs, seed=seed),
            n_steps=num_steps,
            batch_size=num_envs * num_steps // workload["num_minibatches"],
            n_epochs=workload["num_epochs"],
            learning_rate=lambda remaining: remaining * workload["learning_rate"],
            gamma=workload["gamma"],
            gae_lambda=workload["gae_lambda"],
            clip_range=workload["clip_range"],
            vf_coef=workload["vf_coef"] / 2,  # its value loss lacks the factor of 1/2
            ent_coef=workload["ent_coef"],
            max_grad_norm=workload["max_grad_norm"],
            policy_kwargs={
                "net_arch": {"pi": [64, 64], "vf": [64, 64]},
                "activation_fn": activation,
            },
            seed=seed,
            **settings,
        )
        return model.learn(num_updates * num_envs * num_steps)

    def scores(model: Any) -> list[float]:
        env = make_vec_env(workload["env"], ENVS_TO_EVALUATE, seed=1_000)
        mean, _ = evaluate_policy(model, env, EPISODES, deterministic=False)
        return [float(mean)]

    return Program(
        run,
        scores,
        gradient_steps=workload["gradient_steps"],
        network="2 x 64 tanh each",
        warm_up=lambda: run(0, num_updates=2),
    )
