"""The command line, and the runs it starts."""

import csv
import errno
import json
import math
import os
import pty
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest
from fakes import fake_update

import rlscan
from rlscan._cli.main import main
from rlscan._cli.train import _stop_signals
from rlscan.ppo import _algorithm, _pace
from rlscan.runs._build import build_policy
from rlscan.runs._metrics_files import COLUMNS, MetricsFiles
from rlscan.runs._parse import parse
from rlscan.runs._progress import Progress, format_seconds

REPOSITORY = Path(__file__).parents[2]
SMALL = ["--ppo.num-envs", "2", "--ppo.num-steps", "16", "--policy.hidden-sizes", "[8]"]
NUM_UPDATES = 16
OVERRIDES = ["--ppo.learning-rate", "1e-3", "--policy.dropout", "0.25", "--seed", "3"]
FOUR_UPDATES = [*SMALL, "--total-steps", str(4 * 2 * 16)]


def files_in(directory: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in directory.rglob("*") if p.is_file()}


def rows_of(directory: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((directory / "metrics.csv").read_text().splitlines()))


# Tests without training.


@pytest.mark.slow
def test_nothing_heavy_is_imported_for_help_and_errors(tmp_path: Path):
    program = """
import contextlib, sys
from rlscan._cli.main import main
for argv in (["--help"], ["--version"], ["train", "--help"], ["train", "--print_config"]):
    with contextlib.suppress(SystemExit):
        main(argv)
for argv in (["--env.name", "Cart"], ["--seed", "x"], ["--ppo.num_minibatches", "3"]):
    assert main(["train", *argv]) == 2
heavy = {"gymnax", "distrax", "matplotlib", "tensorflow_probability", "pandas"} & set(sys.modules)
assert not heavy, heavy
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, cwd=tmp_path)
    assert result.returncode == 0, result.stderr.decode()
    assert result.stderr.count(b"\n") == 3
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("argv", [[], ["trian"], ["--unknown"]])
def test_no_such_command(argv: list[str], capsys: pytest.CaptureFixture):
    with pytest.raises(SystemExit) as exit:
        main(argv)
    assert exit.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    "options, message",
    [
        ("--ppo.learning-rat 1e-3", "did you mean ppo.learning_rate"),
        ("--config nowhere.yaml", "no config file nowhere.yaml"),
        ("--env.params.gravty 3", "CartPole-v1 has no parameter 'gravty', did you mean gravity?"),
        (
            "--env.params.gravity heavy",
            "gravity of CartPole-v1 must be a number, such as 9.8, got 'heavy'",
        ),
        (
            "--env.params.max_steps_in_episode 0",
            "env.params: max_steps_in_episode of CartPole-v1 must be a positive whole number",
        ),
        ("--policy.activation one_hot", "one_hot"),
        ("--output file", "output file must be a directory, but file is a file"),
        ("--output file/run", "output file/run must be a directory, but file is a file"),
        ("--output old", "output old holds another run (its config.yaml); choose another --output"),
        ("--output old2", "output old2 holds another run (its metrics.csv)"),
        ("--output /proc/run", "output /proc/run cannot be written"),
        ("--output dangling", "must be a directory, but dangling is a broken link"),
    ],
)
def test_bad_input_gives_one_line_and_writes_nothing(
    options: str,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("mine")
    for name in ("old/config.yaml", "old2/metrics.csv"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text("mine")
    (tmp_path / "dangling").symlink_to("/nowhere/at/all")
    before = sorted(tmp_path.rglob("*")), files_in(tmp_path)
    assert main(["train", *FOUR_UPDATES, *options.split()]) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1 and captured.err.startswith("error: ")
    assert message in captured.err
    assert captured.out == ""
    assert (sorted(tmp_path.rglob("*")), files_in(tmp_path)) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_directory_that_is_not_writable(tmp_path: Path, capsys: pytest.CaptureFixture):
    tmp_path.chmod(0o500)
    assert main(["train", "--output", str(tmp_path / "run")]) == 2
    assert "is not writable" in capsys.readouterr().err


@pytest.mark.slow
def test_of_two_runs_that_start_together_one_gets_the_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    # Both check before either writes, so a check alone must not be the only guard.
    monkeypatch.setattr("rlscan.runs._train.check_output", lambda output: None)
    monkeypatch.setattr("rlscan.runs._directory.check_output", lambda output: None)
    (tmp_path / "config.yaml").write_text("the other's")
    assert main(["train", *FOUR_UPDATES, "--output", str(tmp_path)]) == 2
    assert "holds another run" in capsys.readouterr().err
    assert (tmp_path / "config.yaml").read_text() == "the other's"


@pytest.mark.parametrize("argv", [["--help"], ["train", "--print_config"], ["plot", "--help"]])
@pytest.mark.parametrize("status, stdout", [(141, "pipe"), (1, "/dev/full")])
def test_output_that_nobody_takes(
    argv: list[str], status: int, stdout: str, monkeypatch: pytest.MonkeyPatch, capfd
):
    """`rlscan … | head` ends quietly; a full disk is named."""
    reader, writer = os.pipe()
    os.close(reader)
    target = writer if stdout == "pipe" else os.open(stdout, os.O_WRONLY)
    with os.fdopen(target, "w") as closed:
        monkeypatch.setattr(sys, "stdout", closed)
        assert main(argv) == status
        monkeypatch.undo()
    expected = "error: cannot write standard output: No space left on device; make room there, or "
    assert capfd.readouterr().err == ("" if stdout == "pipe" else expected + "write elsewhere\n")


def test_escape_codes_do_not_reach_the_terminal(capsys: pytest.CaptureFixture):
    assert main(["train", "--seed", "\x1b[31m\x07"]) == 2
    assert r"got \x1b[31m\x07" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["\x1b[2J"])
    assert "\x1b" not in capsys.readouterr().err
    Progress(1).say("\x1b[2J")
    assert capsys.readouterr().out == "\\x1b[2J\n"


def test_a_second_ctrl_c_raises_once_and_again_if_it_was_lost():
    with _stop_signals() as received:
        os.kill(os.getpid(), INT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), INT)
        for _ in range(20):  # what is saved meanwhile is saved
            os.kill(os.getpid(), INT)
        sys.unraisablehook(_lost(KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), INT)
        assert received[0] == INT


def _lost(error: BaseException) -> Any:
    """What Python reports of an exception in a callback, such as the garbage collector's."""
    return SimpleNamespace(
        exc_type=type(error), exc_value=error, exc_traceback=None, err_msg=None, object=None
    )


