"""The subject: a policy and its environment, ours or the reader's."""

from importlib import import_module
from typing import Any, NamedTuple

import equinox as eqx

import rlscan
from benchmarks._benchmark import Settings

RATE = 0.1
WIDTH = 64  # units of each hidden layer


class Subject(NamedTuple):
    env: rlscan.Environment
    policy: rlscan.Policy
    description: str

    @property
    def has_switch(self) -> bool:
        """Whether inference mode changes the policy; otherwise there is no policy without noise."""
        return not bool(eqx.tree_equal(eqx.nn.inference_mode(self.policy), self.policy))


def subject(settings: Settings) -> Subject:
    """CartPole and an actor-critic with dropout, or what the settings name instead.

    **Raises:** `ValueError` or `TypeError` if they cannot be loaded, or the policy cannot act.
    """
    env_name, policy_name = settings.env or "CartPole-v1", settings.policy
    make_policy = load(policy_name) if policy_name else None  # raises before gymnax is imported
    env = load(env_name)() if ":" in env_name else rlscan.make(env_name)
    if make_policy is None:
        policy: Any = rlscan.policies.ActorCritic(env, dropout=RATE, key=rlscan.key(0))
        return Subject(env, policy, f"{env_name}, two hidden layers of 64, tanh, dropout {RATE}")
    policy = make_policy(env, key=rlscan.key(0))
    rlscan.check_policy(policy, env)
    ours = Subject(env, policy, f"{env_name}, {policy_name}")
    if ours.has_switch:
        return ours
    unswitched = f"{ours.description}, which inference mode leaves as it is"
    return ours._replace(description=unswitched)


def load(name: str) -> Any:
    """Import `module:attribute`, also from the current folder."""
    module_name, _, attribute = name.partition(":")
    if not module_name or not attribute:
        raise ValueError(f"{name!r} is not of the form module:factory, such as my_policy:make")
    try:
        module = import_module(module_name)
    except ModuleNotFoundError as error:
        raise ValueError(f"cannot import {module_name!r} of {name!r}: {error}") from error
    if not hasattr(module, attribute):
        raise ValueError(f"{module_name} has no {attribute!r}; {name!r} must be module:factory")
    return getattr(module, attribute)
