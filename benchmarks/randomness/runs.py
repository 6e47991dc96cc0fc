"""The runs: a battery of tests on a stream of a generator."""

from typing import NamedTuple

from benchmarks.randomness.streams import GENERATORS, STREAMS


class Run(NamedTuple):
    """One battery on one stream."""

    generator: str
    stream: str
    battery: str  # "nist" or "dieharder"

    @property
    def name(self) -> str:
        return "/".join(self)


def _runs(generator: str, battery: str) -> list[Run]:
    # One stream is enough to see that the bad generator fails.
    streams = list(STREAMS)[:1] if generator == "weyl" else list(STREAMS)
    return [Run(generator, stream, battery) for stream in streams]


# In the order in which they run: our generator first, and minutes before hours.
RUNS: dict[str, Run] = {
    run.name: run
    for run in (
        *_runs("mix32", "nist"),
        *_runs("weyl", "nist"),
        *_runs("mix32", "dieharder"),
        *(run for generator in ("threefry2x32", "philox4x32") for run in _runs(generator, "nist")),
        *_runs("weyl", "dieharder"),
        *(run for generator in list(GENERATORS)[1:3] for run in _runs(generator, "dieharder")),
    )
}
