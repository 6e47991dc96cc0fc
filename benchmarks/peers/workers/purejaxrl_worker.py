"""purejaxrl, from a checkout, because it is not a package."""
# pyright: reportMissingImports=false

import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax_program import EPISODES, initialize_one_by_one, jax_program
from protocol import Cannot, Program, serve


def make(workload: dict) -> Program:
    if workload["env"] == "Pendulum-v1":
        raise Cannot("its PPO for continuous actions takes only Brax's environments")
    folder = Path(workload["checkout"]) / "purejaxrl"
    if not (folder / "ppo.py").is_file():
        raise Cannot(f"{folder / 'ppo.py'} is not there")
    initialize_one_by_one()  # before purejaxrl imports it
    sys.path.insert(0, str(folder))
    config = {
        "ENV_NAME": workload["env"],
        "NUM_ENVS": workload["num_envs"],
        "NUM_STEPS": workload["num_steps"],
        "TOTAL_TIMESTEPS": workload["seed_steps"],
        "UPDATE_EPOCHS": workload["num_epochs"],
        "NUM_MINIBATCHES": workload["num_minibatches"],
        "LR": workload["learning_rate"],
        "ANNEAL_LR": True,
        "GAMMA": workload["gamma"],
        "GAE_LAMBDA": workload["gae_lambda"],
        "CLIP_EPS": workload["clip_range"],
        "ENT_COEF": workload["ent_coef"],
        "VF_COEF": workload["vf_coef"],
        "MAX_GRAD_NORM": workload["max_grad_norm"],
        "ACTIVATION": "tanh",
    }
    if workload["is_recurrent"]:
        import purejaxrl_gru as module

        network = "64 relu, a GRU of 64, then 64 relu each"
    else:
        import purejaxrl_mlp as module

        network = "2 x 64 tanh each"
    return jax_program(
        workload,
        module.make_train(config),
        lambda trained, key: play(module, workload["env"], trained, key),
        network=network,
        notes=[f"checkout {commit_of(folder)}", "clips values"],
    )


def commit_of(folder: Path) -> str:
    command = ["git", "-C", str(folder), "rev-parse", "--short", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "without a commit"


def play(module: Any, name: str, trained: Any, key: Any) -> Any:
    """The mean return of whole episodes, because purejaxrl has no evaluation."""
    env, params = module.gymnax.make(name)
    network = module.make_network(env.action_space(params).n)
    trained_params = trained["runner_state"][0].params
    length = params.max_steps_in_episode

    def episode(key: Any) -> Any:
        reset_key, key = jax.random.split(key)
        observation, env_state = env.reset(reset_key, params)

        def step(carry: tuple, key: Any) -> tuple:
            observation, env_state, state, is_over, total = carry
            act_key, step_key = jax.random.split(key)
            observation = jnp.ravel(observation)
            state, distribution = module.act(network, trained_params, state, observation)
            action = distribution.sample(seed=act_key)
            observation, env_state, reward, done, _ = env.step(step_key, env_state, action, params)
            total += jnp.where(is_over, 0.0, reward)
            return (observation, env_state, state, is_over | done, total), None

        start = (observation, env_state, module.initial_state(), False, 0.0)
        total = jax.lax.scan(step, start, jax.random.split(key, length))[0][-1]
        return total

    return jax.vmap(episode)(jax.random.split(key, EPISODES)).mean()


if __name__ == "__main__":
    serve(make)
