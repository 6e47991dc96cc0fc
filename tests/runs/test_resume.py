"""A stopped or killed run continues as if nothing had happened, tested with real processes."""

import contextlib
import csv
import dataclasses
import json
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from fakes import fake_update

import rlscan
from rlscan._cli.main import main
from rlscan.ppo import _algorithm, _pace
from rlscan.ppo._train import Training
from rlscan.runs import _run
from rlscan.runs._checkpoint import BEST, checkpoint_files, read_checkpoint
from rlscan.runs._log import Log
from rlscan.runs._parse import parse
from rlscan.runs._policy_file import POLICY_FILE
from rlscan.runs._train import _check_resumed

SCRIPT = Path(__file__).parents[2] / "scripts" / "train.py"
SMALL = ["--ppo.num-envs", "2", "--ppo.num-steps", "16", "--policy.hidden-sizes", "[8]"]
# A run with everything that a checkpoint must hold, such as annealed rates and partial rows.
SMALL += ["--policy.dropout-end", "0.5", "--log-interval", "3", "--checkpoint-interval", "0"]
NUM_UPDATES = 1600
CLOCK = ("seconds", "steps_per_second")


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    cache = str(tmp_path_factory.mktemp("cache"))
    return {
        **os.environ,
        "JAX_ENABLE_COMPILATION_CACHE": "true",
        "JAX_COMPILATION_CACHE_DIR": cache,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }


def start(arguments: list[str], environment: dict[str, str]) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, SCRIPT, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )


def new(output: Path, num_updates: int = NUM_UPDATES) -> list[str]:
    return [*SMALL, "--total-steps", str(num_updates * 32), "--output", str(output)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, environment: dict[str, str]) -> Path:
    """A run that is not interrupted."""
    directory = tmp_path_factory.mktemp("whole") / "run"
    process = start(new(directory), environment)
    _, error = process.communicate(timeout=300)
    assert (process.returncode, error) == (0, "")
    return directory


def metrics(directory: Path) -> tuple[list[dict[str, str]], list[dict[str, Any]]]:
    """Read both files, without the columns of the clock."""
    as_csv = list(csv.DictReader((directory / "metrics.csv").read_text().splitlines()))
    as_json = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    for row in (*as_csv, *as_json):
        for name in CLOCK:
            assert float(row.pop(name)) > 0
    return as_csv, as_json


def assert_same_run(directory: Path, whole: Path) -> None:
    assert metrics(directory) == metrics(whole)
    assert (directory / POLICY_FILE).read_bytes() == (whole / POLICY_FILE).read_bytes()
    ours, theirs = (read_checkpoint(checkpoint_files(d)[0]) for d in (directory, whole))
    assert ours.body == theirs.body  # optimiser, keys, environments: every bit of the state
    assert not list(directory.rglob(".*.tmp"))


