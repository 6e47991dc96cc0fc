"""Compiled programs are cached in the user's cache directory, tested with real processes."""

import inspect
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from filelock import FileLock
from jax._src import compiler

from rlscan._core.compile_cache import use_compile_cache
from rlscan.runs._policy_file import POLICY_FILE

ROOT = Path(__file__).parents[2]
SMALL = ["--ppo.num-envs", "2", "--ppo.num-steps", "16", "--policy.hidden-sizes", "[8]"]


def start(cache: Path, output: Path, *arguments: str, **environ: str) -> subprocess.Popen:
    env = {**os.environ, "JAX_ENABLE_COMPILATION_CACHE": "true", "XDG_CACHE_HOME": str(cache)}
    argv = [*SMALL, "--total-steps", "64", "--output", str(output), *arguments]
    return subprocess.Popen(
        [sys.executable, ROOT / "scripts" / "train.py", *argv],
        env={**env, **environ},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def end(process: subprocess.Popen) -> str:
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return err


def programs(cache: Path) -> dict[str, float]:
    """When files of JAX's cache were written; stored programs are touched when read."""
    found = {file.name: 0.0 for file in (cache / "rlscan" / "programs").iterdir()}
    kept = cache / "rlscan" / "compiled"
    return found | {file.name: file.stat().st_mtime_ns for file in kept.glob("*-cache")}


pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="XDG_CACHE_HOME is Linux's")


def test_a_lock_that_another_process_holds_is_no_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        use_compile_cache()
        for what in ("reading", "writing"):
            message = f"Error {what} persistent compilation cache entry for "
            assert message in inspect.getsource(compiler)
            warnings.warn(f"{message}'jit_f': TimeoutError: the lock", stacklevel=1)
        with pytest.raises(UserWarning, match="another"):
            warnings.warn("another", stacklevel=1)


# Compiles a program while another process may hold the lock of the cache, for which JAX waits.
COMPILES = """
import functools, jax
from jax._src import lru_cache
from rlscan._core.compile_cache import use_compile_cache

init = lru_cache.LRUCache.__init__  # it would wait for ten seconds
lru_cache.LRUCache.__init__ = functools.partialmethod(init, lock_timeout_secs=0.05)
use_compile_cache()
print(jax.jit(lambda x: x + 1)(1.0))
"""


def test_processes_that_share_the_cache_print_no_warning(tmp_path: Path) -> None:
    environ = {
        **os.environ,
        "JAX_ENABLE_COMPILATION_CACHE": "true",
        "XDG_CACHE_HOME": str(tmp_path),
        "PYTHONWARNINGS": "always",
    }
    kept = tmp_path / "rlscan" / "compiled"
    kept.mkdir(parents=True)
    run = lambda: subprocess.run(  # noqa: E731
        [sys.executable, "-c", COMPILES], env=environ, capture_output=True, text=True
    )
    with FileLock(kept / ".lockfile"):
        found = run()
    assert (found.stdout, found.returncode) == ("2.0\n", 0)
    assert "persistent compilation cache" not in found.stderr
    assert not list(kept.glob("*-cache"))  # it met the lock
    assert run().stdout == "2.0\n" and list(kept.glob("*-cache"))


@pytest.mark.slow
def test_a_second_run_compiles_nothing(tmp_path: Path) -> None:
    end(start(tmp_path / "cache", tmp_path / "first"))
    kept = programs(tmp_path / "cache")
    assert list(kept.values()).count(0.0) == 4  # start and updates: each program, and its place
    logged = end(start(tmp_path / "cache", tmp_path / "again", JAX_EXPLAIN_CACHE_MISSES="true"))
    assert programs(tmp_path / "cache") == kept
    assert "PERSISTENT COMPILATION CACHE MISS" not in logged.upper()


@pytest.mark.exhaustive
@pytest.mark.slow
def test_it_can_be_switched_off(tmp_path: Path) -> None:
    end(start(tmp_path / "cache", tmp_path / "run", "--compile-cache", "false"))
    assert not (tmp_path / "cache" / "rlscan").exists()


@pytest.mark.slow
@pytest.mark.exhaustive
def test_the_users_own_directory_is_kept(tmp_path: Path) -> None:
    own = tmp_path / "own"
    end(start(tmp_path / "cache", tmp_path / "run", JAX_COMPILATION_CACHE_DIR=str(own)))
    assert not (tmp_path / "cache" / "rlscan" / "compiled").exists()


@pytest.mark.slow
@pytest.mark.exhaustive
def test_runs_share_it_and_damaged_entries_are_compiled_again(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    both = [start(cache, tmp_path / name) for name in ("a", "b")]
    for process in both:
        end(process)
    for file in (cache / "rlscan").glob("*/*"):
        file.write_bytes(file.read_bytes()[:100])
    end(start(cache, tmp_path / "c"))
    policies = [(tmp_path / name / POLICY_FILE).read_bytes() for name in ("a", "b", "c")]
    assert policies[0] == policies[1] == policies[2]


@pytest.mark.slow
@pytest.mark.exhaustive
def test_a_run_goes_on_if_no_cache_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    end(start(tmp_path / "cache", tmp_path / "run"))
