"""The suite's arithmetic, command line and files. Nothing is timed here but a function or two."""

import json
import os
import re
from concurrent.futures import Future
from functools import partial
from pathlib import Path

import distrax
import equinox as eqx
import jax
import jax.numpy as jnp
import pytest

import benchmarks
import rlscan
from benchmarks import (
    __main__ as command,
    _registry,
    _table,
    devices,
    levers,
    rollout,
    threads,
    training,
)
from benchmarks._benchmark import Benchmark, Result, Settings
from benchmarks._compare import change, judged
from benchmarks._figures import Comparison, Line, ratios, spread
from benchmarks._subject import Subject
from benchmarks._timing import Timing, interleaved

FOLDER = Path(benchmarks.__file__).parent


def line(name, values, size="N = 64"):
    figures = {"steps_per_second": values, "xla_seconds": [2.0]}
    return Line(name, size, f"what {name} is", figures)


def suite(monkeypatch, lines, comparisons=(), setting="an environment"):
    """Makes a suite of one benchmark, and returns the settings that it is run with."""
    ran = []

    def run(settings):
        ran.append(settings)
        return Result(setting, lines)

    fake = Benchmark("fake", "what a fake takes", 1, run, tuple(comparisons), takes_own=True)
    monkeypatch.setattr(command, "BENCHMARKS", {"fake": fake})
    return ran


# Figures


def test_spread_is_median_and_quartiles():
    assert spread([5.0, 1.0, 2.0, 4.0, 3.0]) == (2.0, 3.0, 4.0)
    assert spread([1.0, 2.0]) == (1.25, 1.5, 1.75)
    assert spread([7.0]) == (7.0, 7.0, 7.0)


def test_a_ratio_is_over_pairs_of_runs():
    """Not the ratio of the medians, which would be 6 / 2."""
    lines = [line("a", [2.0, 6.0, 20.0]), line("b", [2.0, 1.0, 4.0])]
    (ratio,) = ratios(lines, [Comparison("a", "b", "")])
    assert ratio.values == [1.0, 6.0, 5.0]
    assert spread(ratio.values).median == 5


def test_a_claim_is_judged_at_its_size_by_the_median():
    lines = [line(name, [2.0, 8.0, 9.0], size) for size in ("N = 4", "N = 64") for name in "ab"]
    lines[2] = line("a", [2.0, 4.0, 9.0])
    claims = {bar: Comparison("a", "b", "", {"N = 64": bar}) for bar in (1.0, 1.01)}
    assert [r.is_met for r in ratios(lines, [claims[1.0]])] == [None, True]
    assert [r.is_met for r in ratios(lines, [claims[1.01]])] == [None, False]


def test_a_comparison_with_nobody_is_refused():
    with pytest.raises(ValueError, match="'c' is to be compared, but only a ran"):
        ratios([line("a", [1.0])], [Comparison("a", "c", "")])


def test_interleaved_takes_turns_and_keeps_the_stages_apart():
    calls = []

    def contestant(name):
        def function(x):
            jax.debug.callback(lambda: calls.append(name), ordered=True)
            return x + 1

        return function, (jnp.zeros(3),)

    timings = interleaved({"a": contestant("a"), "b": contestant("b")}, repeats=2)
    jax.effects_barrier()
    assert "".join(calls) == "ab" + "abab"  # the first calls, then the runs
    for timing in timings.values():
        assert len(timing.runs) == 2
        assert min(timing.trace, timing.xla, timing.first_call, *timing.runs) > 0
        assert timing.compile == timing.trace + timing.xla


def test_each_is_compiled_with_its_own_options():
    contestants = {name: (lambda x: x + 1, (jnp.zeros(3),)) for name in "ab"}
    wrong = {"no_such_option": "1"}
    interleaved(contestants, repeats=1, options={"c": wrong})
    with pytest.raises(jax.errors.JaxRuntimeError, match="no_such_option"):
        interleaved(contestants, repeats=1, options={"b": wrong})
    assert devices.OPTIONS.keys() <= devices.MEANINGS.keys()


