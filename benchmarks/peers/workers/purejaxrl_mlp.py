"""purejaxrl's feed-forward PPO."""
# pyright: reportMissingImports=false

from typing import Any

import ppo

gymnax, make_train = ppo.gymnax, ppo.make_train


def make_network(num_actions: int) -> Any:
    return ppo.ActorCritic(num_actions, activation="tanh")


def act(network: Any, params: Any, state: Any, observation: Any) -> tuple[Any, Any]:
    """The state, which is empty, and the distribution for one observation."""
    return state, network.apply(params, observation)[0]


def initial_state() -> Any:
    return ()
