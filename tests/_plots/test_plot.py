"""Learning curves: averages, groups, labels and pictures."""

import dataclasses
import math
import subprocess
import sys
import xml.etree.ElementTree
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import run_dirs

import rlscan
from rlscan._cli.main import main
from rlscan.runs._curves import NUM_POINTS, curve
from rlscan.runs._groups import labels, read_groups, read_labels
from rlscan.runs._policy_config import policy_config

REPOSITORY = Path(__file__).parents[2]
RATES = [dataclasses.replace(run_dirs.CONFIG.ppo, learning_rate=x) for x in (1e-3, 1e-4)]


def rows(returns: Sequence[float], **others: Sequence[float]) -> list[dict[str, Any]]:
    columns = {"episode_return": returns, **others}
    values = zip(*columns.values(), strict=True)
    return [
        {"step": 10 * (i + 1), **dict(zip(columns, v, strict=True))} for i, v in enumerate(values)
    ]


def a_group(tmp_path: Path, *runs: list[dict[str, Any]]) -> Any:
    directories = [
        run_dirs.with_metrics(tmp_path / f"run-{i}", run, seed=i) for i, run in enumerate(runs)
    ]
    (group,) = read_groups(directories)
    return group


def test_metrics_are_read_with_and_without_runs(tmp_path: Path):
    alone = run_dirs.with_metrics(tmp_path / "a", rows([1.0, math.nan]), seed=7)
    table = rlscan.runs.read_metrics(alone)
    np.testing.assert_array_equal(table["run"], [0, 0])
    np.testing.assert_array_equal(table["seed"], [7, 7])
    np.testing.assert_array_equal(table["episode_return"], [1, math.nan])
    together = rows([1.0, 2.0], run=[0, 1], seed=[7, 8])
    table = rlscan.runs.read_metrics(run_dirs.with_metrics(tmp_path / "b", together))
    np.testing.assert_array_equal(table["seed"], [7, 8])


def test_loops_of_ones_own_are_read_and_grouped_too(tmp_path: Path):
    """`Run` keeps the settings that it is given, which need not be a config of rlscan, or none."""
    runs = [run_dirs.with_metrics(tmp_path / f"{i}", rows([i])) for i in range(5)]
    for run in runs:
        (run / "config.yaml").unlink()
    for run, settings in zip(
        runs, ("seed: 3\nrate: 1", "seed: 4\nrate: 1", "rate: 2"), strict=False
    ):
        (run / "config.yaml").write_text(settings)
    assert rlscan.runs.read_metrics(runs[0])["seed"].tolist() == [3]
    groups = read_groups(runs)
    assert [len(group.runs) for group in groups] == [2, 1, 1, 1]
    assert len(set(labels(groups))) == 4


def test_a_line_that_is_not_whole_is_left_out(tmp_path: Path):
    run = run_dirs.with_metrics(tmp_path / "a", rows([1.0, 2.0]))
    with open(run / "metrics.csv", "a") as file:
        file.write("3,30,1.")
    assert rlscan.runs.read_metrics(run)["step"].tolist() == [10, 20]
    with open(run / "metrics.csv", "a") as file:
        file.write("\n4\n")
    with pytest.raises(ValueError, match="metrics.csv is not a table of metrics"):
        rlscan.runs.read_metrics(run)


def test_a_quotation_mark_that_is_never_closed_is_refused(tmp_path: Path):
    run = run_dirs.with_metrics(tmp_path / "run", [{"update": 1, "step": 1}])
    with open(run / "metrics.csv", "a") as file:
        file.write('"' + "1," * 2**17 + "\n")
    with pytest.raises(ValueError, match=f"{run}/metrics.csv is not a table of metrics: field la"):
        rlscan.runs.read_metrics(run)


def test_a_run_without_a_row_is_refused(tmp_path: Path):
    """A run without rows is an error even beside others, or it would silently be missing."""
    runs = [run_dirs.with_metrics(tmp_path / name, rows([1.0])) for name in "ab"]
    header = (runs[1] / "metrics.csv").read_text().splitlines(keepends=True)[0]
    (runs[1] / "metrics.csv").write_text(header)
    with pytest.raises(ValueError, match=f"{runs[1]}/metrics.csv has no rows yet; wait"):
        read_groups(runs)