@pytest.mark.exhaustive
@pytest.mark.slow
@pytest.mark.parametrize("name", levers.UNDONE)
def test_without_a_lever_it_is_another_program_and_learns_the_same(name, monkeypatch):
    """Else its time would be of the same thing, or of two things."""
    monkeypatch.setattr("rlscan._rollout.blocks.BLOCK", 32)
    config = rlscan.ppo.PPOConfig(num_envs=4, num_steps=16, num_minibatches=1, num_epochs=1)
    env = "Breakout-MinAtar" if name == "convolutions" else "CartPole-v1"
    make = levers.advantages_of if name == "every slot" else levers.update_of
    contestant = partial(make, env, config)

    def learned(function, args):
        program = str(eqx.filter_make_jaxpr(function)(*args)[0])
        state, what = eqx.filter_jit(function)(*args)
        learned = what.target if name == "every slot" else (state.policy, what["loss"])
        return program, jax.tree.leaves(eqx.filter(learned, eqx.is_array))

    program, numbers = learned(*contestant())
    other_program, other_numbers = learned(*levers.undone(name, contestant))
    assert program != other_program
    assert numbers
    for one, other in zip(numbers, other_numbers, strict=True):
        assert jnp.allclose(one, other, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("smoke", [False, True])
def test_every_lever_is_undone_somewhere(smoke):
    """A comparison with one that did not run is refused."""
    undone = {name for *_, names in levers.sizes(smoke).values() for name in names}
    assert undone == {*levers.UNDONE}


# The registry


def test_every_file_is_registered_under_its_name():
    files = {file.stem for file in FOLDER.glob("[a-z]*.py")}
    assert files == {*_registry.BENCHMARKS}
    assert not _registry.BENCHMARKS.keys() & _registry.studies().keys()
    assert _registry.studies().keys() >= {"learning", "consistency"}
    assert all(_registry.studies().values())


def untimed_loops(ours, config, num_updates, repeats):
    return {name: Timing(1, 1, 1, [1.0] * repeats, 0) for name in ("train", "train_scan")}


@pytest.mark.parametrize("module", [rollout, training])
def test_every_claim_is_judged_at_full_size_and_none_at_smoke_size(module, monkeypatch):
    """A claim of a size that is never run would never fail."""

    def untimed(contestants, *, repeats, options=None):
        return {name: Timing(1, 1, 1, [1.0] * repeats, 0) for name in contestants}

    def nothing(*args):
        return dict.fromkeys(module.MEANINGS, (lambda: None, ()))

    policy = eqx.nn.Dropout()
    monkeypatch.setattr(module, "subject", lambda settings: Subject(None, policy, "x"))  # pyright: ignore[reportArgumentType]
    monkeypatch.setattr("benchmarks._time_rollouts.interleaved", untimed)
    monkeypatch.setattr(training, "interleaved", untimed)
    monkeypatch.setattr(rollout, "contestants", nothing)
    monkeypatch.setattr(training, "one_update", lambda *args: (lambda: None, ()))
    monkeypatch.setattr(training, "time_loops", untimed_loops)
    for smoke in (False, True):
        lines = module.run(Settings(smoke=smoke, repeats=2)).lines
        judged = [r for r in ratios(lines, module.COMPARISONS) if r.at_least is not None]
        claimed = sum(len(comparison.at_least) for comparison in module.COMPARISONS)
        assert claimed >= 2
        assert len(judged) == (0 if smoke else claimed)


class Unswitched(eqx.Module):
    noise: eqx.nn.Linear

    def __call__(self, observation, state, *, key):
        logits = self.noise(observation) + jax.random.normal(key, (2,))
        return distrax.Categorical(logits), logits[0], state

    def initial_state(self):
        return ()


def unswitched(env, *, key):
    return Unswitched(eqx.nn.Linear(4, 2, key=key))


@pytest.mark.exhaustive
@pytest.mark.slow
def test_a_policy_that_has_no_switch_is_not_compared_with_itself(capsys, monkeypatch):
    def untimed(contestants, *, repeats, options=None):
        return {name: Timing(1, 1, 1, [1.0] * repeats, 0) for name in contestants}

    monkeypatch.setattr("benchmarks._time_rollouts.interleaved", untimed)
    monkeypatch.setattr(training, "interleaved", untimed)
    monkeypatch.setattr(training, "time_loops", untimed_loops)
    only = ["--only", "rollout", "training", "--smoke"]
    assert command.main([*only, "--policy", "test_benchmarks:unswitched"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert shown.count("unswitched, which inference mode leaves as it is") == 2
    assert "no dropout" not in shown and "rlscan, dropout / plain, dropout" in shown
    assert command.main([*only, "--env", "Pendulum-v1"]) == 0
    assert "rlscan, dropout / rlscan, no dropout" in capsys.readouterr().out


# The command line


def test_list_prints_every_name_and_claim(capsys):
    assert command.main(["--list"]) == 0
    shown = capsys.readouterr().out
    for name, benchmark in _registry.BENCHMARKS.items():
        assert f"{name}: {benchmark.measures}" in shown
    for name, about in _registry.studies().items():
        assert f"{name}: {about}" in shown
    claim = "rlscan, dropout / rlscan, no dropout at least 0.7 (N = 64), 0.85 (N = 1024)"
    assert claim in shown


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--only", "rolout"], "unknown benchmark 'rolout', did you mean rollout?"),
        (["--only", "rollout", "xyzzy"], "unknown benchmark 'xyzzy'; `--list` shows all"),
        (["--only", "learning"], "`python -m benchmarks.learning --help`"),
        (["--only", "switches", "--env", "Pendulum-v1"], "switches takes no --env or --policy"),
        (["--only", "rollout", "--env", "CartPole"], "did you mean CartPole-v1?"),
        (["--only", "rollout", "--env", "nowhere:make"], "cannot import 'nowhere'"),
        (["--only", "rollout", "--env", "json:"], "not of the form module:factory"),
        (["--only", "rollout", "--policy", "json:nothing"], "json has no 'nothing'"),
        (["--repeats", "0"], "--repeats must be 1 or more, got 0"),
        (["--json", "/nowhere/x.json"], "/nowhere is not a writable folder"),
        (["--smok"], "unrecognized arguments: --smok"),
        (["compare", "one.json"], "required: NEW.json"),
    ],
)
def test_bad_input_is_refused_in_one_line(arguments, message, capsys, monkeypatch):
    monkeypatch.setattr(command, "run", lambda *args: pytest.fail("it ran"))
    try:
        status = command.main(arguments)
    except SystemExit as exit:  # argparse's own
        status = exit.code
    captured = capsys.readouterr()
    assert status == 2
    assert message in captured.err
    assert captured.err.startswith("error: ") and captured.err.count("\n") == 1
    assert captured.out == ""


def test_a_run_shows_its_figures_and_keeps_them(capsys, monkeypatch, tmp_path):
    claims = [Comparison("a", "b", "what a gains", {"N = 64": 2.0})]
    suite(monkeypatch, [line("a", [3e6, 6e6]), line("b", [1e6, 2e6])], claims)
    assert command.main(["--json", str(tmp_path / "x.json"), "--repeats", "2"]) == 0
    shown = capsys.readouterr().out
    for text in ("fake: an environment", "4.50", "3.75 … 5.25", "a / b", "3.00", "≥ 2 met"):
        assert text in shown
    for text in ("what a is", "what b is", "what a gains", "1 of 1 claims met"):
        assert text in shown

    assert [file.name for file in tmp_path.iterdir()] == ["x.json"]
    content = json.loads((tmp_path / "x.json").read_text())
    assert content["versions"]["jax"] == jax.__version__
    assert content["cpu"] and content["cores"] and "commit" in content
    result = content["figures"]["fake"]
    speed = result["lines"][0]["figures"]["steps_per_second"]
    assert speed == {"median": 4.5e6, "quartiles": [3.75e6, 5.25e6], "values": [3e6, 6e6]}
    assert result["ratios"][0]["median"] == 3 and result["ratios"][0]["is_met"] is True


def test_a_missed_claim_is_an_exit_status(capsys, monkeypatch):
    lines = [line("a", [1.0]), line("b", [1.0])]
    ran = suite(monkeypatch, lines, [Comparison("a", "b", "", {"N = 64": 2.0})])
    assert command.main([]) == 1
    shown = capsys.readouterr().out
    assert "≥ 2 MISSED" in shown and "0 of 1 claims met" in shown
    # Of an environment of the reader's own nothing is claimed.
    monkeypatch.setattr(command, "subject", lambda settings: None)
    assert command.main(["--env", "my:own"]) == 0
    assert "claims" not in capsys.readouterr().out
    assert [settings.env for settings in ran] == [None, "my:own"]


@pytest.mark.parametrize(
    "name, lacks", [("devices", "it needs two devices"), ("threads", "NPROC sets")]
)
def test_what_the_machine_cannot_show_is_left_out(name, lacks, capsys, monkeypatch, tmp_path):
    suite(monkeypatch, [line("a", [1.0])])
    both = {name: _registry.BENCHMARKS[name], **command.BENCHMARKS}
    monkeypatch.setattr(command, "BENCHMARKS", both)
    monkeypatch.setattr("benchmarks.devices.jax.devices", lambda: jax.local_devices()[:1])
    monkeypatch.setenv("NPROC", "1")
    assert command.main(["--json", str(tmp_path / "x.json")]) == 0
    assert f"{name}: left out, because {lacks}" in capsys.readouterr().out
    assert [*json.loads((tmp_path / "x.json").read_text())["figures"]] == ["fake"]


def test_processes_take_turns(monkeypatch):
    """Else two would compute at once, or the machine's drift would be taken for a gain."""
    did = []

    class Here:
        def __init__(self, one_thread):
            self.name = "one" if one_thread else "all"

        def __enter__(self):
            return self

        def __exit__(self, *error):
            did.append(f"{self.name} ends")

        def submit(self, function, *args):
            did.append(" ".join([self.name, function.__name__, *args[:1]]))
            future = Future()
            future.set_result(Timing(1, 1, 1, [], 0) if args else 1.0)
            return future

    monkeypatch.setattr(threads, "process", Here)
    config = rlscan.ppo.PPOConfig()
    timings = threads.in_processes(Settings(repeats=2), config)
    turns = ["one run_once", "all run_once"] * 2
    assert did == [
        *("one prepare rollout", "all prepare rollout", *turns),
        *("one prepare update", "all prepare update", *turns),
        *("all ends", "one ends"),
    ]
    assert timings.keys() == threads.MEANINGS.keys()
    assert all(timing.runs == [1.0, 1.0] for timing in timings.values())


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="the system names no threads")
@pytest.mark.parametrize("one_thread", [True, False])
def test_a_process_has_its_number_of_threads(one_thread, monkeypatch):
    monkeypatch.delenv("NPROC", raising=False)
    with threads.process(one_thread) as process:
        process.submit(jax.device_count).result()
        tasks = process.submit(os.listdir, "/proc/self/task").result()
        pid = process.submit(os.getpid).result()
        names = [Path(f"/proc/{pid}/task/{task}/comm").read_text() for task in tasks]
    assert sum("XLAEigen" in name for name in names) == (1 if one_thread else rlscan.num_cores())


