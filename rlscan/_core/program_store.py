"""Compiled programs on the disk: a run whose programs are stored neither traces nor compiles them.

JAX's compilation cache finds a program by its text, so a program must be traced and lowered before
it is looked up, which takes most of a warm start. Here a program is found by what it is made from:
the settings of a run, the versions and files of all code that is loaded, and the machine. If any of
them has changed, the program is traced, and found by its text if it is the same after all, as for
another learning rate.

Loading a compiled program runs what is in it. Programs are therefore only read from a directory
that no other user can write to, never from a run directory.
"""

import contextlib
import hashlib
import os
import stat
import sys
from collections.abc import Callable, Hashable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from importlib.metadata import version
from pathlib import Path
from threading import Lock
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import serialize_executable
from jax.experimental.compilation_cache import compilation_cache

from .files import write_whole
from .pickles import dumps, loads
from .types import PyTree

_MOST_BYTES = 2**28

_lock = Lock()
_current: ContextVar["_Store | None"] = ContextVar("program_store", default=None)


@contextlib.contextmanager
def stored_programs(made_from: Hashable, *live: Any) -> Iterator[None]:
    """Keep the programs that are made within this context on the disk.

    It has no effect if there is no private directory for them, on platforms other than CPUs, or if
    JAX's compilation cache is switched off.

    **Arguments:**

    - `made_from`: all that the programs depend on beside code, machine, names and the shapes of
        arguments. Its `repr` must say everything.
    - `live`: objects that results refer to and that exist in each process, such as environments.
    """
    directory = _private_directory() if _is_possible() else None
    store = directory and _Store(directory, made_from, live)
    token = _current.set(store)
    try:
        yield
    finally:
        _current.reset(token)
        if store is not None:
            store.writer.shutdown()


def place_for(name: str, kinds: Hashable) -> "Place | None":
    """The place of a program that is made now; `None` outside of `stored_programs`.

    **Arguments:**

    - `name`: the name of the program.
    - `kinds`: what tells apart programs for other arguments, such as their shapes.
    """
    store = _current.get()
    return None if store is None else Place(store, name, kinds)


class _Store:
    """The stored programs of a run."""

    def __init__(self, directory: Path, made_from: Hashable, live: tuple[Any, ...]):
        self.directory, self.made_from, self.live = directory, made_from, live
        self.machine = repr(_machine())
        self.writer = ThreadPoolExecutor(1)


class Place:
    """The place of a program on the disk."""

    def __init__(self, store: _Store, name: str, kinds: Hashable):
        key = repr((store.machine, store.made_from, name, kinds))
        self._store = store
        self._file = store.directory / hashlib.sha256(key.encode()).hexdigest()

    def read(self) -> tuple[Callable[..., list[Any]], PyTree] | None:
        """Load the program that was stored here, if all code is as it was.

        **Returns:** the compiled function of a flat list of arrays, and its result with
        `jax.ShapeDtypeStruct` in the place of arrays; `None` if there is none.
        """
        found = self._described()
        compiled = None if found is None else _load(self._store.directory / found[0])
        return None if found is None or compiled is None else (compiled, found[1])

    def read_result(self) -> PyTree:
        """The result that `read` returns, without the program; `None` if there is none."""
        found = self._described()
        return None if found is None else found[1]

    def _described(self) -> tuple[str, PyTree] | None:
        """The name of the program's file, and its result."""
        content = _read(self._file)
        if content is None:
            return None
        with contextlib.suppress(Exception):  # a class that is no longer there
            digest, stamps, result = loads(content, self._store.live)
            if all(_stamp(file) == was for file, was in stamps.items()):
                return digest, result
        return None

    def compile(self, lowered: Any, text: str, result: PyTree) -> Callable[..., list[Any]]:
        """Compile a program, or load one of the same text, and store it here.

        **Arguments:**

        - `lowered`: the program.
        - `text`: what it says.
        - `result`: as `read` returns it.
        """
        targets = _custom_calls(text)
        if not all(target.startswith("lapack_") for target in targets):
            return lowered.compile()  # such a function may not be there when a program is read
        digest = hashlib.sha256((self._store.machine + text).encode()).hexdigest()
        program = self._store.directory / digest
        compiled = _load(program)
        is_new = compiled is None
        if is_new:
            compiled = _compile(lowered)
        kept = compiled if is_new else None
        with contextlib.suppress(RuntimeError):  # the context has ended
            # In a thread, because the run can go on meanwhile.
            self._store.writer.submit(self._keep, program, kept, targets, result)
        return compiled

    def _keep(self, program: Path, compiled: Any, targets: set[str], result: PyTree) -> None:
        """Write the program, if it is new, and where it is found."""
        with contextlib.suppress(Exception):  # a lambda, which cannot be pickled; a full disk
            if compiled is not None:
                devices = [device.id for device in compiled.runtime_executable().local_devices()]
                executable = serialize_executable.serialize(compiled)
                _write(program, dumps((bool(targets), devices, executable)))
            stamps = {file: _stamp(file) for file in _loaded_files()}
            _write(self._file, dumps((program.name, stamps, result), self._store.live))
            _prune(self._store.directory)


