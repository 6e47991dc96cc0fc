"""The steady state: each contestant compiles once, then its runs are timed."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from benchmarks.peers.contest import Contestant
from benchmarks.peers.environments import is_built
from benchmarks.peers.libraries import RLSCAN, Library
from benchmarks.peers.worker import Unable, Worker
from benchmarks.peers.workloads import Workload

OURS, WITH_DROPOUT = "rlscan", "rlscan, dropout 0.1"


def contestants(
    workload: Workload, peers: Sequence[Library], checkout: Path | None
) -> list[Contestant]:
    """rlscan, rlscan with dropout if the workload has a bar for it, and the peers."""
    ours = [Contestant(OURS, partial(_start, RLSCAN, workload))]
    if workload.dropout_bar is not None:
        ours += [Contestant(WITH_DROPOUT, partial(_start, RLSCAN, workload, dropout=0.1))]
    theirs = [Contestant(peer.name, partial(_start, peer, workload, checkout)) for peer in peers]
    return ours + theirs


def _start(
    library: Library, workload: Workload, checkout: Path | None = None, **extra: object
) -> Worker:
    require(library, checkout)
    if workload.is_recurrent and not library.has_gru:
        raise Unable("its PPO has no GRU")
    message = workload.as_message(packages=library.packages, checkout=str(checkout), **extra)
    return Worker([str(library.interpreter), str(library.worker)], message)


def require(library: Library, checkout: Path | None) -> None:
    """Raise `Unable` if the library is not installed."""
    if library is not RLSCAN and not is_built(library):
        raise Unable(f"not built; `python -m benchmarks.peers build {library.name}` does it")
    if library.needs_checkout and checkout is None:
        raise Unable(f"is not a package; give its checkout by --{library.name} PATH")
