"""The tests of NIST SP 800-22 on many sequences of a stream, judged by its section 4.2."""

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import binom, chisquare

from benchmarks.randomness import results, sp800_22
from benchmarks.randomness.runs import Run
from benchmarks.randomness.streams import draw

LEVEL = 0.01  # a sequence passes a test if its p-value is no smaller
LEAST_UNIFORMITY = 0.0001
FEWEST = 55  # sequences, to judge uniformity
SEED = 0


class Verdict(NamedTuple):
    """The outcome of one test over all sequences."""

    test: str
    passed: int
    num_sequences: int
    uniformity: float | None  # the p-value of the p-values; `None` if there are too few sequences

    @property
    def fewest(self) -> int:
        return int(_acceptable(self.num_sequences)[0])

    @property
    def meets_proportion(self) -> bool:
        return self.passed in _acceptable(self.num_sequences)

    @property
    def meets_uniformity(self) -> bool:
        return self.uniformity is None or self.uniformity >= LEAST_UNIFORMITY

    @property
    def is_met(self) -> bool:
        return self.meets_proportion and self.meets_uniformity

    @property
    def missed_by_chance(self) -> float:
        """The probability that random numbers miss one of the two criteria."""
        counts = _acceptable(self.num_sequences)
        outside = 1 - binom.pmf(counts, self.num_sequences, 1 - LEVEL).sum()
        return float(outside + (self.uniformity is not None) * LEAST_UNIFORMITY)


def run(run: Run, folder: Path, num_sequences: int = 1000, num_bits: int = 10**6) -> dict[str, Any]:
    """Test further sequences of `num_bits` each, high bits first, up to `num_sequences`."""
    found = results.read_or_start(run, folder, {"num_bits": num_bits, "seed": SEED})
    done = found.setdefault("num_sequences", 0)
    chunks = draw(run.generator, run.stream, SEED)
    for bits in islice(_sequences(chunks, num_bits), done, max(done, num_sequences)):
        for test, p_value in sp800_22.all_tests(bits).items():
            _count(found["tests"].setdefault(test, [0] * 11), p_value)
        found["num_sequences"] += 1
        results.write(run, folder, found)
    return found


def verdicts(found: dict[str, Any]) -> list[Verdict]:
    """The verdict on each test of a run."""
    return [_verdict(test, *counts) for test, counts in found["tests"].items()]


def _verdict(test: str, passed: int, *tenths: int) -> Verdict:
    num_sequences = sum(tenths)
    uniformity = float(chisquare(tenths).pvalue) if num_sequences >= FEWEST else None
    return Verdict(test, passed, num_sequences, uniformity)


def _count(counts: list[int], p_value: float) -> None:
    """Count a p-value: first whether it passed, then the tenth of [0, 1] that it lies in."""
    counts[0] += p_value >= LEVEL
    counts[1 + min(int(10 * p_value), 9)] += 1


def _acceptable(num_sequences: int) -> range:
    """The numbers of sequences that may pass: within three standard deviations, by 4.2.1."""
    mean = num_sequences * (1 - LEVEL)
    margin = 3 * np.sqrt(mean * LEVEL)
    return range(int(np.ceil(mean - margin)), min(num_sequences, int(mean + margin)) + 1)


def _sequences(chunks: Iterable[np.ndarray], num_bits: int) -> Iterator[sp800_22.Bits]:
    num_words = num_bits // 32
    rest = np.empty(0, np.uint32)
    for chunk in chunks:
        words = np.concatenate([rest, chunk])
        whole = len(words) // num_words * num_words
        for sequence in words[:whole].reshape(-1, num_words):
            yield np.unpackbits(sequence.astype(">u4").view(np.uint8))
        rest = words[whole:]