def _load(file: Path) -> Any:
    content = _read(file)
    if content is None:
        return None
    with contextlib.suppress(Exception):  # a program that XLA does not take
        uses_lapack, numbers, executable = loads(content)
        if uses_lapack:
            # JAX loads LAPACK when it first lowers a call of it. Without LAPACK, a loaded program
            # that calls it ends the process.
            jax.jit(jnp.linalg.qr).lower(jax.ShapeDtypeStruct((1, 1), jnp.float32))
        devices = [device for device in jax.devices() if device.id in numbers]
        load = serialize_executable.deserialize_and_load
        return load(*executable, execution_devices=devices)
    return None


def _is_possible() -> bool:
    enabled = getattr(jax.config, "jax_enable_compilation_cache")  # noqa: B009 (pyright)
    return bool(enabled) and hasattr(os, "getuid") and jax.default_backend() == "cpu"


def _private_directory() -> Path | None:
    """The user's directory of programs; `None` unless it is this user's alone."""
    import platformdirs

    directory = platformdirs.user_cache_path("rlscan") / "programs"
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = directory.lstat()
    except OSError:
        return None
    return directory if stat.S_ISDIR(found.st_mode) and _is_private(found) else None


def _is_private(found: os.stat_result) -> bool:
    return found.st_uid == os.getuid() and not found.st_mode & 0o077


def _read(file: Path) -> bytes | None:
    """The content of a file of this user's that is whole; `None` if there is none."""
    try:
        with open(os.open(file, os.O_RDONLY | os.O_NOFOLLOW), "rb") as stream:
            content = stream.read() if _is_private(os.fstat(stream.fileno())) else b""
        os.utime(file)  # the files that were not used for longest are deleted first
    except OSError:
        return None
    size = hashlib.sha256().digest_size
    whole = hashlib.sha256(content[size:]).digest() == content[:size]
    return content[size:] if whole else None


def _write(file: Path, content: bytes) -> None:
    write_whole(file, hashlib.sha256(content).digest() + content)
    file.chmod(0o600)


def _prune(directory: Path) -> None:
    found = sorted((x.stat().st_mtime_ns, x.stat().st_size, x) for x in directory.iterdir())
    total = sum(size for _, size, _ in found)
    for _, size, file in found:
        if total <= _MOST_BYTES:
            return
        file.unlink(missing_ok=True)
        total -= size


def _compile(lowered: Any) -> Any:
    """Compile without JAX's cache, because XLA cannot write a program that was read from there."""
    name = "jax_enable_compilation_cache"
    with _lock:
        jax.config.update(name, False)
        compilation_cache.reset_cache()  # or else the setting is not looked at again
        try:
            return lowered.compile()
        finally:
            jax.config.update(name, True)
            compilation_cache.reset_cache()


def _machine() -> tuple[Any, ...]:
    """What compiled programs depend on beside their text."""
    flags = [os.environ.get(name) for name in ("XLA_FLAGS", "NPROC")]
    settings = {n: str(x) for n, x in jax.config.values.items() if "cache" not in n}
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        flags += sorted({x for x in lines if x.startswith(("model name", "flags", "Features"))})
    versions = sys.version, jax.__version__, version("jaxlib")
    devices = [str(device) for device in jax.devices()]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return versions, devices, cores, flags, sorted(settings.items())


def _loaded_files() -> list[str]:
    """The files of all modules that are loaded."""
    found = (getattr(module, "__file__", None) for module in list(sys.modules.values()))
    return sorted({file for file in found if isinstance(file, str)})


def _stamp(file: str) -> tuple[int, int] | None:
    """What Python judges by whether a compiled module is stale: time and size."""
    try:
        found = os.stat(file)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size


def _custom_calls(text: str) -> set[str]:
    """The targets of calls out of a program; XLA's own annotations are none."""
    found = {part.split("(")[0].strip() for part in text.split("custom_call @")[1:]}
    return found - {"Sharding", "SPMDFullToShardShape", "SPMDShardToFullShape"}
