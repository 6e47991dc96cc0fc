"""The tests of randomness: they are NIST's, they see what `jax.random` draws, and they go on."""

from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rlscan
from benchmarks.randomness import dieharder, nist, report, results, sp800_22, streams
from benchmarks.randomness.__main__ import main
from benchmarks.randomness.runs import RUNS
from rlscan.random._mix32 import _word as mix32_word

DIEHARDER_PRINTS = """\
#=============================================================================#
#            dieharder version 3.31.1 Copyright 2003 Robert G. Brown          #
#=============================================================================#
   rng_name    |rands/second|   Seed   |
stdin_input_raw|  5.81e+07  | 620702255|
#=============================================================================#
        test_name   |ntup| tsamples |psamples|  p-value |Assessment
#=============================================================================#
Preparing to run test 207.  ntuple = 0
        dab_filltree|  32|  15000000|       1|0.93698876|  PASSED  
  diehard_rank_32x32|   0|     40000|       1|0.99520747|   WEAK   
      rgb_lagged_sum|   0|   1000000|      90|0.00000000|  FAILED  
"""  # noqa: W291
COUNTER_NIST = RUNS["mix32/counter/nist"]
COUNTER_DIEHARDER = RUNS["mix32/counter/dieharder"]


# The tests of SP 800-22, against the figures that it prints.


def bits_of(text: str) -> np.ndarray:
    return np.array(list(text), np.uint8)


PI = bits_of(
    "1100100100001111110110101010001000100001011010001100"
    "001000110100110001001100011001100010100010111000"
)
WALK = bits_of("0110110101")


# The two small examples of 2.6 are left out: they count a peak and two too few. Its p-values of a
# million bits, below, are right.
@pytest.mark.parametrize(
    ("p_values", "published"),
    [
        (sp800_22.frequency(bits_of("1011010101")), [0.527089]),
        (sp800_22.frequency(PI), [0.109599]),
        (sp800_22.block_frequency(bits_of("0110011010"), size=3), [0.801252]),
        (sp800_22.block_frequency(PI, size=10), [0.706438]),
        (sp800_22.runs(bits_of("1001101011")), [0.147232]),
        (sp800_22.runs(PI), [0.500798]),
        (sp800_22.serial(bits_of("0011011101"), size=3), [0.808792, 0.670320]),
        (sp800_22.approximate_entropy(bits_of("0100110101"), size=3), [0.261961]),
        (sp800_22.approximate_entropy(PI, size=2), [0.235301]),
        (sp800_22.cumulative_sums(bits_of("1011010111")), [0.411659, None]),
        (sp800_22.cumulative_sums(PI), [0.219194, 0.114866]),
    ],
)
def test_worked_examples(p_values: dict, published: list) -> None:
    for found, wanted in zip(p_values.values(), published, strict=True):
        assert wanted is None or found == pytest.approx(wanted, abs=1e-6)


def test_worked_examples_of_one_of_several_p_values() -> None:
    template = sp800_22.templates(bits_of("10100100101110010110"), size=3, num_blocks=2)
    assert template["template 001"] == pytest.approx(0.344154, abs=1e-6)
    walks = sp800_22.excursions(WALK, fewest=0)
    assert walks["excursions +1"] == pytest.approx(0.502529, abs=1e-4)  # of rounded chances
    assert walks["visits +1"] == pytest.approx(0.683091, abs=1e-6)
    block = bits_of("1101011110001")[None]
    assert sp800_22._linear_complexities(block).tolist() == [4]


