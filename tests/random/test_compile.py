"""Every generator on offer compiles in seconds, with the optimisations that users have."""

import os
import subprocess
import sys

import pytest

from rlscan import GENERATORS

FIRST_STATE = """
import equinox as eqx, jax, pathlib, rlscan
env = rlscan.make("Pendulum-v1")
def start(key):
    policy_key, train_key = jax.random.split(key)
    policy = rlscan.policies.ActorCritic(env, dropout=0.1, key=policy_key)
    return rlscan.ppo.init_train(policy, env, rlscan.ppo.PPOConfig(num_envs=8), key=train_key)
eqx.filter_jit(start).lower(rlscan.key(0, generator={generator!r})).compile()
# Not the rusage, which begins with the most memory of the process that started this one.
status = pathlib.Path("/proc/self/status").read_text()
kilobytes = int(status.partition("VmHWM:")[2].split()[0])
assert kilobytes < 2**20, kilobytes
"""


@pytest.mark.exhaustive
@pytest.mark.slow(cases="all")
@pytest.mark.skipif(sys.platform != "linux", reason="the memory of a process is read from /proc")
@pytest.mark.parametrize("generator", GENERATORS)
def test_keys_that_are_split_repeatedly_compile(generator: str) -> None:
    """XLA writes out the split of a split again and again, unless a barrier prevents it."""
    # The tests switch the optimisations off, and the problem with them.
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    command = [sys.executable, "-c", FIRST_STATE.format(generator=generator)]
    subprocess.run(command, check=True, timeout=120, env=environment)
