"""Choices of `rlscan train` that suit the machine: devices, threads, the compile cache."""

import dataclasses

import jax

from .._core.compile_cache import use_compile_cache
from .._core.cpu import configure_cpu, num_cores, splitting_pays
from .._core.mesh import are_divided
from ..envs._make import keeps_state
from ._build import members
from ._component import is_own
from ._config import Config
from ._policy_config import may_recur, width_of


def on_this_machine(config: Config) -> Config:
    """Set up JAX for a run, and return the config with `num_devices` set.

    The cores of a CPU become devices if that pays. If the config sets `num_devices` already, the
    run is the same on any machine. Call it before JAX first runs.
    """
    if config.compile_cache:
        use_compile_cache()
    num_devices = config.num_devices or best_num_devices(num_cores(), config)
    configure_cpu(num_devices, one_thread=not _splitting_pays(config))
    if config.num_devices is not None:
        return config
    return dataclasses.replace(config, num_devices=best_num_devices(len(jax.devices()), config))


def best_num_devices(available: int, config: Config) -> int:
    """The most devices, up to those available, that divide the work evenly and have enough of it.

    Several runs are split over devices as they are, since they exchange nothing. Environments are
    split if each device gets at least 32 of them and 512 steps of each minibatch (`python -m
    benchmarks --only devices`; smaller parts were not tried). One device for an environment on the
    host, and for a policy or an algorithm of one's own, of which it is not known whether they can
    be split.
    """
    num_runs, ppo = len(members(config)), config.ppo
    if config.algorithm is not None or keeps_state(config.env.name):
        return 1
    if num_runs > 1:
        return max(d for d in range(1, available + 1) if num_runs % d == 0)
    if not is_own(config.policy.class_path) or config.on_batch is not None:  # of whole rollouts
        return 1
    sizes = {"num_envs": ppo.num_envs, "num_steps": ppo.num_steps}
    sizes["num_minibatches"] = ppo.num_minibatches
    minibatch = ppo.num_envs * ppo.num_steps // ppo.num_minibatches

    def fits(d: int) -> bool:
        has_enough = ppo.num_envs >= 32 * d and minibatch >= 512 * d
        recurrent = may_recur(config.policy)
        return d == 1 or (has_enough and are_divided(d, **sizes, recurrent=recurrent))

    return max(filter(fits, range(1, max(available, 1) + 1)))


def _splitting_pays(config: Config) -> bool:
    """Whether loops are long enough to split over cores.

    On one device several runs side by side are like one with as many times the environments.
    """
    if config.algorithm is not None:
        return True  # it is not known, so JAX decides
    num_steps = len(members(config)) * config.ppo.num_envs * config.ppo.num_steps
    return splitting_pays(num_steps // config.ppo.num_minibatches, width_of(config.policy))
