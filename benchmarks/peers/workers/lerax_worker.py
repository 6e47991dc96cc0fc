"""lerax."""
# pyright: reportMissingImports=false

from typing import Any

import diffrax
import equinox as eqx
import gymnax
import jax
import lerax.env
import optax
from jax_program import EPISODES, jax_program
from lerax.algorithm import PPO
from lerax.benchmark import average_reward
from lerax.compatibility.gymnax import GymnaxToLeraxEnv
from lerax.policy import MLPActorCriticPolicy
from lerax.wrapper import TimeLimit
from protocol import Program, serve


def make(workload: dict) -> Program:
    env, longest = make_env(workload["env"])
    algorithm = PPO(
        num_envs=workload["num_envs"],
        num_steps=workload["num_steps"],
        num_epochs=workload["num_epochs"],
        num_batches=workload["num_minibatches"],
        learning_rate=optax.linear_schedule(
            workload["learning_rate"], 0.0, workload["gradient_steps"]
        ),
        gamma=workload["gamma"],
        gae_lambda=workload["gae_lambda"],
        clip_coefficient=workload["clip_range"],
        value_loss_coefficient=workload["vf_coef"],
        entropy_loss_coefficient=workload["ent_coef"],
        max_grad_norm=workload["max_grad_norm"],
    )

    def train(key: Any) -> Any:
        policy_key, train_key = jax.random.split(key)
        policy = make_policy(env, policy_key)
        return algorithm.learn(env, policy, workload["seed_steps"], key=train_key)

    def mean_return(policy: Any, key: Any) -> Any:
        return average_reward(env, policy, EPISODES, max_steps=longest, key=key)

    return jax_program(
        workload,
        train,
        mean_return,
        make_key=jax.random.key,
        jit=eqx.filter_jit,
        vmap=eqx.filter_vmap,
        network="2 x 64 tanh each, behind a shared linear layer of at most 64",
        notes=[
            "its own environments, with Euler's steps",
            "the class TimeLimit is mended",
            "Adam's ε is 1e-8",
        ],
    )


class Limited(TimeLimit):
    """lerax's `TimeLimit` with the method that is missing in 0.0.5."""

    def action_mask(self, state: Any, *, key: Any) -> Any:
        return self.env.action_mask(state.env_state, key=key)


def make_env(name: str) -> tuple[Any, int]:
    """lerax's own environment with Euler's steps, as in gymnax, and its longest episode."""
    if name == "CartPole-v1":
        return Limited(lerax.env.CartPole(solver=diffrax.Euler()), 500), 500
    if name == "Pendulum-v1":
        return Limited(lerax.env.Pendulum(solver=diffrax.Euler()), 200), 200
    env, params = gymnax.make(name)
    return GymnaxToLeraxEnv(env, params), params.max_steps_in_episode


def make_policy(env: Any, key: Any) -> Any:
    """The nearest that lerax has to two separate networks: they share an encoder of one layer."""
    policy = MLPActorCriticPolicy(
        env,
        feature_size=min(64, env.observation_space.flat_size),
        feature_depth=0,
        value_depth=2,
        action_depth=3,  # counts the output layer
        key=key,
    )
    return jax.tree.map(lambda leaf: jax.nn.tanh if leaf is jax.nn.relu else leaf, policy)


if __name__ == "__main__":
    serve(make)