def test_a_file_is_not_overwritten_and_nothing_runs(capsys, monkeypatch, tmp_path):
    ran = suite(monkeypatch, [line("a", [1.0])])
    path = tmp_path / "x.json"
    path.write_text("mine")
    assert command.main(["--json", str(path)]) == 2
    assert "exists already" in capsys.readouterr().err
    assert path.read_text() == "mine" and not ran


def test_what_was_measured_is_kept_when_a_later_benchmark_fails(monkeypatch, tmp_path):
    suite(monkeypatch, [line("a", [1.0])])

    def fail(settings):
        raise RuntimeError("a process failed")

    failing = Benchmark("failing", "", 1, fail)
    both = {**command.BENCHMARKS, "failing": failing}
    monkeypatch.setattr(command, "BENCHMARKS", both)
    with pytest.raises(RuntimeError, match="a process failed"):
        command.main(["--json", str(tmp_path / "x.json")])
    assert [*json.loads((tmp_path / "x.json").read_text())["figures"]] == ["fake"]


def test_tables_fit_80_columns(capsys, monkeypatch):
    """The longest names fit as well, without a line break."""
    monkeypatch.setenv("COLUMNS", "80")
    figures = {"steps_per_second": [2.345e6, 2.456e6], "trace_seconds": [0.123]}
    figures |= {"xla_seconds": [1.234], "first_call_seconds": [0.1234], "temporary_bytes": [12.3e6]}
    lines = [Line(name, "N = 1024", about, figures) for name, about in rollout.MEANINGS.items()]
    compared = ratios(lines, rollout.COMPARISONS)
    _table.show("rollout", "CartPole-v1", lines, compared)
    shown = capsys.readouterr().out.splitlines()
    assert max(map(len, shown)) <= 80
    for name in [*rollout.MEANINGS, *(f"{ratio.of} / {ratio.over}" for ratio in compared)]:
        assert sum(row.startswith(name + "  ") for row in shown) == 2  # in a table, and explained


