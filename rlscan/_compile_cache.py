"""Compiled programs, kept from one run to the next."""

import contextlib

import jax

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