@pytest.mark.slow
@pytest.mark.parametrize("number, status", [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_stopped_by_a_signal(
    number: int, status: int, whole: Path, tmp_path: Path, environment: dict[str, str]
):
    directory = tmp_path / "run"
    process = start(new(directory), environment)
    assert process.stdout is not None
    for line in process.stdout:
        if "%" in line:
            break
    process.send_signal(number)
    output, error = process.communicate(timeout=300)
    assert (process.returncode, error) == (status, "")
    assert f"of 1,600 updates: {directory}; --resume {directory} continues it" in output
    assert not (directory / POLICY_FILE).exists()
    done = read_checkpoint(checkpoint_files(directory)[0]).header["counts"]["num_updates"]
    assert 0 < done < NUM_UPDATES
    rlscan.load_policy(directory)
    again = start(["--resume", str(directory)], environment)
    output, error = again.communicate(timeout=300)
    assert (again.returncode, error) == (0, "")
    assert f"after the first {done:,}, into" in output
    assert_same_run(directory, whole)


# Fifty take seven minutes; CONTRIBUTING.md has the command.
NUM_KILLS = int(os.environ.get("RLSCAN_NUM_KILLS", "6"))


@pytest.mark.slow
@pytest.mark.exhaustive
def test_killed_at_random_moments(whole: Path, tmp_path: Path, environment: dict[str, str]):
    """New and resumed runs are killed; after four kills a run may finish."""
    rng, num_kills = random.Random(NUM_KILLS), 0
    while num_kills < NUM_KILLS:
        directory = tmp_path / f"after{num_kills}"
        for _ in range(4):
            process = start(again(directory), environment)
            # Sometimes while it starts; mostly while it trains and writes checkpoints.
            if not killed_at_random(process, rng, training=rng.random() < 0.9):
                break
            num_kills += 1
        process = start(again(directory), environment)
        output, error = process.communicate(timeout=300)
        assert (process.returncode, error) == (0, ""), output
        assert_same_run(directory, whole)


def again(directory: Path) -> list[str]:
    """The arguments that continue a run in its current state, or start it."""
    if (directory / "config.yaml").exists():
        return ["--resume", str(directory)]
    shutil.rmtree(directory, ignore_errors=True)  # killed before it wrote anything
    return new(directory)


def killed_at_random(process: subprocess.Popen, rng: random.Random, *, training: bool) -> bool:
    """Kill a process at a random moment. `False` if it finished before that."""
    assert process.stdout is not None
    if training:
        for line in process.stdout:
            if line.startswith("compiled"):
                break
    with contextlib.suppress(subprocess.TimeoutExpired):
        # Nobody reads from here on, but the lines of so small a run fit into the pipe.
        process.wait(rng.expovariate(1 / 0.3) if training else rng.uniform(0, 3))
        output, error = process.communicate()
        assert (process.returncode, error) == (0, ""), output
        return False
    process.kill()
    process.communicate()
    return process.returncode == -signal.SIGKILL


# The tests below run in this process, which saves loading compiled programs.


@contextlib.contextmanager
def stopped_after(num_updates: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Send SIGTERM to a run in this context when it has written a given update."""
    write = Log.write

    def stop(self: Log, **options: Any) -> Any:
        counts = write(self, **options)
        if counts.num_updates == num_updates:
            os.kill(os.getpid(), signal.SIGTERM)
        return counts

    with monkeypatch.context() as context:
        context.setattr(Log, "write", stop)
        yield


def stopped(directory: Path, after: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Start a run of 8 updates, one per call, that is stopped after some."""
    with stopped_after(after, monkeypatch):
        assert main(["train", *new(directory, 8)]) == 143


def make_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_algorithm, "update", fake_update)
    monkeypatch.setattr(_pace, "SECONDS", 0.0)


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use updates that cost nothing, one per call."""
    make_fast(monkeypatch)


@pytest.fixture(scope="module")
def fast_whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 8 fast updates that is not interrupted."""
    directory = tmp_path_factory.mktemp("fast") / "whole"
    with pytest.MonkeyPatch.context() as context:
        make_fast(context)
        assert main(["train", *new(directory, 8)]) == 0
    return directory


@pytest.fixture(scope="module")
def after_three(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run, stopped after three updates."""
    directory = tmp_path_factory.mktemp("fast") / "run"
    with pytest.MonkeyPatch.context() as context:
        make_fast(context)
        stopped(directory, 3, context)
    return directory


@pytest.fixture
def run(after_three: Path, tmp_path: Path) -> Path:
    """A copy of the stopped run."""
    return Path(shutil.copytree(after_three, tmp_path / "run"))


@pytest.fixture
def finished(fast_whole: Path, tmp_path: Path) -> Path:
    """A copy of the uninterrupted run."""
    return Path(shutil.copytree(fast_whole, tmp_path / "run"))


def failing(capsys: pytest.CaptureFixture, *arguments: str, status: int = 2) -> str:
    """Run a command that is refused, and return its one line of error."""
    capsys.readouterr()
    assert main(["train", *arguments]) == status
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1 and captured.err.startswith("error: ")
    return captured.err


def contents(directory: Path) -> dict[Path, bytes]:
    return {f: f.read_bytes() for f in sorted(directory.rglob("*")) if f.is_file()}


@pytest.mark.slow
@pytest.mark.parametrize("after", [1, 5])  # rows cover three updates
def test_the_same_rows_as_without_the_stop(
    after: int, fast: None, tmp_path: Path, fast_whole: Path, monkeypatch
):
    stopped(tmp_path / "run", after, monkeypatch)
    assert main(["train", "--resume", str(tmp_path / "run")]) == 0
    assert_same_run(tmp_path / "run", fast_whole)


@pytest.mark.slow
def test_rows_after_the_checkpoint_are_made_again(fast: None, run: Path, fast_whole: Path):
    for name in ("metrics.csv", "metrics.jsonl"):  # as if the run had been killed later
        with open(run / name, "a") as file:
            file.write((fast_whole / name).read_text().splitlines()[-1] + "\n12")
    assert main(["train", "--resume", str(run)]) == 0
    assert_same_run(run, fast_whole)


@pytest.mark.slow
def test_a_run_killed_before_its_first_checkpoint_starts_again(
    fast: None, finished: Path, fast_whole: Path
):
    shutil.rmtree(finished / "checkpoints")
    assert main(["train", "--resume", str(finished)]) == 0
    assert_same_run(finished, fast_whole)


@pytest.mark.slow
def test_a_run_killed_before_writing_its_policy(finished: Path, fast_whole: Path):
    (finished / POLICY_FILE).unlink()
    (finished / "checkpoints" / BEST).unlink()
    assert main(["train", "--resume", str(finished)]) == 0
    assert_same_run(finished, fast_whole)
    assert rlscan.load_policy(finished / "checkpoints" / BEST) is not None


@pytest.mark.slow
def test_a_run_resumed_from_the_best_and_killed_at_once(
    fast: None, finished: Path, fast_whole: Path, monkeypatch: pytest.MonkeyPatch
):
    """Later checkpoints are already set aside, and the one resumed from must not be lost."""
    best = finished / "checkpoints" / BEST
    checkpoint_files(finished)[-1].replace(best)  # as if its own file had been deleted

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as context:
        context.setattr(Training, "compile", killed)
        assert main(["train", "--resume", str(best)]) == 130
    (going_on,) = checkpoint_files(finished)
    assert going_on.read_bytes() == best.read_bytes()
    assert main(["train", "--resume", str(finished)]) == 0
    assert_same_run(finished, fast_whole)


@pytest.mark.slow
def test_a_finished_run_has_nothing_to_resume(finished: Path, capsys):
    before = contents(finished)
    assert main(["train", "--resume", str(finished)]) == 0
    assert f"{finished} has finished, all 8 updates: nothing to resume" in capsys.readouterr().out
    assert contents(finished) == before


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda content: content[:-1], "is cut short or damaged"),
        (lambda content: b"", "is no checkpoint saved by rlscan"),
        (lambda content: b"PK\x03\x04" + content, "is no checkpoint saved by rlscan"),
        (
            lambda content: content.replace(b'"format_version": 1', b'"format_version": 99', 1),
            "has format 99, saved by rlscan",
        ),
    ],
)
def test_a_bad_checkpoint_and_the_last_good_one_are_named(damage, message: str, run: Path, capsys):
    last, good = checkpoint_files(run)
    last.write_bytes(damage(last.read_bytes()))
    before = contents(run)
    error = failing(capsys, "--resume", str(run))
    assert f"error: {last} {message}" in error
    assert f"the last good one is {good}: --resume {good}" in error
    assert contents(run) == before


@pytest.mark.slow
def test_resuming_from_the_last_good_checkpoint(fast: None, run: Path, fast_whole: Path):
    last, good = checkpoint_files(run)
    last.write_bytes(b"")
    assert main(["train", "--resume", str(good)]) == 0
    assert_same_run(run, fast_whole)
    assert (run / "checkpoints" / f"{last.name}.aside").exists()


def test_no_good_checkpoint_is_left(run: Path, capsys):
    for file in (run / "checkpoints").iterdir():
        file.write_text("{}")
    error = failing(capsys, "--resume", str(run))
    assert "no other one is good; train again in another --output" in error


@pytest.mark.parametrize("path", ["nowhere", "empty", "run/metrics.csv"])
def test_no_run_there(path: str, tmp_path: Path, capsys):
    (tmp_path / "empty").mkdir()
    error = failing(capsys, "--resume", str(tmp_path / path))
    assert f"error: no run at {tmp_path / path}; --resume takes the directory" in error


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--seed", "1"], "--seed cannot be given with --resume: a run goes on as it began; "),
        (["--config=x.yaml"], "--config cannot be given with --resume"),
        (["--ppo.learning-rate", "1"], "what can be are --checkpoint_interval, --keep_checkpo"),
        (["--keep-checkpoints", "0"], "keep_checkpoints must be a positive integer, got 0"),
        (["--checkpoint-interval=-1"], "checkpoint_interval must be 0 or more seconds, or .inf"),
    ],
)
def test_options_that_would_change_the_run_are_refused(
    arguments: list[str], message: str, run: Path, capsys
):
    before = contents(run)
    assert message in failing(capsys, "--resume", str(run), *arguments)
    assert contents(run) == before


@pytest.mark.parametrize(
    "key, name, before, now", [("gamma", "ppo.gamma", 0.99, 0.9), ("seed", "seed", 0, 1)]
)
def test_a_config_that_was_changed(key: str, name: str, before: Any, now: Any, run: Path, capsys):
    config = run / "config.yaml"
    config.write_text(config.read_text().replace(f"{key}: {before}\n", f"{key}: {now}\n"))
    error = failing(capsys, "--resume", str(run))
    assert f"{config} was changed since the run began: {name} was {before} and is {now}" in error


def test_what_is_annealed_keeps_its_horizon_unless_asked(run: Path):
    saved = yaml.safe_load((run / "config.yaml").read_text())["total_steps"]
    longer = parse(["--resume", str(run), "--total-steps", "512"])
    assert (longer.total_steps, longer.schedule_steps) == (512, saved)
    asked = parse(["--resume", str(run), "--total-steps=512", "--schedule-steps=1024"])
    assert (asked.total_steps, asked.schedule_steps) == (512, 1024)
    assert parse(["--resume", str(run)]).schedule_steps is None
    checkpoint = read_checkpoint(checkpoint_files(run)[0])
    for config in (longer, asked):
        _check_resumed(dataclasses.replace(config, output=str(run)), checkpoint)


def test_missing_metrics_are_refused(run: Path, capsys):
    (run / "metrics.jsonl").write_text("")
    error = failing(capsys, "--resume", str(run))
    assert f"{run}/metrics.jsonl has 0 bytes, but" in error


def test_a_run_of_an_rlscan_without_checkpoints(finished: Path, capsys):
    for file in (finished / "checkpoints").glob("*.ckpt"):
        file.unlink()
    error = failing(capsys, "--resume", str(finished))
    assert "has no checkpoint to resume from, only a policy" in error
    rlscan.load_policy(finished)


LONGER = ["--ppo.anneal-learning-rate", "false", "--policy.dropout-end", "null"]


@pytest.mark.slow
def test_a_run_without_annealing_can_be_longer(fast: None, tmp_path: Path, capsys):
    whole, run = tmp_path / "whole", tmp_path / "run"
    assert main(["train", *new(whole, 12), *LONGER]) == 0
    assert main(["train", *new(run, 6), *LONGER]) == 0
    assert main(["train", "--resume", str(run), "--total-steps", str(12 * 32)]) == 0
    assert_same_run(run, whole)
    assert (run / "config.yaml").read_bytes() == (whole / "config.yaml").read_bytes()
    error = failing(capsys, "--resume", str(run), "--total-steps", "64")
    assert "total_steps = 64 is 2 updates, but the run has made 12; use more" in error


@pytest.mark.slow
def test_of_two_processes_one_is_refused(
    run: Path, tmp_path: Path, environment: dict[str, str], capsys
):
    """The second is refused, whether the first is a new run or a resumed one."""
    for directory, arguments in (
        (tmp_path / "new", new(tmp_path / "new", 16_000_000)),
        (run, ["--resume", str(run)]),
    ):
        process = start(arguments, environment)
        assert process.stdout is not None
        process.stdout.readline()  # the run compiles
        process.send_signal(signal.SIGSTOP)
        try:
            error = failing(capsys, "--resume", str(directory))
            assert f"the run in {directory} is under way in another process" in error
            assert "holds another run" in failing(capsys, *new(directory))
        finally:
            process.kill()
            process.communicate()


@pytest.mark.slow
def test_a_disk_that_is_full_for_a_while(
    fast: None,
    tmp_path: Path,
    fast_whole: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
):
    def full(directory: Path, content: bytes, **options: Any) -> None:
        if 2 <= options["num_updates"] <= 5:
            raise OSError(28, "No space left on device", "update.ckpt")
        save(directory, content, **options)

    save = _run.keep_checkpoint
    monkeypatch.setattr(_run, "keep_checkpoint", full)
    capsys.readouterr()
    assert main(["train", *new(tmp_path / "run", 8)]) == 0
    output = capsys.readouterr().out
    assert output.count("warning: no checkpoint, cannot write update.ckpt: No space left") == 1
    assert_same_run(tmp_path / "run", fast_whole)