# Two files


def written(monkeypatch, path, lines, **changes):
    comparisons = [Comparison("a", "b", "")] if len(lines) > 1 else []
    suite(monkeypatch, lines, comparisons, changes.pop("setting", "an environment"))
    assert command.main(["--json", str(path)]) == 0
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, **changes}))
    return str(path)


def test_change_is_as_wide_as_the_quartiles_allow():
    old, new = [1.0, 2.0, 3.0, 4.0, 5.0], [8.0, 9.0, 12.0, 15.0, 16.0]
    assert change(old, new) == (9 / 4, 12 / 3, 15 / 2)
    assert judged(change(old, new), more_is_better=True) == "better"
    assert judged(change(old, new), more_is_better=False) == "worse"
    assert judged(change(new, old), more_is_better=True) == "worse"
    assert judged(change(old, old), more_is_better=True) == ""
    assert change([0.0], [0.0]).median == 1


def test_compare_says_what_became_of_each_line(capsys, monkeypatch, tmp_path):
    old = [line("a", [2e6, 2e6]), line("b", [1e6, 1e6])]
    new = [line("a", [5e6, 5e6]), line("b", [1e6, 1e6])]
    paths = [
        written(monkeypatch, tmp_path / "old.json", old, commit="1234567"),
        written(monkeypatch, tmp_path / "new.json", new, commit="89abcde"),
    ]
    capsys.readouterr()
    assert command.main(["compare", *paths]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "not comparable" not in shown
    assert "a 2.50 2.50 … 2.50 better 1.00" in shown
    assert "b 1.00 1.00 … 1.00 1.00" in shown
    assert "a / b 2.00 5.00" in shown


@pytest.mark.parametrize(
    "changes, reason",
    [
        ({"cpu": "another"}, "cpu was"),
        ({"cores": 999}, "is 999"),
        ({"flags": "--xla_of_another_kind"}, "is --xla_of_another_kind"),
        ({"versions": {"rlscan": "0", "jax": "9.9"}}, "jax was"),
        ({"setting": "T = 8"}, "fake ran an environment; now T = 8"),
        ({"lines": [line("a", [1.0], "N = 4")]}, "fake, N = 4, a is only in the new file"),
        ({"figures": {}}, "no benchmark is in both"),
    ],
)
def test_compare_says_why_two_files_are_not_comparable(
    changes, reason, capsys, monkeypatch, tmp_path
):
    lines = [line("a", [1.0])]
    old = written(monkeypatch, tmp_path / "old.json", lines)
    new = written(monkeypatch, tmp_path / "new.json", changes.pop("lines", lines), **changes)
    capsys.readouterr()
    assert command.main(["compare", old, new]) == 1
    shown = " ".join(capsys.readouterr().out.split())
    assert "not comparable: " in shown and reason in shown


def test_another_version_of_rlscan_is_what_is_compared(monkeypatch, tmp_path):
    old = written(monkeypatch, tmp_path / "old.json", [line("a", [1.0])])
    versions = {**json.loads(Path(old).read_text())["versions"], "rlscan": "99"}
    new = written(monkeypatch, tmp_path / "new.json", [line("a", [1.0])], versions=versions)
    assert command.main(["compare", old, new]) == 0


@pytest.mark.parametrize(
    "content, reason",
    [
        ("", "Expecting value"),
        ("[]", "TypeError"),
        ("{}", "KeyError 'benchmark'"),
        ('{"benchmark": "learning"}', "it is one of benchmarks.learning"),
        ('{"benchmark": "suite", "versions": {"rlscan": "0"}}', "KeyError 'figures'"),
        (None, "No such file"),
    ],
)
def test_compare_refuses_a_file_of_another_kind(content, reason, capsys, monkeypatch, tmp_path):
    good = written(monkeypatch, tmp_path / "good.json", [line("a", [1.0])])
    capsys.readouterr()
    path = tmp_path / "bad.json"
    if content is not None:
        path.write_text(content)
    assert command.main(["compare", good, str(path)]) == 2
    said = capsys.readouterr().err
    assert str(path) in said and reason in said
    assert said.startswith("error: ") and said.count("\n") == 1


@pytest.mark.parametrize("values", [[], ["fast"], None])
def test_compare_refuses_figures_that_are_none(values, capsys, monkeypatch, tmp_path):
    good = written(monkeypatch, tmp_path / "good.json", [line("a", [1.0])])
    content = json.loads(Path(good).read_text())
    content["figures"]["fake"]["lines"][0]["figures"]["steps_per_second"]["values"] = values
    (tmp_path / "bad.json").write_text(json.dumps(content))
    assert command.main(["compare", good, str(tmp_path / "bad.json")]) == 2
    assert "is not a file of" in capsys.readouterr().err


# The library


@pytest.mark.exhaustive
@pytest.mark.slow
def test_python_blocks_of_the_readme_run(capsys):
    blocks = re.findall(r"^```python\n(.*?)^```", (FOLDER / "README.md").read_text(), re.M | re.S)
    assert blocks
    for block in blocks:
        exec(compile(block, "README.md", "exec"), {})
    assert "mine / rlscan" in capsys.readouterr().out


def test_time_rollouts_times_any_function(capsys):
    def steps(x, num_steps):
        return jax.lax.scan(lambda carry, _: (carry + 1, carry), x, None, num_steps)

    contestants = {"mine": (steps, (jnp.zeros(4), 8)), "[other]": (steps, (jnp.ones(4), 8))}
    result = benchmarks.time_rollouts(contestants, num_steps=8, num_envs=4, repeats=3)
    assert [line.name for line in result.lines] == ["mine", "[other]"]
    for one in result.lines:
        assert one.size == "N = 4"
        assert len(one.figures["steps_per_second"]) == 3
        assert min(map(min, one.figures.values())) >= 0
    shown = capsys.readouterr().out
    assert "[other] / mine" in shown and "mine / " not in shown

    (speed,) = [
        one.figures
        for one in benchmarks.time_rollouts(
            {"mine": contestants["mine"]}, num_steps=8, num_envs=4, repeats=1, show=False
        ).lines
    ]
    assert len(speed["steps_per_second"]) == 1
    assert capsys.readouterr().out == ""


def test_steps_per_second_count_all_environments(monkeypatch):
    timing = Timing(1.0, 2.0, 3.0, [0.5, 0.25], 100)
    monkeypatch.setattr(
        "benchmarks._time_rollouts.interleaved", lambda contestants, *, repeats: {"a": timing}
    )
    contestants = {"a": (lambda: None, ())}
    result = benchmarks.time_rollouts(contestants, num_steps=10, num_envs=3, show=False)
    assert result.lines[0].figures == {
        "steps_per_second": [60.0, 120.0],
        "trace_seconds": [1.0],
        "xla_seconds": [2.0],
        "first_call_seconds": [3.0],
        "temporary_bytes": [100],
    }


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"num_steps": 0}, "num_steps must be 1 or more, got 0"),
        ({"repeats": 0}, "repeats must be 1 or more, got 0"),
        ({"over": "b"}, "over must be one of a, got 'b'"),
        ({"contestants": {}}, "at least one function, got none"),
    ],
)
def test_time_rollouts_refuses_what_cannot_be(settings, message):
    arguments = {"contestants": {"a": (lambda: 0, ())}, "num_steps": 1, "num_envs": 1, **settings}
    with pytest.raises(ValueError, match=message):
        benchmarks.time_rollouts(**arguments)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float32])
def test_the_floor_draws_for_policies_of_any_width(dtype):
    key = jax.random.key(0, impl=rollout.free_bits)
    drawn = jax.random.normal(key, (1000,), dtype)
    assert drawn.dtype == dtype and len(jnp.unique(drawn)) > 20
