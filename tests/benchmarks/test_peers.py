"""The harness that runs rlscan beside its peers, with workers that are a few lines each."""

import json
import os
import sys
from functools import partial
from pathlib import Path

import pytest

from benchmarks import _results
from benchmarks.peers import __main__ as command, cold, learning, report, steady
from benchmarks.peers.__main__ import main
from benchmarks.peers.contest import Contestant, Entry, contest
from benchmarks.peers.environments import BuildError, constraints_without, find_python
from benchmarks.peers.libraries import PEERS, RLSCAN
from benchmarks.peers.worker import Unable, Worker
from benchmarks.peers.workloads import LEARNING, WORKLOADS

WORKERS = RLSCAN.worker.parent

# By the workers' own protocol. `{log}` gets a line for each run.
WORKER = f"""
import os, sys, time
sys.path.insert(0, {str(WORKERS)!r})
from protocol import Cannot, Program, serve

def make(workload):
    {{make}}
    def run(seed):
        print("a library that prints to stdout")
        with open({{log!r}}, "a") as log:
            print({{name!r}}, seed, file=log)
        {{run}}
        return seed
    return Program(run, lambda seed: [10.0 * seed] * 2, gradient_steps=32, network="none")

serve(make)
"""


@pytest.fixture
def fake(tmp_path):
    """Makes a contestant of a fake worker, from what it does when it starts and when it runs."""

    def contestant(
        name: str,
        *,
        make: str = "pass",
        run: str = "pass",
        program: str = WORKER,
        is_timed: bool = True,
        **seconds: float,
    ) -> Contestant:
        path = tmp_path / f"{name}.py"
        path.write_text(program.format(name=name, log=str(tmp_path / "log"), make=make, run=run))
        workload = {"packages": ["pytest"], "is_timed": is_timed}
        return Contestant(name, partial(Worker, [sys.executable, str(path)], workload, **seconds))

    return contestant


def test_contestants_run_in_turn_with_the_same_seeds(fake, tmp_path):
    entries = contest([fake("a"), fake("b"), fake("c")], repeats=3)
    warm_ups = ["a 0", "b 0", "c 0"]
    rounds = [f"{name} {seed}" for seed in range(3) for name in "abc"]
    assert (tmp_path / "log").read_text().splitlines() == warm_ups + rounds
    assert [entry.returns for entry in entries.values()] == [[0.0, 10.0, 20.0]] * 3
    assert entries["c"].runs[2]["returns"] == [20.0, 20.0]  # of each seed
    assert all(seconds > 0 for entry in entries.values() for seconds in entry.seconds)
    assert entries["a"].about["versions"] == {"pytest": pytest.__version__}
    assert entries["a"].about["gradient_steps"] == 32


def test_a_run_that_is_not_timed_has_no_warm_up(fake, tmp_path):
    contest([fake("a", is_timed=False)], repeats=1)
    assert (tmp_path / "log").read_text().splitlines() == ["a 0"]


def test_one_that_cannot_says_why(fake):
    entries = contest([fake("a", make="raise Cannot('knows no cart')"), fake("b")], repeats=2)
    assert entries["a"].reason == "knows no cart"
    assert entries["a"].runs == []
    assert len(entries["b"].runs) == 2


def test_a_crash_is_a_reason_and_the_others_go_on(fake):
    crashes = "if seed == 1: raise MemoryError('of a goldfish')"
    entries = contest([fake("a", run=crashes), fake("b")], repeats=3)
    assert entries["a"].reason == "MemoryError: of a goldfish"
    assert len(entries["a"].runs) == 1  # the round before
    assert len(entries["b"].runs) == 3 and entries["b"].reason is None


