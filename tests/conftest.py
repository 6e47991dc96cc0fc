"""Settings for the whole suite."""

import gc
import os
import signal
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache

# Tests compile a lot and run little: without these passes the suite takes half as long.
FLAGS = ["--xla_backend_optimization_level=0", "--xla_llvm_disable_expensive_passes=true"]
if version("jaxlib").startswith("0.10."):  # later ones end the process over this flag
    FLAGS.append("--xla_cpu_use_fusion_emitters=false")
os.environ["XLA_FLAGS"] = " ".join([*FLAGS, os.environ.get("XLA_FLAGS", "")])

# Keep out of the user's cache; tests of the cache use their own directories.
os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"
jax.config.update("jax_enable_compilation_cache", False)

# Two devices for the tests of several; all other tests use only the first.
jax.config.update("jax_num_cpu_devices", 2)

# A shell starts background jobs with SIGINT ignored, and subprocesses inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(tryfirst=True)  # before `-m` selects
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark all but the first case of a slow test `exhaustive`, unless marked `cases="all"`."""
    seen = set()
    for item in items:
        function, marker = item.nodeid.partition("[")[0], item.get_closest_marker("slow")
        if marker and marker.kwargs.get("cases") != "all":
            if function in seen:
                item.add_marker("exhaustive")
            seen.add(function)


def pytest_collection_finish() -> None:
    # Otherwise each full garbage collection traverses everything that was imported.
    gc.freeze()


@pytest.fixture(autouse=True, scope="session")
def _small_layers_are_transposed_too() -> Iterator[None]:
    """Lower the threshold, for the whole session because module fixtures trace programs too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rlscan._rollout.layout._FEW", 1)
        yield


@pytest.fixture
def compile_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Switch JAX's compilation cache on, within this test; the user's cache directory is empty."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    jax.config.update("jax_enable_compilation_cache", True)
    yield tmp_path / "cache"
    jax.config.update("jax_enable_compilation_cache", False)
    compilation_cache.reset_cache()  # JAX looks at the setting once