def test_only_an_interrupt_is_lost_silently(monkeypatch: pytest.MonkeyPatch):
    seen: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", seen.append)
    with _stop_signals():
        sys.unraisablehook(_lost(KeyboardInterrupt()))
        sys.unraisablehook(_lost(ValueError()))
    assert [lost.exc_type for lost in seen] == [ValueError]


# A real run, started as a user does, and its files.


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a process, with a compile cache to save the second compilation."""
    cache = {
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path_factory.mktemp("cache")),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    return {**os.environ, **cache, "TERM": "xterm", "COLUMNS": "100"}


def train_argv(output: Path, num_updates: int) -> list[str]:
    script = str(REPOSITORY / "scripts" / "train.py")
    config = ["--config", str(REPOSITORY / "configs" / "cartpole.yaml")]
    sizes = [*SMALL, "--total-steps", str(num_updates * 2 * 16), "--output", str(output)]
    return [sys.executable, script, *config, *sizes, *OVERRIDES]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, environment: dict[str, str]):
    """`(directory, stdout)` of a finished run of `scripts/train.py`."""
    directory = tmp_path_factory.mktemp("runs") / "new" / "run"
    argv = train_argv(directory, NUM_UPDATES)
    result = subprocess.run(argv, capture_output=True, text=True, env=environment)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    return directory, result.stdout


def test_overrides_reach_the_config_of_the_run(finished: tuple[Path, str]):
    directory, _ = finished
    config = parse(["--config", str(directory / "config.yaml")])
    assert (config.ppo.learning_rate, config.policy.init_args["dropout"], config.seed) == (
        1e-3,
        0.25,
        3,
    )
    assert (config.policy.init_args["hidden_sizes"], config.total_steps) == ([8], NUM_UPDATES * 32)


def test_a_row_for_every_update_in_both_files(finished: tuple[Path, str]):
    directory, _ = finished
    rows = rows_of(directory)
    assert list(rows[0]) == list(COLUMNS)
    assert {"update", "step", "episode_return", *rlscan.ppo.METRICS} <= set(COLUMNS)
    assert [int(row["update"]) for row in rows] == list(range(1, NUM_UPDATES + 1))
    assert [int(row["step"]) for row in rows] == [32 * u for u in range(1, NUM_UPDATES + 1)]
    seconds = [float(row["seconds"]) for row in rows]
    assert seconds == sorted(seconds) and seconds[0] > 0
    as_json = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    for row, other in zip(rows, as_json, strict=True):
        for name, text in row.items():
            value = math.nan if other[name] is None else other[name]
            assert float(text) == value or math.isnan(float(text)) and math.isnan(value)


@pytest.mark.slow
def test_the_run_trains_the_same_policy_as_the_documented_loop(finished: tuple[Path, str]):
    directory, _ = finished
    config = parse(["--config", str(directory / "config.yaml")])
    env = rlscan.make(str(config.env.name))
    policy_key, train_key = jax.random.split(rlscan.key(config.seed))
    policy = build_policy(config, env, key=policy_key)
    updates = rlscan.train(
        policy, env, config.ppo, total_steps=config.total_steps, key=train_key, updates_per_call=16
    )
    *_, (state, _) = updates
    loaded = rlscan.load_policy(directory, inference=False)
    assert jax.tree.structure(loaded) == jax.tree.structure(state.policy)
    leaves = [jax.tree.leaves(p) for p in (loaded, state.policy, policy)]
    for ours, theirs, untrained in zip(*leaves, strict=True):
        if eqx.is_array(ours):
            assert jnp.allclose(ours, theirs, rtol=1e-4, atol=1e-5)
            assert not jnp.allclose(ours, untrained, rtol=1e-4, atol=1e-5)


def test_without_a_terminal_lines_are_printed(finished: tuple[Path, str]):
    directory, output = finished
    first, compiled, *lines, last = output.splitlines()
    assert first.startswith("CartPole-v1, ActorCritic, dropout 0.25: 16 updates of 32 ")
    assert compiled.startswith("compiled in ")
    assert lines[-1].startswith("100%  update 16/16  ") and "steps/s  return " in lines[-1]
    assert last.startswith("512 steps in ") and last.endswith(f" in the last tenth: {directory}")
    assert "\x1b" not in output


def test_a_second_run_there_is_refused_and_the_first_is_untouched(
    finished: tuple[Path, str], capsys: pytest.CaptureFixture
):
    directory, _ = finished
    before = files_in(directory)
    assert main(["train", *FOUR_UPDATES, "--output", str(directory)]) == 2
    assert "holds another run" in capsys.readouterr().err
    assert files_in(directory) == before and before


@pytest.mark.slow
def test_ctrl_c_keeps_what_was_learned(
    finished: tuple[Path, str], tmp_path: Path, environment: dict[str, str]
):
    """The run has a terminal and shows a bar. `finished` has compiled its program."""
    directory = tmp_path / "run"
    terminal, inside = pty.openpty()
    argv = train_argv(directory, 16 * 1_000_000)
    with subprocess.Popen(
        argv, stdout=inside, stderr=subprocess.PIPE, env=environment, start_new_session=True
    ) as process:
        os.close(inside)
        screen = b""
        while b"return" not in screen:  # the first updates are done
            screen += os.read(terminal, 4096)
        process.send_signal(2)
        screen += read_to_end(terminal)
        os.close(terminal)
        assert process.stderr is not None
        assert process.stderr.read() == b""
    assert process.returncode == 130
    shown = screen.decode()
    assert "━" in shown and "steps/s" in shown and "update 0/16,000,000" in shown
    last = shown.strip().splitlines()[-1]
    num_updates = len(rows_of(directory))
    assert f"stopped after {num_updates:,} of 16,000,000 updates" in last
    assert num_updates == len((directory / "metrics.jsonl").read_text().splitlines()) > 0
    last = f"update-{num_updates:010}.ckpt"
    assert set(os.listdir(directory / "checkpoints")) - {"best.ckpt"} == {last}
    trained = jax.tree.leaves(rlscan.load_policy(directory))
    assert not jnp.array_equal(trained[0], jax.tree.leaves(rlscan.load_policy(finished[0]))[0])


def read_to_end(terminal: int) -> bytes:
    """Read the rest of a terminal that its program has closed, or is about to close."""
    content = b""
    while True:
        try:
            content += os.read(terminal, 4096)
        except OSError:  # EIO: no process has it open any more
            return content


# The loop with updates that cost nothing.


def test_rows_over_several_updates_weigh_all_episodes_equally(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(_algorithm, "update", fake_update)
    argv = [*SMALL, "--total-steps", str(8 * 32), "--log-interval", "3"]
    assert main(["train", *argv, "--output", str(tmp_path / "run")]) == 0
    rows = rows_of(tmp_path / "run")
    assert [int(row["update"]) for row in rows] == [3, 6, 8]  # the last update is always logged
    # 1 × 10 + 2 × 20, 1 × 40 + 2 × 50, 1 × 70 + 2 × 80.
    assert [float(row["episode_return"]) for row in rows] == pytest.approx(
        [50 / 3, 140 / 3, 230 / 3]
    )
    assert [float(row["episode_length"]) for row in rows] == pytest.approx([5 / 3, 14 / 3, 23 / 3])
    assert [float(row["num_episodes"]) for row in rows] == [3, 3, 3]
    # The learning rate is that of the row's own update.
    assert [float(row["learning_rate"]) for row in rows] == [3, 6, 8]


def test_no_episode_is_nan_in_csv_and_null_in_jsonl(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(_algorithm, "update", fake_update)
    argv = [*SMALL, "--total-steps", str(3 * 32), "--output", str(tmp_path / "run")]
    assert main(["train", *argv]) == 0
    assert rows_of(tmp_path / "run")[2]["episode_return"] == "nan"
    third = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[2]
    assert '"episode_return": null' in third and "NaN" not in third


def test_without_output_a_run_goes_to_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(_algorithm, "update", fake_update)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text("seed: 5\n")
    assert main(["train", "--config", "mine.yaml", *FOUR_UPDATES]) == 0
    (run,) = (tmp_path / "runs").iterdir()
    assert run.name.startswith("mine-5-20")


@pytest.mark.slow
def test_the_saved_policy_is_that_of_the_last_update(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(_algorithm, "update", fake_update)
    argv = [*FOUR_UPDATES, "--output", str(tmp_path / "run")]
    assert main(["train", *argv]) == 0
    config = parse(argv)
    policy_key, _ = jax.random.split(rlscan.key(config.seed))
    start = build_policy(config, rlscan.make("CartPole-v1"), key=policy_key)
    expected = eqx.tree_at(lambda p: p.actor.layers[-1].bias, start, jnp.full(2, 4.0))
    assert eqx.tree_equal(rlscan.load_policy(tmp_path / "run", inference=False), expected)


@pytest.mark.slow
def test_a_full_disk_ends_the_run_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    def write(self, rows):
        if rows[-1]["update"] == 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "metrics.csv")
        whole(self, rows)

    whole = MetricsFiles.write
    monkeypatch.setattr(MetricsFiles, "write", write)
    monkeypatch.setattr(_algorithm, "update", fake_update)
    monkeypatch.setattr(_pace, "SECONDS", 0.0)
    assert main(["train", *FOUR_UPDATES, "--output", str(tmp_path / "run")]) == 1
    assert capsys.readouterr().err == (
        "error: cannot write metrics.csv: No space left on device; make room there, or write "
        "elsewhere\n"
    )
    assert len(rows_of(tmp_path / "run")) == 2
    rlscan.load_policy(tmp_path / "run")


@pytest.mark.slow
def test_space_for_the_policy_is_reserved_on_a_full_disk(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    def write(self, rows):
        if rows[0]["update"] == 33:
            fill(small_disk)
        whole(self, rows)

    whole = MetricsFiles.write
    monkeypatch.setattr(MetricsFiles, "write", write)
    monkeypatch.setattr(_algorithm, "update", fake_update)
    monkeypatch.setattr(_pace, "SECONDS", 0.0)
    run = small_disk / "run"
    argv = [*FOUR_UPDATES[:-1], str(64 * 32), "--output", str(run)]
    assert main(["train", *argv]) == 1
    assert f"cannot write {run}/metrics." in capsys.readouterr().err
    num_rows = len(rows_of(run))
    assert 32 <= num_rows < 64  # a partly filled disk block takes more
    assert num_rows == len((run / "metrics.jsonl").read_text().splitlines())
    bias = rlscan.load_policy(run).actor.layers[-1].bias  # pyright: ignore
    assert bias[0] == num_rows  # exactly the updates that are in the metrics


@pytest.mark.slow(cases="all")
@pytest.mark.parametrize("room", [0, 4096, 8192])
def test_a_disk_too_full_to_start_is_left_as_it_was(
    room: int,
    small_disk: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
):
    """The disk has space for none of the files, only the first, or the first two."""
    monkeypatch.setattr(_algorithm, "update", fake_update)
    filler = fill(small_disk)
    os.truncate(filler, filler.stat().st_size - room)
    argv = ["train", *FOUR_UPDATES, "--output", str(small_disk / "new" / "run")]
    assert main(argv) in (1, 2)
    assert "No space left on device" in capsys.readouterr().err
    assert os.listdir(small_disk) == [filler.name]
    filler.unlink()
    assert main(argv) == 0


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A separate file system of 128 kB in blocks of 4 kB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", str(disk)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("only root may mount a file system")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)  # even if a test left a file open


def fill(disk: Path) -> Path:
    with pytest.raises(OSError, match="No space left"), open(disk / "filler", "wb", 0) as filler:
        while filler.write(bytes(4096)):
            pass
    return disk / "filler"


@pytest.mark.slow
def test_a_full_stdout_is_named_and_leaves_nothing(tmp_path: Path, capsys: pytest.CaptureFixture):
    terminal = sys.stdout
    try:
        with open("/dev/full", "w") as sys.stdout:
            status = main(["train", *FOUR_UPDATES, "--output", str(tmp_path / "new" / "run")])
            sys.stdout.flush()  # as Python does on exit
    finally:
        sys.stdout = terminal
    assert status == 1
    assert "cannot write standard output: No space left on device" in capsys.readouterr().err
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("file", ["metrics.csv", "metrics.jsonl"])
def test_a_line_that_does_not_fit_is_not_written_at_all(file: str, tmp_path: Path):
    files = MetricsFiles(tmp_path)
    row = dict.fromkeys(COLUMNS, 1.0)
    files.write([row])
    before = files_in(tmp_path)
    size = (tmp_path / file).stat().st_size
    assert (tmp_path / "metrics.jsonl").stat().st_size > (tmp_path / "metrics.csv").stat().st_size
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 10, hard))  # space for ten more bytes
    try:
        with pytest.raises(OSError, match=file):
            files.write([row])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert files_in(tmp_path) == before
    files.write([row])
    assert len(rows_of(tmp_path)) == 2
    files.close()


def stop_at(event: str, numbers: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Send real signals to this process when a function of the run is called."""

    def hook(*args: Any, **kwargs: Any) -> Any:
        for number in numbers:
            os.kill(os.getpid(), number)
        return original(*args, **kwargs)

    owner, name = {"prepare": (_algorithm, "init_train"), "row": (MetricsFiles, "write")}[event]
    original = getattr(owner, name)
    monkeypatch.setattr(owner, name, hook)
    monkeypatch.setattr(_algorithm, "update", fake_update)