@pytest.mark.parametrize(
    ("start", "reason"),
    [
        ("import no_such_library", "No module named 'no_such_library'"),
        ("os._exit(3)", "ended with status 3 and without a word"),
        ("os.kill(os.getpid(), 9)", "ended by SIGKILL"),
    ],
)
def test_an_end_at_the_start_is_a_reason(fake, start, reason):
    entries = contest([fake("a", make=start), fake("b")], repeats=1)
    assert reason in str(entries["a"].reason)
    assert len(entries["b"].runs) == 1


def test_silence_is_a_reason(fake):
    slow = fake("slow", run="time.sleep(60 * seed)", run_seconds=0.2)
    never = fake("never", make="time.sleep(60)", ready_seconds=0.2)
    entries = contest([slow, never], repeats=3)
    assert entries["slow"].reason == "no reply in 0.2 s"
    assert len(entries["slow"].runs) == 1
    assert entries["never"].reason == "no reply in 0.2 s"


@pytest.mark.parametrize("reply", ["nonsense", "[1, 2]", '{{"seconds": 1.0}}', '"ready"'])
def test_a_malformed_reply_is_a_reason(fake, reply):
    program = (
        f"import sys\nsys.stdin.readline()\nprint({reply!r}, flush=True)\nsys.stdin.readline()"
    )
    entries = contest([fake("a", program=program)], repeats=1)
    assert "where ready was wanted" in str(entries["a"].reason)
    assert reply.replace("{{", "{").replace("}}", "}") in str(entries["a"].reason)


def test_an_interpreter_that_is_not_there_is_a_reason():
    start = partial(Worker, ["/no/such/python"], {})
    entries = contest([Contestant("a", start)], repeats=1)
    assert "/no/such/python" in str(entries["a"].reason)


def test_the_slow_run_once(fake):
    entries = contest([fake("slow", run="time.sleep(0.3)"), fake("b")], repeats=3, patience=0.2)
    assert len(entries["slow"].runs) == 1 and entries["slow"].reason is None
    assert len(entries["b"].runs) == 3


def test_no_process_is_left(fake, tmp_path):
    pid = f"open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid()))"
    contest([fake("a", make=pid)], repeats=1)
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def entry(name: str, *seconds: float, returns: float = 0.0) -> Entry:
    return Entry(name, runs=[{"seconds": s, "return": returns} for s in seconds])


def test_ratio_is_the_median_of_pairs():
    # Not of the medians, which would be 3 / 2: the machine was slow in the last two rounds.
    spread = report.ratio(
        entry("a", 3.0, 3.0, 3.0, 12.0, 20.0), entry("b", 1.0, 2.0, 1.0, 6.0, 5.0)
    )
    assert spread == (3.0, 2.0, 3.0)
    assert report.ratio(entry("a", 3.0, 8.0), entry("b", 2.0)) == (1.5, 1.5, 1.5)
    assert report.ratio(entry("a"), entry("b", 2.0)) is None


def test_rates_are_held_against_the_fastest_peer():
    entries = {
        e.name: e
        for e in (
            entry("rlscan", 2.0, 2.0, returns=490.0),
            entry("rlscan, dropout 0.1", 3.0, 3.0),
            entry("rejax", 2.4, 2.4, returns=480.0),
            entry("lerax", 5.0, 5.0),
            entry("sbx"),
        )
    }
    plain, dropout = report.verdicts(report.steady_question(WORKLOADS["cartpole-4"]), entries)
    assert plain.peer == dropout.peer == "rejax"
    assert plain.ratio.median == pytest.approx(1.2) and plain.bar == 1.15 and plain.is_met
    assert plain.returns == (490.0, 480.0)
    assert dropout.ratio.median == pytest.approx(0.8) and dropout.bar == 0.95 and not dropout.is_met


def test_times_are_held_against_peers_as_they_ship():
    entries = {
        e.name: e
        for e in (
            entry("rlscan", 9.0),
            entry("rlscan, warm cache", 7.0),
            entry("rejax", 12.0),
            entry("rejax, warm cache", 5.0),
        )
    }
    empty, warm = report.verdicts(report.cold_question(1024), entries)
    assert empty.peer == warm.peer == "rejax"
    assert empty.ratio.median == 0.75 and empty.is_met
    assert warm.ratio.median == pytest.approx(7 / 12) and warm.is_met