@pytest.mark.parametrize("command", ["plot", "evaluate"])
def test_the_help_has_no_doubled_percent_sign(command: str, capsys: Any):
    """argparse unescapes `%%` in the help of an option, but not in the description."""
    with pytest.raises(SystemExit):
        main([command, "--help"])
    words = " ".join(capsys.readouterr().out.split())  # independent of line breaks
    assert "95 % bootstrap interval" in words


def test_a_seed_that_was_run_again_to_debug_it_is_of_the_same_curve(tmp_path: Path):
    runs = [
        run_dirs.with_metrics(tmp_path / str(debug), rows([1.0]), seed=i, debug=debug)
        for i, debug in enumerate((False, True))
    ]
    assert labels(read_groups(runs)) == ["CartPole-v1 (2 seeds)"]


@pytest.mark.slow
def test_runs_that_differ_in_their_seed_are_one_curve(tmp_path: Path):
    runs = [[1.0, 5.0], [2.0, 6.0], [3.0, 70.0], [40.0, 80.0]]
    group = a_group(tmp_path, *map(rows, runs))
    found = curve(group, "episode_return")
    np.testing.assert_array_equal(found.step, [10, 20])
    np.testing.assert_allclose(found.middle, [2.5, 38])  # without the smallest and the largest
    assert (found.low < found.middle).all() and (found.middle < found.high).all()
    assert labels([group]) == ["CartPole-v1 (4 seeds)"]


def test_a_metric_may_have_the_name_of_a_setting(tmp_path: Path):
    """A config tells its loss, and each row the value of that."""
    assert len(a_group(tmp_path, *(rows([1.0], loss=[x]) for x in (0.5, 0.75))).runs) == 2


@pytest.mark.slow
def test_of_the_audit_it_is_the_worst_run(tmp_path: Path):
    audits = [[0.0, 0.0], [0.0, 0.0], [0.0, 0.5], [0.0, 0.0]]
    group = a_group(tmp_path, *(rows([0.0, 0.0], audit_log_ratio=a) for a in audits))
    found = curve(group, "audit_log_ratio")
    np.testing.assert_array_equal(found.middle, [0, 0.5])
    assert np.isnan(found.low).all()


def test_the_curve_is_interpolated_if_no_episode_ended(tmp_path: Path):
    found = curve(a_group(tmp_path, rows([math.nan, 2.0, math.nan, 4.0])), "episode_return")
    np.testing.assert_array_equal(found.middle, [math.nan, 2, 3, 4])


def test_a_run_that_has_ended_counts_as_long_as_it_lasts(tmp_path: Path):
    found = curve(a_group(tmp_path, rows([1.0, 1.0, 1.0]), rows([3.0])), "episode_return")
    np.testing.assert_array_equal(found.middle, [2, 1, 1])


def test_many_rows_become_few_points_and_no_episode_counts_twice(tmp_path: Path):
    n = 4 * NUM_POINTS
    returns = [float(i) for i in range(n)]
    weights = [1 + i % 3 for i in range(n)]
    audits = [float(i == 5) for i in range(n)]
    run = rows(returns, num_episodes=weights, audit_log_ratio=audits)
    group = a_group(tmp_path, run)
    found = curve(group, "episode_return")
    expected = np.average(np.reshape(returns, (-1, 4)), 1, np.reshape(weights, (-1, 4)))
    np.testing.assert_allclose(found.middle, expected)
    assert found.step[-1] == 10 * n
    np.testing.assert_array_equal(curve(group, "audit_log_ratio").middle[:3], [0, 1, 0])


@pytest.mark.slow
def test_settings_that_differ_are_the_names(tmp_path: Path):
    directories = [
        run_dirs.with_metrics(tmp_path / f"{i}{seed}", rows([1.0]), ppo=ppo, seed=seed)
        for i, ppo in enumerate(RATES)
        for seed in (0, 1)
    ]
    groups = read_groups(directories)
    assert labels(groups) == ["learning_rate 0.001 (2 seeds)", "learning_rate 0.0001 (2 seeds)"]
    # If many settings differ, the label has only as many as it needs.
    other = dataclasses.replace(RATES[0], gamma=0.9, gae_lambda=0.8, num_epochs=1)
    more = run_dirs.with_metrics(tmp_path / "more", rows([1.0]), ppo=other, total_steps=10_000)
    assert (
        labels(read_groups([*directories, more]))[-1]
        == "num_epochs 1, learning_rate 0.001 (1 seed)"
    )


