"""The fifteen tests of NIST SP 800-22 rev. 1a, with the parameters of NIST's own program.

Each takes a sequence of bits and returns its p-values by name; none if the publication requires a
longer sequence. Section numbers are those of the publication.

No library that was found is right: for `os.urandom`, nistrng 1.2.3 gives p < 1e-37 for linear
complexity, and p = 1 for one template that it draws at random. The tests here reproduce the
publication's p-values for a million bits of √2 and √3 (tests/benchmarks/test_randomness.py).
"""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Int, UInt8
from scipy.special import erfc, gammaincc
from scipy.stats import norm

Bits = UInt8[np.ndarray, " n"]  # each 0 or 1
PValues = dict[str, float]

TEMPLATE = 9  # bits of the templates of 2.7 and 2.8
# 2.8.4 as corrected in rev. 1a: probabilities of 0 to 4, and 5 or more, matches in 1032 bits.
OVERLAPS = np.array([0.364091, 0.185659, 0.139381, 0.100571, 0.070432, 0.139865])
# 2.4.4: the least number of bits, the size of a block, the length that includes shorter runs, and
# the probability of each length; the last includes longer runs.
LONGEST_RUNS = (
    (750_000, 10_000, 10, (0.0882, 0.2092, 0.2483, 0.1933, 0.1208, 0.0675, 0.0727)),
    (6_272, 128, 4, (0.1174, 0.2430, 0.2493, 0.1752, 0.1027, 0.1124)),
    (128, 8, 1, (0.2148, 0.3672, 0.2305, 0.1875)),
)
# 2.9.4: the least number of bits, the bits of a block, mean and variance of the statistic.
UNIVERSAL = ((904_960, 7, 6.1962507, 3.125), (387_840, 6, 5.2177052, 2.954))
# 3.10: probabilities of a linear complexity's distance from its mean, in classes of width 1.
COMPLEXITIES = np.array([1 / 96, 1 / 32, 1 / 8, 1 / 2, 1 / 4, 1 / 16, 1 / 48])


def all_tests(bits: Bits) -> PValues:
    """Every p-value that is defined for a sequence of this length, up to 188."""
    tests = (
        *(frequency, block_frequency, runs, longest_run, rank, spectrum, templates, overlapping),
        *(universal, linear_complexity, serial, approximate_entropy, cumulative_sums, excursions),
    )
    return {name: float(p) for test in tests for name, p in test(bits).items()}


def frequency(bits: Bits) -> PValues:
    """2.1: the number of ones."""
    return {"frequency": erfc(abs(_signs(bits).sum()) / np.sqrt(2 * len(bits)))}


def block_frequency(bits: Bits, size: int = 128) -> PValues:
    """2.2: the number of ones in each block."""
    share = _blocks(bits, size).mean(1)
    return {"block frequency": gammaincc(len(share) / 2, 2 * size * ((share - 0.5) ** 2).sum())}


def runs(bits: Bits) -> PValues:
    """2.3: the number of runs, which are changes from one bit to the next."""
    n, share = len(bits), bits.mean()
    if abs(share - 0.5) >= 2 / np.sqrt(n):
        return {"runs": 0.0}
    expected = 2 * n * share * (1 - share)
    num_runs = 1 + np.count_nonzero(np.diff(bits))
    return {"runs": erfc(abs(num_runs - expected) / (expected * np.sqrt(2 / n)))}


def longest_run(bits: Bits) -> PValues:
    """2.4: the longest run of ones in a block."""
    for least, size, shortest, likely in LONGEST_RUNS:
        if len(bits) >= least:
            longest = _longest(_blocks(bits, size))
            return {"longest run": _fit(longest - shortest, np.array(likely))}
    return {}


def rank(bits: Bits, size: int = 32) -> PValues:
    """2.5: the ranks of square binary matrices."""
    if len(bits) < 38 * size**2:
        return {}
    rows = _blocks(bits, size) @ (np.uint64(1) << np.arange(size, dtype=np.uint64))
    lost = size - _ranks(_blocks(rows, size))
    at_least = np.cumprod(1 - 0.5 ** np.arange(size, 0, -1))[
        ::-1
    ]  # probabilities for the first rows
    full = at_least[0]
    one_lost = full * 2 * (1 - 0.5**size)
    return {"rank": _fit(2 - lost, np.array([1 - full - one_lost, one_lost, full]))}