def test_a_cell_names_versions_or_the_reason(capsys):
    ours, theirs = entry("rlscan", 2.0, returns=480.0), Entry("lerax", reason="not built")
    ours.about = {"versions": {"jax": "0.10.2"}, "gradient_steps": 15616, "compile_s": 4.0}
    question = report.steady_question(WORKLOADS["seeds-32"])
    report.show(question, {"rlscan": ours, "lerax": theirs})
    printed = capsys.readouterr().out
    for part in ("jax 0.10.2", "15616", "480.0", "4.0", "0.819", "not built", "nothing to compare"):
        assert part in printed


def test_a_cold_start_finds_an_empty_cache_and_a_warm_one_its_own(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import os, pathlib\n"
        "folder = pathlib.Path(os.environ['XDG_CACHE_HOME']) / 'entries'\n"
        "folder.mkdir(exist_ok=True)\n"
        "(folder / str(len(list(folder.iterdir())))).touch()\n"
        "print('return', len(list(folder.iterdir())) + 0.0)\n"
    )
    command = [sys.executable, str(script)]
    for is_warm, expected in ((False, [1.0, 1.0]), (True, [2.0, 3.0])):
        shell = cold.Shell(command, {}, is_warm=is_warm)  # which runs it once
        assert [shell.run(seed)["return"] for seed in range(2)] == expected
        shell.close()


def test_a_script_that_fails_is_a_reason(tmp_path):
    (tmp_path / "script.py").write_text("raise SystemExit('out of luck')")
    with pytest.raises(Unable, match="out of luck"):
        cold.Shell([sys.executable, str(tmp_path / "script.py")], {}, is_warm=False)


def learned(name: str, *returns: float) -> Entry:
    run = {"seconds": 1.0, "return": sum(returns) / len(returns), "returns": list(returns)}
    return Entry(name, {"network": "a GRU", "notes": ["clips values"]}, [run])


def test_learning_is_the_iqm_over_seeds(monkeypatch, capsys):
    entries = [learned("rlscan", 20.0, 500.0, 100.0, 120.0), learned("purejaxrl", 90.0, 90.0)]
    monkeypatch.setattr(command, "contest", lambda *a, **k: {e.name: e for e in entries})
    monkeypatch.setattr(steady, "contestants", lambda *args: [])
    ours, theirs = learning.scores({e.name: e for e in entries})
    assert ours.iqm == 110.0 and ours.worst == 20.0 and theirs.interval == (90.0, 90.0)
    assert ours.interval[0] < 110.0 < ours.interval[1]
    assert main(["run", "--only", "learn-gru"]) == 0
    printed = capsys.readouterr().out
    for part in ("of each of 16", "110.0", "90.0 … 90.0", "a GRU; clips values"):
        assert part in printed
    entries[1] = Entry("rejax", reason="its PPO has no GRU")
    assert main(["run", "--only", "learn-gru"]) == 1
    assert "its PPO has no GRU" in capsys.readouterr().out


def test_a_peer_without_a_gru_is_not_started(monkeypatch):
    monkeypatch.setattr(steady, "is_built", lambda library: True)
    monkeypatch.setattr(steady, "Worker", lambda command, message: message)
    for name, peer in PEERS.items():
        for workload in LEARNING.values():
            contestant = steady.contestants(workload, [peer], Path("checkout"))[-1]
            if workload.is_recurrent and not peer.has_gru:
                with pytest.raises(Unable, match="its PPO has no GRU"):
                    contestant.start()
            else:
                assert contestant.name == name and contestant.start()["num_seeds"] == 16


