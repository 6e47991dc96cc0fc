"""A run is computed again, and whatever was changed in what it kept is found."""

import csv
import dataclasses
import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from run_dirs import with_metrics
from signed_files import resigned

from rlscan._cli.main import main
from rlscan.runs._checkpoint import checkpoint_files, read_checkpoint, update_of
from rlscan.runs._verify import Certificate, Difference, Span, plan_spans

NUM_UPDATES = 6


def train(directory: Path, *more: str) -> Path:
    words = ["--env", "CartPole-v1", "--policy.hidden-sizes", "[8]", "--policy.dropout", "0.5"]
    words += ["--ppo.num-steps", "16", "--total-steps", str(NUM_UPDATES * 64), "--seed", "3"]
    words += ["--num-devices", "1", "--checkpoint-interval", "0", "--keep-checkpoints", "9"]
    assert main(["train", *words, *more, "--output", str(directory)]) == 0
    return directory


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run with a checkpoint after every other update: its callback needs the state there."""
    callback = "[{class_path: Snapshot, init_args: {interval: 2}}]"
    return train(tmp_path_factory.mktemp("runs") / "run", "--callbacks", callback)


@pytest.fixture
def run(made, tmp_path):
    return Path(shutil.copytree(made, tmp_path / "run"))


def contents(directory: Path) -> dict[str, str]:
    files = [file for file in directory.rglob("*") if file.is_file()]
    return {str(x): hashlib.sha256(x.read_bytes()).hexdigest() for x in files}


def change(run: Path, update: int, column: str, to: str) -> None:
    file = run / "metrics.csv"
    with open(file) as lines:
        rows = list(csv.DictReader(lines))
    rows[update - 1][column] = to
    with open(file, "w", newline="") as lines:
        table = csv.DictWriter(lines, list(rows[0]), lineterminator="\n")
        table.writeheader()
        table.writerows(rows)


@pytest.mark.slow(cases="all")
@pytest.mark.parametrize("which", [(), ("--updates", "3", "6"), ("--all",)])
def test_a_run_is_the_same_bit_for_bit_and_is_only_read(run, which, capsys, tmp_path):
    before = contents(run)
    file = tmp_path / "certificate.json"
    assert main(["verify", str(run), *which, "--json", str(file)]) == 0
    found = json.loads(file.read_text())
    assert found["holds"] and found["bitwise"] and found["difference"] is None
    assert found["num_rows"] == (NUM_UPDATES if which == ("--all",) else found["num_rows"]) > 0
    assert NUM_UPDATES in found["states"]
    assert "bit for bit" in capsys.readouterr().out
    assert contents(run) == before


@pytest.mark.slow(cases="all")
@pytest.mark.parametrize("update", [1, NUM_UPDATES])  # from the seed, and from a checkpoint
def test_a_changed_number_is_named(run, update, capsys):
    change(run, update, "entropy", "0.5")
    assert main(["verify", str(run), "--updates", str(update)]) == 1
    assert f"entropy of update {update}: kept 0.5, computed 0.6" in capsys.readouterr().out


@pytest.mark.slow
def test_a_state_with_another_parameter_is_named_though_its_checksum_is_right(run, capsys):
    file = checkpoint_files(run)[0]
    assert update_of(file) == NUM_UPDATES
    names = list(read_checkpoint(file).arrays)
    first = names[0]

    def changed(body: bytes) -> bytes:
        return np.float32(7).tobytes() + body[4:]

    resigned(file, file, body=changed)
    assert main(["verify", str(run), "--updates", str(NUM_UPDATES)]) == 1
    assert f"state{first} after update {NUM_UPDATES}: kept 7.0" in capsys.readouterr().out


@pytest.mark.slow
def test_of_several_seeds_the_run_is_named(tmp_path, capsys):
    run = train(tmp_path / "run", "--num-seeds", "2")
    assert main(["verify", str(run)]) == 0
    change(run, 4, "value_loss", "123.0")  # the second row of update 2, so that of run 1
    assert main(["verify", str(run), "--updates", "2"]) == 1
    assert "value_loss of update 2, run 1: kept 123.0" in capsys.readouterr().out


def test_spans_begin_at_the_nearest_earlier_checkpoint(tmp_path):
    run = with_metrics(tmp_path / "run", [{"update": i, "step": 8 * i} for i in range(1, 21)])
    (run / "checkpoints").mkdir()
    for update in (5, 15):
        (run / "checkpoints" / f"update-{update:010d}.ckpt").touch()
    files = {update_of(file): file for file in checkpoint_files(run)}
    assert plan_spans(run, [3, 5, 7, 9, 20]) == [
        Span(0, 5, None),
        Span(5, 9, files[5]),
        Span(15, 20, files[15]),
    ]
    chosen = plan_spans(run, seed=0)
    assert (chosen[0].start, chosen[-1].last) == (0, 20)
    with pytest.raises(ValueError, match="update must be from 1 to 20, the last one kept, got 21"):
        plan_spans(run, [21])


def test_refusals(tmp_path, capsys):
    assert main(["verify", str(tmp_path)]) == 2
    assert "is not a run directory" in capsys.readouterr().err
    assert main(["verify", str(tmp_path), "--json", str(tmp_path / "x.txt")]) == 2
    assert "--json must end in .json" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("size", "changed", "holds"),
    [
        (1e-6, ("jax 0.10.1 → 0.10.2",), True),
        (1e-6, (), False),  # the same software must give the same bits
        (1e-4, ("jax 0.10.1 → 0.10.2",), False),
    ],
)
def test_rounding_is_forgiven_on_other_software_alone(size, changed, holds):
    difference = Difference("entropy of update 3", 0.5, 0.5 + size, size)
    found = Certificate("runs/x", (), 1, 1, (), difference, changed, "rlscan")
    assert found.holds == holds
    assert not found.is_bitwise
    assert ("NOT THE SAME" in str(found)) == (not holds)
    assert dataclasses.replace(found, difference=None).holds
    json.dumps(found.as_dict())
