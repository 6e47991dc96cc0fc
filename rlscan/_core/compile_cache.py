"""JAX's persistent compilation cache, in the user's cache directory."""

import contextlib
import warnings

import jax

_MAX_BYTES = 2**30

# What JAX warns of when it cannot have the lock of a directory that several processes use.
_LOCKED = "Error (reading|writing) persistent compilation cache entry"


def use_compile_cache() -> None:
    """Cache compiled programs on the disk, so that a program that ran before starts quickly.

    The cache holds up to 1 GiB; the least recently used programs are deleted first. JAX locks the
    files, so runs may share it, and compiles a program again if its file is damaged. Nothing
    changes if a directory is set already (`JAX_COMPILATION_CACHE_DIR`) or the cache is switched off
    (`JAX_ENABLE_COMPILATION_CACHE=false`). If the directory cannot be made, nothing is cached. If
    another process holds the lock for too long, a program is compiled again, without a warning.
    """
    warnings.filterwarnings("ignore", message=_LOCKED, category=UserWarning)
    if getattr(jax.config, "jax_compilation_cache_dir") is not None:  # noqa: B009 (pyright)
        return
    import platformdirs  # a program with a directory of its own does not need it

    directory = platformdirs.user_cache_path("rlscan") / "compiled"
    with contextlib.suppress(OSError):
        directory.mkdir(parents=True, exist_ok=True)
        jax.config.update("jax_compilation_cache_dir", str(directory))
        jax.config.update("jax_compilation_cache_max_size", _MAX_BYTES)
        # Small programs too. Each compiles quickly, but a run has dozens of them.
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