def root(number: int, num_bits: int) -> np.ndarray:
    """The first bits of √2 or √3, by Newton's method; `math.isqrt` takes ten times as long."""
    precision = 60
    inverse = int(2**precision / number**0.5)
    while precision < num_bits + 8:
        inverse <<= precision - 8
        precision = 2 * precision - 8
        three = 3 << 2 * precision
        inverse = inverse * (three - number * inverse**2) >> 2 * precision + 1
    digits = number * inverse >> precision - num_bits + 1
    return np.unpackbits(np.frombuffer(digits.to_bytes(num_bits // 8, "big"), np.uint8))


# Appendix B. `∇ψ²` is the first p-value of the serial test.
PUBLISHED = {
    "frequency": (0.811881, 0.610051),
    "block frequency": (0.833222, 0.473961),
    "cumulative sums forward": (0.879009, 0.917121),
    "cumulative sums backward": (0.957206, 0.689519),
    "runs": (0.313427, 0.261123),
    "longest run": (0.012117, 0.446726),
    "rank": (0.823810, 0.314498),
    "spectrum": (0.581909, 0.776046),
    "template 000000001": (0.569461, 0.532235),
    "overlapping template": (0.791982, 0.082716),
    "universal": (0.130805, 0.165981),
    "approximate entropy": (0.884740, 0.180481),
    "excursions +1": (0.216235, 0.783283),
    "visits -1": (0.566118, 0.155066),
    "linear complexity": (0.317127, 0.346469),
    "serial 1": (0.861925, 0.157500),
}


@pytest.mark.parametrize(("which", "number"), [(0, 2), (1, 3)])
def test_published_p_values_of_a_million_bits(
    which: int, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Two of them were computed with probabilities that have been corrected since.
    old = np.array([0.367879, 0.183940, 0.137955, 0.099634, 0.069935, 0.140656])
    monkeypatch.setattr(sp800_22, "OVERLAPS", old)
    old = np.array([0.01047, *sp800_22.COMPLEXITIES[1:]])
    monkeypatch.setattr(sp800_22, "COMPLEXITIES", old)
    p_values = sp800_22.all_tests(root(number, 10**6))
    assert len(p_values) == 188
    for test, published in PUBLISHED.items():
        assert p_values[test] == pytest.approx(published[which], abs=5e-5), test


def test_chances_of_classes_are_chances() -> None:
    tables = [sp800_22.OVERLAPS, sp800_22.COMPLEXITIES, *(row[3] for row in sp800_22.LONGEST_RUNS)]
    for chances in tables:
        assert sum(chances) == pytest.approx(1, abs=2e-4)


# The streams, against plain calls of `jax.random`.


def words(generator: str, stream: str, num_words: int) -> list[int]:
    return next(streams.draw(generator, stream, seed=3))[:num_words].tolist()


def few(key: jax.Array) -> list[int]:
    return jax.random.bits(key, (4,)).tolist()


@pytest.mark.slow(cases="all")
@pytest.mark.parametrize("generator", ["mix32", "philox4x32", "threefry2x32"])
def test_streams_are_what_jax_draws(generator: str) -> None:
    key = jax.random.key(3, impl=streams.GENERATORS[generator])
    if generator != "threefry2x32":  # whose words depend on how many are drawn
        assert words(generator, "counter", 9) == jax.random.bits(key, (9,)).tolist()
    parent = jax.random.split(key)[1]
    keys = jax.random.split(parent, streams.CHUNK // 4)[:3]
    assert words(generator, "split", 12) == [word for key in keys for word in few(key)]
    folded = [jax.random.fold_in(key, i) for i in range(3)]
    assert words(generator, "fold_in", 12) == [word for key in folded for word in few(key)]


def test_a_chain_splits_as_a_rollout_does() -> None:
    key = jax.random.split(rlscan.key(3), streams.NUM_CHAINS)[0]
    expected = []
    for _ in range(3):
        key, drawn = jax.random.split(key)
        expected += few(drawn)
    assert words("mix32", "chain", 12) == expected


def test_keys_of_one_bit_differ_in_one_bit() -> None:
    base = jax.random.split(rlscan.key(3))[1]
    data = np.asarray(jax.random.key_data(base))
    flips = [(0, 0), *((1 << bit, 0) for bit in range(32)), *((0, 1 << bit) for bit in range(32))]
    near = jnp.stack([data ^ np.array(flip, np.uint32) for flip in flips])
    keys = jax.random.wrap_key_data(near, impl=rlscan.random.mix32)
    expected = jax.vmap(lambda key: jax.random.bits(key, (2,)))(keys).T
    assert words("mix32", "one_bit", 130) == expected.ravel().tolist()


def test_the_counter_goes_on_to_its_last_word_and_then_to_the_next_key() -> None:
    key = rlscan.key(3)
    step, _ = streams.counter(key)
    last = jnp.uint32(2**32 - streams.CHUNK)
    (following, start), drawn = jax.jit(step)((key, last))
    counters = last + jnp.arange(streams.CHUNK, dtype=jnp.uint32)
    assert jnp.array_equal(drawn, mix32_word(jax.random.key_data(key), counters))
    assert start == 0 and following == jax.random.split(key)[0]


# Runs and what is made of them.


@pytest.mark.slow
def test_the_bad_generator_fails_and_the_good_one_passes(tmp_path: Path) -> None:
    failed = {}
    for generator in ("mix32", "weyl"):
        run = RUNS[f"{generator}/counter/nist"]
        verdicts = nist.verdicts(nist.run(run, tmp_path, num_sequences=60, num_bits=2**17))
        failed[generator] = [verdict.test for verdict in verdicts if not verdict.is_met]
        by_chance = sum(verdict.missed_by_chance for verdict in verdicts)
    assert len(failed["mix32"]) < 3 * by_chance < 20 < len(failed["weyl"])
    assert {"spectrum", "serial 1", "approximate entropy"} <= set(failed["weyl"])


@pytest.mark.slow
def test_a_stopped_run_goes_on_where_it_was(tmp_path: Path) -> None:
    nist.run(COUNTER_NIST, tmp_path / "in parts", num_sequences=2, num_bits=2**12)
    parts = nist.run(COUNTER_NIST, tmp_path / "in parts", num_sequences=5, num_bits=2**12)
    at_once = nist.run(COUNTER_NIST, tmp_path / "at once", num_sequences=5, num_bits=2**12)
    assert parts == at_once == results.read(COUNTER_NIST, tmp_path / "in parts")
    assert parts["num_sequences"] == 5 and parts["tests"]["frequency"][0] <= 5
    more = nist.run(COUNTER_NIST, tmp_path / "at once", num_sequences=3, num_bits=2**12)
    assert more == at_once  # a smaller number takes nothing away


def test_finished_tests_are_not_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = []

    def run_test(run: object, test: dieharder.Test, options: object) -> dict:
        if len(ran) == 2:
            raise RuntimeError("stopped")
        ran.append(test.name)
        lines = dieharder.parse(DIEHARDER_PRINTS)[:1]
        return {"seed": test.seed, "bytes": 1, "seconds": 0.1, "lines": lines}

    monkeypatch.setattr(dieharder, "_run_test", run_test)
    tests = dieharder.SUBSET[:3]
    with pytest.raises(RuntimeError, match="stopped"):
        dieharder.run(COUNTER_DIEHARDER, tmp_path, tests)
    del ran[:1]
    dieharder.run(COUNTER_DIEHARDER, tmp_path, tests)
    assert ran == ["-d 2", "-d 3"]
    found = results.read(COUNTER_DIEHARDER, tmp_path)
    assert found and list(found["tests"]) == ["-d 0", "-d 2", "-d 3"]


def test_results_of_another_generator_are_not_gone_on_with(tmp_path: Path) -> None:
    nist.run(COUNTER_NIST, tmp_path, num_sequences=1, num_bits=2**12)
    found = results.read(COUNTER_NIST, tmp_path)
    assert found is not None
    found["settings"]["first_chunk_sha256"] = "another"
    results.write(COUNTER_NIST, tmp_path, found)
    with pytest.raises(ValueError, match="first_chunk_sha256 = another, now it is .*; remove"):
        nist.run(COUNTER_NIST, tmp_path, num_sequences=2, num_bits=2**12)
    with pytest.raises(ValueError, match="num_bits = 4096, now it is 8192"):
        nist.run(COUNTER_NIST, tmp_path, num_sequences=2, num_bits=2**13)


def test_beside_results_of_another_generator_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(nist, "run", partial(nist.run, num_bits=2**12))
    both = ["--only", "mix32/counter/nist", "weyl/counter/nist", "--results", str(tmp_path)]
    assert main([*both, "--sequences", "1"]) == 0
    old = results.read(COUNTER_NIST, tmp_path)
    assert old is not None
    old["settings"]["first_chunk_sha256"] += "0"
    results.write(COUNTER_NIST, tmp_path, old)
    assert main([*both, "--sequences", "2"]) == 2
    out, err = capsys.readouterr()
    assert "remove its line" in err and err.count("error") == 1
    assert results.read(COUNTER_NIST, tmp_path) == old
    assert out.splitlines()[-1] == "weyl/counter/nist: 2 sequences"


def test_what_dieharder_prints_is_read() -> None:
    assert dieharder.parse(DIEHARDER_PRINTS) == [
        dieharder.Line("dab_filltree", 32, 15_000_000, 1, 0.93698876, "PASSED"),
        dieharder.Line("diehard_rank_32x32", 0, 40_000, 1, 0.99520747, "WEAK"),
        dieharder.Line("rgb_lagged_sum", 0, 1_000_000, 90, 0.0, "FAILED"),
    ]


def test_each_test_of_dieharder_has_words_of_its_own() -> None:
    assert set(dieharder.SUBSET) < set(dieharder.WHOLE)
    seeds = {test.seed for test in dieharder.WHOLE}
    assert len(seeds) == len(dieharder.WHOLE) and nist.SEED not in seeds


def test_the_report_counts_and_names(tmp_path: Path) -> None:
    tests = {
        "frequency": [990, *[100] * 10],  # as it should be
        "runs": [979, *[100] * 10],  # too few pass
        "rank": [990, 0, 200, *[100] * 8],  # not uniform
    }
    found = {"run": COUNTER_NIST.name, "num_sequences": 1000, "tests": tests}
    results.write(COUNTER_NIST, tmp_path, found)
    lines = dieharder.parse(DIEHARDER_PRINTS)
    found = {"run": COUNTER_DIEHARDER.name, "tests": {"-d 0": {"lines": lines}}}
    results.write(COUNTER_DIEHARDER, tmp_path, found)
    text = report.write(tmp_path)
    assert (tmp_path / "table.md").read_text() == text + "\n"
    rows = [line for line in text.splitlines() if "mix32" in line]
    assert rows[0] == (
        "| `counter` | mix32 | 3 (79 tests to run) | 1 | 1 | 0.0 | 1 | "
        "rgb_lagged_sum 0 (0); diehard_rank_32x32 0 (0.9952) |"
    )
    assert rows[1].startswith(
        "| `counter` | mix32 | 1000 | 3 | 1 | 2 | 0.0 | runs (979 of 1000 pass)"
    )
    assert "rank (p-values uniform with p = " in rows[1]


def test_proportions_are_those_of_the_standard() -> None:
    """4.2.1: of 1000 sequences 0.99 ± 0.0094392 may pass; of random ones one in 250 does not."""
    verdict = nist.Verdict("any", 981, 1000, 0.5)
    assert verdict.is_met and verdict.fewest == 981
    assert not verdict._replace(passed=980).is_met
    assert not verdict._replace(uniformity=0.00009).is_met
    assert verdict.missed_by_chance == pytest.approx(0.004, abs=0.001)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--only", "mix32/counter/nits"], "did you mean mix32/counter/nist"),
        (["--list", "--only", "nothing/*"], "unknown run 'nothing/*'"),
        (["--draw", "mix32/spilt"], "did you mean mix32/split"),
        (["--only", "mix32/*/nist", "--sequences", "0"], "--sequences must be 1 or more, got 0"),
    ],
)
def test_refusals(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture, tmp_path: Path
) -> None:
    assert main([*arguments, "--results", str(tmp_path)]) == 2
    assert message in capsys.readouterr().err


def test_a_missing_dieharder_is_told_before_hours_of_work(
    capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(dieharder, "is_installed", lambda: False)
    assert main(["--results", str(tmp_path)]) == 2
    assert "apt install dieharder" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_the_list_says_how_far_runs_are(capsys: pytest.CaptureFixture, tmp_path: Path) -> None:
    nist.run(COUNTER_NIST, tmp_path, num_sequences=1, num_bits=2**12)
    assert main(["--list", "--only", "mix32/counter/*", "--results", str(tmp_path)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "mix32/counter/nist: 1 sequences",
        "mix32/counter/dieharder: not run",
    ]
