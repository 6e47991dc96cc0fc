"""The model card of a run: `README.md` in its directory."""

import errno
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import yaml
from run_dirs import CONFIG, add_metrics, untrained, with_policy

import rlscan
from rlscan.runs import Run
from rlscan.runs._card import PICTURE_FILE, Card, write_card
from rlscan.runs._config import to_dict

SEEDS = [{"run": i, "seed": 3 + i} for i in range(4)]


def loop(returns: Any) -> Iterator[tuple[Any, dict[str, Any]]]:
    for i, value in enumerate(returns):
        yield jnp.asarray(i), {"episode_return": np.asarray(value)}


def record(directory: Path, returns: Any, num: int | None = None, **settings: Any) -> str:
    """Run a loop whose updates return these, and read the card."""
    settings = {"steps_per_update": 10, "title": "Reach,\ngreedy", **settings}
    with Run(directory, jnp.asarray(0), num_updates=num or len(returns), **settings) as run:
        for _ in run.record(loop(returns[run.num_updates_done :])):
            pass
    return (directory / "README.md").read_text()


def section(card: str, title: str) -> str:
    return card.partition(f"\n## {title}\n\n")[2].partition("\n\n## ")[0]


def test_it_says_what_was_trained_how_well_and_with_what(tmp_path: Path):
    returns = np.arange(5.0)[:, None] + [0, 10, 20, 30]
    card = record(tmp_path / "run", returns, labels=SEEDS, config={"rate": 0.5, "sizes": [4, 5]})
    metadata = yaml.safe_load(card.split("---")[1])
    assert metadata["library_name"] == "rlscan"
    assert "\n# Reach, greedy\n\nTraining: 4 runs of 5 of 5 updates, 200 environment" in card
    (row,) = re.findall(r"^\| run \(4 seeds\) .*$", section(card, "Return"), re.MULTILINE)
    assert row.startswith("| run (4 seeds) | last tenth of training | 19 [") and "| 4 |" in row
    rows = section(card, "Learning curve").splitlines()[2:]
    assert [line.split(" ")[1:4:2] for line in rows] == [
        [str(10 * i), str(14 + i)] for i in range(1, 6)
    ]
    assert yaml.safe_load(section(card, "Settings").split("```")[1].removeprefix("yaml")) == {
        "rate": 0.5,
        "sizes": [4, 5],
    }
    assert f"| rlscan | {rlscan.__version__} |" in section(card, "Versions")
    assert "How to load" not in card and not (tmp_path / "run" / PICTURE_FILE).exists()


def test_each_setting_of_a_sweep_has_its_own_row(tmp_path: Path):
    labels = [{"run": i, "seed": i % 2, "dropout": [0.0, 0.5][i // 2]} for i in range(4)]
    card = record(tmp_path / "run", np.ones((3, 1)) * [0, 2, 4, 6], labels=labels)
    rows = section(card, "Return").splitlines()[4:]
    assert [row.split(" [")[0] for row in rows] == [
        f"| dropout {rate:g} (2 seeds) | last tenth of training | {iqm}"
        for rate, iqm in ((0, 1), (0.5, 5))
    ]
    assert "return: dropout 0.5 (2 seeds)" in section(card, "Learning curve")


def test_the_curve_of_a_long_run_is_a_picture_if_there_is_matplotlib(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    record(tmp_path / "short", np.arange(40.0))
    assert not (tmp_path / "short" / PICTURE_FILE).exists()
    monkeypatch.setattr("rlscan.runs._card._LEAST_SECONDS", 0.0)
    card = record(tmp_path / "run", np.arange(40.0))
    assert f"]({PICTURE_FILE})" in section(card, "Learning curve")
    assert (tmp_path / "run" / PICTURE_FILE).read_bytes().startswith(b"\x89PNG")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    card = record(tmp_path / "without", np.arange(40.0))
    rows = section(card, "Learning curve").splitlines()[2:]
    assert len(rows) == 10 and rows[-1] == "| 400 | 39 |"
    assert not (tmp_path / "without" / PICTURE_FILE).exists()


def test_a_run_that_goes_on_writes_it_again(tmp_path: Path):
    first = record(tmp_path / "run", np.arange(3.0), 5)
    assert "3 of 5 updates" in first and "| 2 |" in section(first, "Return")
    again = record(tmp_path / "run", np.arange(5.0))
    assert "5 of 5 updates" in again and "| 4 |" in section(again, "Return")


@pytest.mark.parametrize("kind", ["file", "link", "bytes"])
def test_a_file_of_the_users_own_is_kept(kind: str, tmp_path: Path):
    own = tmp_path / "run" / "README.md"
    own.parent.mkdir()
    content = b"\xff" if kind == "bytes" else b"Mine."
    (tmp_path / "mine" if kind == "link" else own).write_bytes(content)
    if kind == "link":
        own.symlink_to(tmp_path / "mine")
    with Run(own.parent, jnp.asarray(0), num_updates=12) as run:
        list(run.record(loop(np.arange(12.0))))
    assert own.read_bytes() == content and own.is_symlink() == (kind == "link")
    assert not (own.parent / PICTURE_FILE).exists()


def test_our_own_without_its_mark_is_kept(tmp_path: Path):
    card = record(tmp_path / "run", np.arange(3.0), 5)
    edited = re.sub(r"<!-- Written by rlscan\..*-->\n", "", card)
    (tmp_path / "run" / "README.md").write_text(edited)
    assert record(tmp_path / "run", np.arange(5.0)) == edited


@pytest.mark.parametrize("num_seeds", [1, 2])
def test_its_code_loads_the_policy(num_seeds: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    directory = with_policy(tmp_path / "run", num_seeds=num_seeds)
    labels = [{"run": i, "seed": i} for i in range(num_seeds)]
    rows = [{**label, "update": 1, "step": 10, "episode_return": 1.0} for label in labels]
    add_metrics(directory, rows)
    (directory / "evaluations.csv").write_text("update,step,episode_return\n1,10,3\n2,20,7\n")
    tree = to_dict(CONFIG)
    write_card(directory, Card("CartPole-v1", (1, 1), 10, tree, labels, CONFIG, True, True, 9.0))
    card, names = (directory / "README.md").read_text(), dict[str, Any]()
    if num_seeds == 1:
        assert "| last evaluation | 7 | 7 |" in section(card, "Return")
    monkeypatch.chdir(directory)
    exec(section(card, "How to load the policy").split("```")[1].removeprefix("python"), names)
    assert isinstance(names["policy"], rlscan.policies.ActorCritic)
    assert names["policy"].actor.dropout.inference


def test_a_loop_without_returns_has_none(tmp_path: Path):
    policy = untrained(CONFIG, rlscan.key(0))
    with Run(tmp_path / "run", policy, num_updates=2, policy=lambda state: state) as run:
        list(run.record((policy, {"loss": 0.5}) for _ in range(2)))
    card = (tmp_path / "run" / "README.md").read_text()
    assert re.findall("^## (.*)$", card, re.MULTILINE) == ["How to load the policy", "Versions"]
    assert 'load_policy(".", like=policy)' in card


def test_a_card_that_cannot_be_written_ends_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "README.md")

    monkeypatch.setattr("rlscan.runs._card.write_whole", full)
    with Run(tmp_path / "run", jnp.asarray(0), num_updates=2) as run:
        list(run.record(loop([1.0, 2.0])))
    assert "warning: no model card: [Errno 28] No space left" in capsys.readouterr().out
    assert not (tmp_path / "run" / "README.md").exists()