def spectrum(bits: Bits) -> PValues:
    """2.6: the number of low peaks of the Fourier transform."""
    n = len(bits)
    peaks = np.abs(np.fft.rfft(_signs(bits)))[: n // 2]
    low = np.count_nonzero(peaks < np.sqrt(n * np.log(1 / 0.05)))
    distance = (low - 0.95 * n / 2) / np.sqrt(n * 0.95 * 0.05 / 4)
    return {"spectrum": erfc(abs(distance) / np.sqrt(2))}


def templates(bits: Bits, size: int = TEMPLATE, num_blocks: int = 8) -> PValues:
    """2.7: the counts of each pattern that cannot overlap itself."""
    blocks = _blocks(bits, len(bits) // num_blocks)
    positions = blocks.shape[1] - size + 1
    counts = np.stack([_counts(block, size, wrap=False) for block in blocks])
    mean = positions / 2**size
    variance = blocks.shape[1] * (2.0**-size - (2 * size - 1) * 4.0**-size)
    distances = ((counts - mean) ** 2).sum(0) / variance
    return {
        f"template {template:0{size}b}": gammaincc(num_blocks / 2, distances[template] / 2)
        for template in _aperiodic(size)
    }


def overlapping(bits: Bits, size: int = 1032) -> PValues:
    """2.8: the number of runs of nine ones in a block, including overlapping ones."""
    if len(bits) < 10**6:
        return {}
    matches = (_windows(_blocks(bits, size), TEMPLATE) == 2**TEMPLATE - 1).sum(1)
    return {"overlapping template": _fit(matches, OVERLAPS)}


def universal(bits: Bits) -> PValues:
    """2.9 (Maurer): the distance back to the last occurrence of each block of bits."""
    for least, size, mean, variance in UNIVERSAL:
        if len(bits) >= least:
            warm_up = 10 * 2**size
            measured = np.log2(_distances(_windows(_blocks(bits, size), size)[:, 0])[warm_up:])
            k = len(measured)
            factor = 0.7 - 0.8 / size + (4 + 32 / size) * k ** (-3 / size) / 15
            deviation = factor * np.sqrt(variance / k)
            return {"universal": erfc(abs(measured.mean() - mean) / (np.sqrt(2) * deviation))}
    return {}


def linear_complexity(bits: Bits, size: int = 500) -> PValues:
    """2.10: the length of the shortest shift register that generates a block."""
    if len(bits) < 10**6:
        return {}
    sign = (-1) ** size
    mean = size / 2 + (9 - sign) / 36 - (size / 3 + 2 / 9) / 2.0**size
    distances = sign * (_linear_complexities(_blocks(bits, size)) - mean) + 2 / 9
    return {"linear complexity": _fit(np.ceil(distances + 2.5).astype(int), COMPLEXITIES)}


def serial(bits: Bits, size: int = 16) -> PValues:
    """2.11: the counts of all patterns of a size, by differences between three sizes."""
    counts = _counts(bits, size, wrap=True).astype(float)
    squares = []
    for _ in range(3):
        squares.append((counts**2).sum() * len(counts) / len(bits) - len(bits))
        counts = counts.reshape(-1, 2).sum(1)
    first, second = squares[0] - squares[1], squares[0] - 2 * squares[1] + squares[2]
    return {
        "serial 1": gammaincc(2 ** (size - 2), first / 2),
        "serial 2": gammaincc(2 ** (size - 3), second / 2),
    }


def approximate_entropy(bits: Bits, size: int = 10) -> PValues:
    """2.12: the entropy of a bit, given the bits before it."""

    def phi(counts: np.ndarray) -> float:
        shares = counts[counts > 0] / len(bits)
        return (shares * np.log(shares)).sum()

    longer = _counts(bits, size + 1, wrap=True)
    entropy = phi(longer.reshape(-1, 2).sum(1)) - phi(longer)
    distance = 2 * len(bits) * (np.log(2) - entropy)
    return {"approximate entropy": gammaincc(2 ** (size - 1), distance / 2)}


def cumulative_sums(bits: Bits) -> PValues:
    """2.13: the farthest excursion of the walk of ones and zeros, from either end."""

    def p_value(steps: np.ndarray) -> float:
        n, far = len(steps), np.abs(steps.cumsum()).max()
        unit = far / np.sqrt(n)
        first = np.arange(np.trunc((-n / far + 1) / 4), np.trunc((n / far - 1) / 4) + 1)
        second = np.arange(np.trunc((-n / far - 3) / 4), np.trunc((n / far - 1) / 4) + 1)
        inside = norm.cdf((4 * first + 1) * unit) - norm.cdf((4 * first - 1) * unit)
        outside = norm.cdf((4 * second + 3) * unit) - norm.cdf((4 * second + 1) * unit)
        return 1 - inside.sum() + outside.sum()

    steps = _signs(bits)
    return {
        "cumulative sums forward": p_value(steps),
        "cumulative sums backward": p_value(steps[::-1]),
    }


def excursions(bits: Bits, fewest: float = 500) -> PValues:
    """2.14 and 2.15: visits of the walk to a state between its returns to 0, and in total."""
    walk = _signs(bits).cumsum()
    cycle = np.cumsum(walk == 0) - (walk == 0)  # a return belongs to the cycle that it ends
    num_cycles = int(cycle[-1]) + 1
    if num_cycles < max(fewest, 0.005 * np.sqrt(len(bits))):
        return {}
    p_values: PValues = {}
    for state in (-4, -3, -2, -1, 1, 2, 3, 4):
        visits = np.bincount(cycle[walk == state], minlength=num_cycles)
        leave = 1 / (2 * abs(state))  # the probability that a visit is the last
        likely = [
            1 - leave,
            *(leave**2 * (1 - leave) ** k for k in range(4)),
            leave * (1 - leave) ** 4,
        ]
        p_values[f"excursions {state:+d}"] = _fit(visits, np.array(likely))
    for state in (*range(-9, 0), *range(1, 10)):
        deviation = np.sqrt(2 * num_cycles * (4 * abs(state) - 2))
        total = np.count_nonzero(walk == state)
        p_values[f"visits {state:+d}"] = erfc(abs(total - num_cycles) / deviation)
    return p_values


def _signs(bits: Bits) -> Int[np.ndarray, " n"]:
    return 2 * bits.astype(np.int64) - 1


def _blocks(bits: np.ndarray, size: int) -> np.ndarray:
    """Cut into rows of `size`. The rest is dropped, as in the publication."""
    return bits[: len(bits) // size * size].reshape(-1, size)


def _fit(classes: np.ndarray, likely: np.ndarray) -> float:
    """The p-value of a χ² test. Values outside of the classes count for the first or last one."""
    counts = np.bincount(np.clip(classes, 0, len(likely) - 1), minlength=len(likely))
    expected = counts.sum() * likely
    return gammaincc((len(likely) - 1) / 2, ((counts - expected) ** 2 / expected).sum() / 2)


def _windows(bits: np.ndarray, size: int) -> np.ndarray:
    """The number formed by the `size` bits from each position on, along the last axis."""
    positions = bits.shape[-1] - size + 1
    numbers = np.zeros((*bits.shape[:-1], positions), np.int32)
    for i in range(size):
        numbers = 2 * numbers + bits[..., i : i + positions]
    return numbers


def _counts(bits: Bits, size: int, wrap: bool) -> Int[np.ndarray, " patterns"]:
    """The count of each pattern of `size` bits; with `wrap` the sequence is a circle."""
    bits = np.concatenate([bits, bits[: size - 1]]) if wrap else bits
    return np.bincount(_windows(bits, size), minlength=2**size)


def _aperiodic(size: int) -> Iterator[int]:
    """The patterns that never overlap themselves: no proper prefix is also a suffix."""
    for template in range(2**size):
        if all(template >> (size - k) != template % 2**k for k in range(1, size)):
            yield template


def _longest(blocks: UInt8[np.ndarray, "blocks size"]) -> Int[np.ndarray, " blocks"]:
    ones = blocks.cumsum(1)
    before = np.maximum.accumulate(np.where(blocks == 0, ones, 0), axis=1)
    return (ones - before).max(1)


def _distances(values: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
    """The distance back to the last occurrence of each value; for the first, its place from 1."""
    order = np.argsort(values, kind="stable")
    is_first = np.diff(values[order], prepend=-1) != 0
    before = np.where(is_first, -1, np.roll(order, 1))
    distances = np.empty_like(order)
    distances[order] = order - before
    return distances


def _ranks(matrices: np.ndarray) -> Int[np.ndarray, " matrices"]:
    """The ranks of binary matrices whose rows are given as numbers."""
    rows = matrices.copy()
    ranks = np.zeros(len(rows), int)
    for bit in range(rows.shape[1]):
        has = (rows >> np.uint64(bit)) & np.uint64(1)
        pivots = rows[np.arange(len(rows)), has.argmax(1)]
        rows ^= has * pivots[:, None]  # also clears the pivot, which is used up
        ranks += has.any(1)
    return ranks


def _linear_complexities(blocks: UInt8[np.ndarray, "blocks size"]) -> Int[np.ndarray, " blocks"]:
    """Berlekamp and Massey's algorithm on all blocks at once, one polynomial in each column."""

    def shifted(words: np.ndarray) -> np.ndarray:
        moved = words << np.uint64(1)
        moved[1:] |= words[:-1] >> np.uint64(63)
        return moved

    num_blocks, size = blocks.shape
    register = np.zeros((size // 64 + 1, num_blocks), np.uint64)
    register[0] = 1
    before, seen = shifted(register), np.zeros_like(register)
    length = np.zeros(num_blocks, int)
    for i, bit in enumerate(blocks.T):
        seen = shifted(seen)
        seen[0] |= bit
        is_wrong = np.bitwise_count(register & seen).sum(0) % 2 == 1
        grows = is_wrong & (2 * length <= i)
        previous = np.where(grows, register, before)
        register = np.where(is_wrong, register ^ before, register)
        before = shifted(previous)
        length = np.where(grows, i + 1 - length, length)
    return length