def test_swept_settings_in_one_directory_are_separate_groups(tmp_path: Path):
    rates = {
        "run": [0, 1, 2, 3],
        "seed": [0, 1, 0, 1],
        "ppo.learning_rate": [1e-3, 1e-3, 1e-4, 1e-4],
    }
    together = [{**row, "step": 10} for row in rows([1.0, 2.0, 3.0, 4.0], **rates)]
    groups = read_groups([run_dirs.with_metrics(tmp_path / "sweep", together)])
    assert labels(groups) == ["learning_rate 0.001 (2 seeds)", "learning_rate 0.0001 (2 seeds)"]
    assert [curve(g, "episode_return").middle.tolist() for g in groups] == [[1.5], [3.5]]


def test_smoothing_averages_over_the_episodes_of_the_last_steps(tmp_path: Path):
    returns = [0.0, 4.0, math.nan, 8.0, 1.0]
    episodes = [1, 3, 0, 1, 1]
    run = rows(returns, num_episodes=episodes, audit_kl=[5.0, 0.0, 0.0, 0.0, 0.0])
    ended = rows([0.0, 2.0])
    group = a_group(tmp_path, run, ended)
    found = curve(group, "episode_return", smoothing=20)  # of two rows
    np.testing.assert_allclose(found.middle, [0, (3 + 1) / 2, 4, 8, 4.5])
    np.testing.assert_array_equal(curve(group, "audit_kl", smoothing=20).middle, [5, 0, 0, 0, 0])
    raw = curve(group, "episode_return").middle
    np.testing.assert_array_equal(curve(group, "episode_return", smoothing=10).middle, raw)


@pytest.mark.slow
def test_named_runs_are_a_group_whatever_their_settings(tmp_path: Path):
    directories = [
        run_dirs.with_metrics(tmp_path / f"{i}", rows([1.0]), ppo=ppo, seed=i)
        for i, ppo in enumerate((*RATES, RATES[0]))
    ]
    texts = [f"{directories[0]}=a=b", f"{directories[1]}=a=b"]
    groups = read_groups(directories, names=read_labels(texts, directories))
    assert labels(groups) == ["a=b (2 seeds)", "2 (1 seed)"]  # its directory
    assert groups[0].sources == [(directories[0], 0), (directories[1], 0)]
    names = read_labels([f"{d}=mine" for d in directories], directories)
    assert labels(read_groups(directories, names=names)) == ["mine (3 seeds)"]


@pytest.mark.slow
def test_a_pdf_and_the_audit_on_a_page_of_its_own(tmp_path: Path, monkeypatch: Any, capsys: Any):
    monkeypatch.chdir(tmp_path)
    run_dirs.with_metrics(tmp_path / "run", rows([1.0, 2.0]))
    command = ["plot", "run", "--output", "a.pdf", "--smoothing", "10", "--label", "run=mine"]
    assert main([*command, "--audit", "b.svg"]) == 0
    contents = (tmp_path / "a.pdf").read_bytes(), (tmp_path / "b.svg").read_bytes()
    assert main([*command, "--overwrite"]) == 0
    assert capsys.readouterr().out == "a.pdf\nb.svg\na.pdf\n"
    assert contents[0] == (tmp_path / "a.pdf").read_bytes()  # without a date
    assert contents[0].startswith(b"%PDF")
    audit = contents[1].decode()
    assert all(f"<!-- audit: {name}" in audit for name in ("max |log ratio|", "KL (nats)"))
    assert "<!-- mine (1 seed) -->" in audit and "return" not in audit


@pytest.mark.slow
@pytest.mark.parametrize("key", ["policy.dropout", "arm"])
def test_each_swept_value_is_a_group(key: str, tmp_path: Path):
    """In the file `policy.dropout` is an argument of a class; `arm` is a label of a user's loop."""
    swept = [{**row, "step": 10} for row in rows([1.0, 2.0], run=[0, 1], **{key: [0.0, 0.25]})]
    groups = read_groups([run_dirs.with_metrics(tmp_path / "sweep", swept)])
    name = key.split(".")[-1]
    assert labels(groups) == [f"{name} 0 (1 seed)", f"{name} 0.25 (1 seed)"]
    fixed = policy_config(hidden_sizes=(8,), dropout=0.25)  # as in `run_dirs.CONFIG` else
    alone = run_dirs.with_metrics(tmp_path / "fixed", rows([3.0]), policy=fixed, seed=7)
    if key != "arm":
        assert len(read_groups([tmp_path / "sweep", alone])[1].runs) == 2


