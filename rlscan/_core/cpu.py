"""XLA's settings for a CPU: vector width, devices and threads. They change speed, not results."""

import contextlib
import os
from importlib.metadata import entry_points, version

import jax

# The jaxlib versions that know these flags.
_JAXLIBS_WITH_FLAGS = ("0.10.", "0.11.")

_WIDE_VECTORS = {"xla_cpu_prefer_vector_width": "512"}
WHOLE_LOOPS = {"xla_disable_hlo_passes": "cpu-parallel-task-assigner"}
"""Flags that keep XLA from splitting a loop over the cores."""


def configure_cpu(num_devices: int | None = None, *, one_thread: bool = False) -> None:
    """Configure JAX for computing on a CPU. Call it before JAX first runs.

    The scripts and the benchmarks call it. It has no effect on other accelerators. It sets:

    - *Vector width.* Vectors are 512 bits wide if the CPU has them; XLA would choose 256.
    - *Devices.* With several devices, each is one core, and XLA no longer splits single loops over
      the cores (see the `devices` benchmark).
    - *Threads.* XLA splits loops over threads that are too small to benefit, and the threads may
      compete for a small program. One thread is faster for small minibatches, and slower for large
      ones (see the `threads` benchmark).

    Flags that are already in `XLA_FLAGS` are kept. No flag is added with a jaxlib other than 0.10
    and 0.11, because XLA ends the process if it does not know one.

    **Arguments:**

    - `num_devices`: the number of devices that the host's cores are presented as, for `make_mesh`.
        By default JAX's own setting, which is 1 unless it was changed.
    - `one_thread`: whether JAX computes with one thread. It is ignored if there are several devices
        or a plugin for an accelerator, or if the environment variable `NPROC` is set.
    """
    flags = os.environ.get("XLA_FLAGS", "").split()
    given = {flag.lstrip("-").partition("=")[0] for flag in flags}
    are_several = (num_devices or 1) > 1
    wanted = _WIDE_VECTORS | (WHOLE_LOOPS if are_several else {})
    if not version("jaxlib").startswith(_JAXLIBS_WITH_FLAGS):
        wanted = {}
    flags += [f"--{name}={value}" for name, value in wanted.items() if name not in given]
    os.environ["XLA_FLAGS"] = " ".join(flags)
    if one_thread and not are_several and not entry_points(group="jax_plugins"):
        os.environ.setdefault("NPROC", "1")
    if num_devices is None:
        return
    # Raised if JAX has run already. `make_mesh` then reports how many devices there are.
    with contextlib.suppress(RuntimeError):
        jax.config.update("jax_num_cpu_devices", num_devices)


def num_cores() -> int:
    """The number of CPU cores available to this process."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def splitting_pays(minibatch: int, width: int) -> bool:
    """Whether loops are long enough to benefit from several threads.

    The threshold was measured with the `threads` benchmark, on two cores.

    **Arguments:**

    - `minibatch`: the number of steps in a minibatch.
    - `width`: the number of units of the widest layer.
    """
    return minibatch * width >= 2**16