TERM, INT = signal.SIGTERM, signal.SIGINT


@pytest.mark.parametrize("numbers, status", [([TERM, TERM], 143), ([INT], 130)])
def test_a_signal_between_updates_keeps_what_was_learned(
    numbers: list[int], status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    stop_at("row", numbers, monkeypatch)
    before = signal.getsignal(TERM), signal.getsignal(INT)
    try:
        signal.signal(TERM, lambda *_: pytest.fail("SIGTERM was not heard"))
        monkeypatch.setattr(_pace, "SECONDS", 0.0)
        argv = [*FOUR_UPDATES, "--output", str(tmp_path / "run")]
        assert main(["train", *argv]) == status
        assert signal.getsignal(INT) == before[1]
    finally:
        signal.signal(TERM, before[0])
    policy: Any = rlscan.load_policy(tmp_path / "run")
    assert policy.actor.layers[-1].bias[0] == 1


def test_a_signal_before_the_first_update_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    stop_at("prepare", [TERM], monkeypatch)
    before = signal.signal(TERM, lambda *_: None)
    try:
        assert main(["train", *FOUR_UPDATES, "--output", str(tmp_path / "new" / "run")]) == 143
    finally:
        signal.signal(TERM, before)
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "error: interrupted\n")
    assert os.listdir(tmp_path) == []