@pytest.mark.exhaustive
@pytest.mark.slow
def test_the_pictures(tmp_path: Path):
    """Two runs of two settings, drawn by the script as PNG and by the command as SVG."""
    returns = [20.0, 30.0, math.nan, 90.0]
    for i, ppo in enumerate(RATES):
        for seed in (0, 1):
            one = rows([r + seed for r in returns], audit_log_ratio=[0.0, 1e-7, 0.0, 2e-6])
            run_dirs.with_metrics(tmp_path / f"run-{i}-{seed}", one, ppo=ppo, seed=seed)
    directories = sorted(map(str, tmp_path.glob("run-*")))
    script = [sys.executable, str(REPOSITORY / "scripts" / "plot.py")]
    command = [*script, *directories, "--output", "curves.png"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert (result.returncode, result.stdout, result.stderr) == (0, "curves.png\n", "")
    from PIL import Image

    with Image.open(tmp_path / "curves.png") as image:
        colours = set(image.convert("RGB").get_flattened_data())
        assert image.width > 800
    assert {(0, 0x72, 0xB2), (0xD5, 0x5E, 0)} <= colours  # a line for each setting
    svg = tmp_path / "curves.svg"
    assert main(["plot", *directories, "--output", str(svg), "--metrics", "audit_error,kl_k1"]) == 0
    assert xml.etree.ElementTree.parse(svg).getroot().tag.endswith("svg")
    assert svg.read_bytes().count(b"<!-- learning_rate 0.001 (2 seeds) -->") == 1


@pytest.mark.parametrize(
    "options, message",
    [
        ("nowhere --output a.png", "nowhere has no metrics.csv; give the directory of a run"),
        ("run run --output a.png", "run is given twice"),
        ("run --output a.gif", "--output must end in .png, .svg or .pdf, got a.gif"),
        ("run --output no/a.png", "--output no/a.png is in no directory that exists"),
        ("run --output old.png", "old.png exists already; choose another --output"),
        ("run --output a.png --metrics entropi", "no metric entropi, did you mean entropy?"),
        ("run --output a.png --metrics evaluation/x", "run has no evaluations.csv; train with"),
        ("run --output a.png --audit a.png", "--audit must be another file than --output"),
        ("run --output a.png --audit b.txt", "--audit must end in .png, .svg or .pdf, got b.txt"),
        ("run --output a.png --smoothing 0", "--smoothing must be a positive integer"),
        ("run --output a.png --label run", "--label must be DIR=NAME"),
        ("run --output a.png --label old.png=x", "where DIR is one of the run directories"),
        ("run --output a.png --label run=x --label run=y", "--label names run twice"),
    ],
)
def test_bad_input_ends_in_one_line(
    options: str, message: str, tmp_path: Path, monkeypatch: Any, capsys: Any
):
    monkeypatch.chdir(tmp_path)
    run_dirs.with_metrics(tmp_path / "run", rows([1.0]))
    (tmp_path / "old.png").write_text("mine")
    assert main(["plot", *options.split()]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ") and captured.err.count("\n") == 1
    assert message in captured.err and captured.out == ""
    assert sorted(p.name for p in tmp_path.iterdir()) == ["old.png", "run"]
    assert (tmp_path / "old.png").read_text() == "mine"


@pytest.mark.parametrize("module", ["matplotlib", "PIL"])
def test_without_the_extra_its_name_is_the_error(
    module: str, tmp_path: Path, monkeypatch: Any, capsys: Any
):
    run = run_dirs.with_metrics(tmp_path / "run", rows([1.0]))
    monkeypatch.setitem(sys.modules, module, None)  # as if it were not installed
    assert main(["plot", str(run), "--output", str(tmp_path / "a.png")]) == 2
    captured = capsys.readouterr()
    assert captured.err == f"error: plots need {module}: pip install 'rlscan[plot]'\n"
    assert not (tmp_path / "a.png").exists()