def test_work_is_the_same_for_all():
    message = WORKLOADS["seeds-32"].as_message(packages=("jax",))
    assert json.loads(json.dumps(message))["seed_steps"] == 100 * 4 * 128
    assert message["gradient_steps"] == 100 * 4 * 4
    assert WORKLOADS["seeds-32"].steps == 32 * 100 * 4 * 128


def test_every_library_has_a_worker_and_a_script():
    assert RLSCAN.worker.is_file()
    for peer in PEERS.values():
        assert peer.worker.is_file() and peer.script.is_file()


def test_a_peer_keeps_the_pins_that_it_does_not_break():
    lines = constraints_without(PEERS["rejax"].requirements).splitlines()
    assert any(line.startswith("jax==") for line in lines)
    assert not any(line.startswith("gymnax==") for line in lines)


def test_a_python_that_is_not_there_is_named(monkeypatch):
    assert find_python((3, 11)) == sys.executable
    monkeypatch.setenv("PYENV_ROOT", "/no/such/folder")
    with pytest.raises(BuildError, match=r"needs Python 3\.99; put `python3\.99` on the PATH"):
        find_python((3, 99))


def test_a_run_that_answers_nothing_says_so_by_its_status(monkeypatch, capsys):
    ours, peer = entry("rlscan", 1.0, 1.0), entry("rejax", 2.0, 2.0)
    ran: dict[str, Entry] = {}
    monkeypatch.setattr("benchmarks.peers.__main__.contest", lambda *args, **kwargs: ran)
    monkeypatch.setattr("benchmarks.peers.steady.contestants", lambda *args: [])

    def status(*entries: Entry, smoke: bool = False) -> int:
        ran.clear()
        ran.update({e.name: e for e in (entry(steady.WITH_DROPOUT, 1.0, 1.0), *entries)})
        return main(["run", "--only", "pendulum", *["--smoke"] * smoke])

    assert status(ours, peer) == 0  # the bar is missed, and an answer too
    assert status(ours, entry("rejax")) == status(entry("rlscan"), entry("rejax")) == 1
    assert status(ours, entry("rejax"), smoke=True) == 0
    assert status(entry("rlscan"), peer, smoke=True) == 1


def test_figures_are_kept_under_a_name(monkeypatch, tmp_path):
    ran = {e.name: e for e in (entry("rlscan", 1.0), entry(steady.WITH_DROPOUT, 1.0))}
    monkeypatch.setattr(command, "contest", lambda *args, **kwargs: ran)
    monkeypatch.setattr("benchmarks.peers.steady.contestants", lambda *args: [])
    monkeypatch.setattr(command, "RESULTS", tmp_path)
    assert main(["run", "--only", "pendulum", "--smoke", "--keep", "one"]) == 0
    kept = _results.read(tmp_path)["one"]
    assert kept["benchmark"] == "peers" and kept["settings"]["smoke"] and kept["cpu"]
    assert kept["figures"]["pendulum"]["entries"][0]["runs"] == ran["rlscan"].runs


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["rn"], "unknown command 'rn', did you mean run?"),
        (["run", "--only", "breakut"], "unknown workload 'breakut', did you mean breakout?"),
        (["--peers", "lerx"], "unknown peer 'lerx', did you mean lerax"),
        (["build", "rejx"], "unknown peer 'rejx', did you mean rejax"),
        (["run", "--repeats", "2"], "--repeats must be 5 or more, got 2"),
        (["run", "--purejaxrl", "."], "there is no purejaxrl/ppo.py in ."),
        (["run", "--json", "{here}/taken.json"], "is there already; give another name"),
        (["run", "--json", "{here}/no/figures.json"], "there is no folder"),
        (["run", "--keep", "cartpole-4"], "has cartpole-4 already; give another name"),
    ],
)
def test_refusals(arguments, message, tmp_path: Path, capsys):
    (tmp_path / "taken.json").touch()
    with pytest.raises(SystemExit, match="2"):
        main([argument.format(here=tmp_path) for argument in arguments])
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