@pytest.mark.exhaustive
@pytest.mark.slow
def test_garbage_collection_is_rare_before_a_run_and_absent_at_exit(
    tmp_path: Path,
):
    """A collection traverses everything that was traced and imported."""
    program = f"""
import atexit, gc
searches = []
atexit.register(lambda: print(len(searches), gc.get_freeze_count() > 100_000))
from rlscan._cli.main import main
before = gc.get_threshold()
gc.callbacks.append(lambda phase, _: searches.append(phase))
status = main(["train", *{FOUR_UPDATES}, "--output", {str(tmp_path / "run")!r}])
print(status, gc.get_threshold() == before)
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    *_, ended, left = result.stdout.splitlines()
    assert ended == "0 True", result.stderr
    searches, is_frozen = left.split()
    assert is_frozen == "True"
    assert int(searches) < 40  # hundreds with Python's threshold


def test_ctrl_c_during_imports(tmp_path: Path):
    """The signal comes in a callback of the garbage collector, which swallows exceptions."""
    (tmp_path / "rlscan").mkdir()
    program = """
import gc, os, time
gc.callbacks.append(lambda *_: os.kill(os.getpid(), 2))
gc.collect()
time.sleep(5)
"""
    (tmp_path / "rlscan" / "__init__.py").write_text(program)
    script = REPOSITORY / "scripts" / "train.py"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    result = subprocess.run([sys.executable, script], capture_output=True, env=environment)
    assert (result.returncode, result.stderr) == (130, b"error: interrupted\n")


@pytest.mark.slow
def test_running_out_of_memory_is_reported_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    init_train = _algorithm.init_train

    def too_large(*args: Any, **kwargs: Any) -> Any:
        state = init_train(*args, **kwargs)
        return eqx.tree_at(lambda s: s.opt_state, state, jnp.zeros(2**46))

    monkeypatch.setattr(_algorithm, "init_train", too_large)
    monkeypatch.setattr(
        _algorithm, "update", fake_update
    )  # it is traced before memory is allocated
    assert main(["train", *FOUR_UPDATES, "--output", str(tmp_path / "run")]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: not enough memory, ") and error.count("\n") == 1
    assert error.endswith("; use smaller ppo.num_envs, ppo.num_steps or policy.hidden_sizes\n")
    assert os.listdir(tmp_path) == []


# The screen.

ROW = {"update": 1, "steps_per_second": 1234.5, "episode_return": math.nan}


@pytest.mark.parametrize("columns", [1, 20, 200])
def test_a_bar_in_a_terminal_of_any_width(columns: int, monkeypatch: pytest.MonkeyPatch):
    terminal, inside = pty.openpty()
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("TERM", "xterm")
    with os.fdopen(inside, "w") as stdout, monkeypatch.context() as context:
        context.setattr(sys, "stdout", stdout)
        progress = Progress(2)
        progress.start()
        progress.update({**ROW, "update": 2})
        progress.stop()
    shown = read_to_end(terminal).decode()  # a single read may not get everything
    os.close(terminal)
    assert "\x1b[" in shown
    assert ("update 2/2" in shown and "1,234 steps/s" in shown) == (columns == 200)


def test_a_reader_who_leaves_does_not_end_the_run(monkeypatch: pytest.MonkeyPatch):
    reader, writer = os.pipe()
    with os.fdopen(writer, "w") as stdout:
        monkeypatch.setattr(sys, "stdout", stdout)
        progress = Progress(100)
        progress.say("heard")
        os.close(reader)
        for update in range(1, 101):
            progress.update({**ROW, "update": update})
        monkeypatch.undo()


def test_about_twenty_lines_per_run(capsys: pytest.CaptureFixture):
    progress = Progress(1000)
    for update in range(1, 1001):
        progress.update({**ROW, "update": update})
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 20
    assert lines[0].startswith("  5%  update 50/1,000  1,234 steps/s  return none")


def test_a_line_at_least_every_thirty_seconds(capsys, monkeypatch: pytest.MonkeyPatch):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    progress = Progress(1_000_000)
    for update in range(1, 61):
        now[0] = float(update)
        progress.update({**ROW, "update": update})
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_times_are_easy_to_read():
    times = [format_seconds(s) for s in (0.04, 8.26, 245.0, 7800.0)]
    assert times == ["0.0 s", "8.3 s", "4:05", "2:10:00"]
