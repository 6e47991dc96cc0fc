"""Settings of the whole suite."""

import gc
import os
import signal
from collections.abc import Iterator

import jax
import pytest

# Tests compile much and run little: without these passes the suite takes half as long.
FLAGS = (
    "--xla_cpu_use_fusion_emitters=false",
    "--xla_backend_optimization_level=0",
    "--xla_llvm_disable_expensive_passes=true",
)
os.environ["XLA_FLAGS"] = " ".join([*FLAGS, os.environ.get("XLA_FLAGS", "")])

# Nothing is left in the user's cache; tests of the cache have one of their own.
os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"
jax.config.update("jax_enable_compilation_cache", False)

# Two devices, of which all but the tests of several use the first.
jax.config.update("jax_num_cpu_devices", 2)

# A shell lets its background jobs ignore Ctrl-C, and they pass that on to what they start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(tryfirst=True)  # before `-m` chooses
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Of a slow test with several cases the first is enough to land a change, where the mark does
    not say otherwise."""
    seen = set()
    for item in items:
        function, marker = item.nodeid.partition("[")[0], item.get_closest_marker("slow")
        if marker and marker.kwargs.get("cases") != "all":
            if function in seen:
                item.add_marker("exhaustive")
            seen.add(function)


def pytest_collection_finish() -> None:
    # Else each full collection goes through all that was imported.
    gc.freeze()


@pytest.fixture(autouse=True, scope="session")
def _small_layers_are_turned_too() -> Iterator[None]:
    """As a user's wide ones. From the start: fixtures of modules trace programs, too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rlscan._rollout.layout._FEW", 1)
        yield
