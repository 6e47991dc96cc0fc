"""What a CPU asks for: flags of XLA, threads, kept programs, garbage."""

import atexit
import contextlib
import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import entry_points, version

import jax

# Of XLA, by name; and the versions of jaxlib that have them, as XLA ends the process on a flag that
# it does not know.
_HAVE_FLAGS = "0.10."


_WIDE_VECTORS = {"xla_cpu_prefer_vector_width": "512"}


WHOLE_LOOPS = {"xla_disable_hlo_passes": "cpu-parallel-task-assigner"}


def configure_cpu(num_devices: int | None = None, *, one_thread: bool = False) -> None:
    """Sets JAX up for the CPU; the scripts and the benchmarks do. Call it before JAX first runs.

    Its vectors are 512 bits wide where the CPU has them (XLA would take 256): a rollout without
    dropout gains 1.05, one with dropout 1.1, on a CPU with AVX-512. Where cores are devices, loops
    are not split over the cores once more: on two of them a rollout gains 1.1 (`python -m
    benchmarks --only devices`). What is in `XLA_FLAGS` already stands, and with another jaxlib than
    0.10 nothing is added to it. Without effect on other accelerators.

    XLA splits a loop over the cores sooner than it pays, what draws random bits first; and two
    threads may take a small program from each other step by step, by chance in some of its calls.
    With one thread neither happens: on two cores an update of PPO on CartPole with dropout gains
    1.08 at N = 4 and 1.09 at N = 16, nothing at N = 32, and takes 1.2 times as long at N = 64
    (`python -m benchmarks --only threads`).

    **Arguments:**

    - `num_devices`: how many devices the host's cores are, for `make_mesh`; if not given, as many
        as JAX was told by other means, and else one.
    - `one_thread`: whether JAX computes with one thread, where there is one device and no plugin
        for an accelerator; `NPROC`, which says so, stands where it is given. The scripts do where a
        layer gives less than 2^16 numbers for a minibatch.
    """
    flags = os.environ.get("XLA_FLAGS", "").split()
    given = {flag.lstrip("-").partition("=")[0] for flag in flags}
    are_several = (num_devices or 1) > 1
    wanted = _WIDE_VECTORS | (WHOLE_LOOPS if are_several else {})
    if not version("jaxlib").startswith(_HAVE_FLAGS):
        wanted = {}
    flags += [f"--{name}={value}" for name, value in wanted.items() if name not in given]
    os.environ["XLA_FLAGS"] = " ".join(flags)
    if one_thread and not are_several and not entry_points(group="jax_plugins"):
        os.environ.setdefault("NPROC", "1")
    if num_devices is None:
        return
    # Once JAX runs it is too late, and `make_mesh` says what there is.
    with contextlib.suppress(RuntimeError):
        jax.config.update("jax_num_cpu_devices", num_devices)


def num_cores() -> int:
    """Of those that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def splitting_pays(minibatch: int, width: int) -> bool:
    """Whether loops are so long that splitting them over the cores pays; else use one thread.

    With 64 units one thread wins at 128 and 512 steps, 1,024 are a draw, and two win at 2,048
    (`python -m benchmarks --only threads`, on two cores).

    **Arguments:**

    - `minibatch`: steps in a minibatch.
    - `width`: units of the widest layer.
    """
    return minibatch * width >= 2**16


_MOST_BYTES = 2**30


def use_compile_cache() -> None:
    """Has JAX keep what it compiles in the user's cache directory, up to a GiB, oldest out first.

    With it a run that was compiled before starts in a tenth of the time that compiling takes. The
    files are locked while they are read and written, so runs may share them; one that cannot be
    read is compiled anew. A directory that was chosen already (`JAX_COMPILATION_CACHE_DIR`) stands,
    and so does `JAX_ENABLE_COMPILATION_CACHE=false`. Where nothing can be written nothing is kept.
    """
    if getattr(jax.config, "jax_compilation_cache_dir") is not None:  # noqa: B009 (pyright)
        return
    import platformdirs  # not needed by a program that has its own directory

    directory = platformdirs.user_cache_path("rlscan") / "compiled"
    with contextlib.suppress(OSError):
        directory.mkdir(parents=True, exist_ok=True)
        jax.config.update("jax_compilation_cache_dir", str(directory))
        jax.config.update("jax_compilation_cache_max_size", _MOST_BYTES)
        # Also the small ones: there are dozens, of 20 ms each.
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


@contextmanager
def seldom_collected() -> Iterator[None]:
    """Lets garbage in cycles lie, of which there is little, where a search for it goes through all
    that was imported and traced: hundreds of times before the first update, and once more when
    Python ends, which is left out (`python -m benchmarks.peers run --only cold-start` times all).
    """
    before = gc.get_threshold()
    gc.set_threshold(100_000, 20, 20)
    atexit.register(gc.freeze)
    try:
        yield
    finally:
        gc.set_threshold(*before)
