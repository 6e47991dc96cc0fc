"""Tests that what the README shows is what happens."""

import re
from pathlib import Path

import pytest

import rlscan
from rlscan.runs._parse import parse

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
PYTHON = re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
SHELL = re.findall(r"^```sh\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


@pytest.mark.slow(cases="all")
@pytest.mark.parametrize("block", PYTHON, ids=lambda block: block.strip().splitlines()[-1][:40])
def test_python_blocks_run(block, capsys):
    names = {}
    exec(compile(block, "README.md", "exec"), names)
    if "log_prob" in names:  # the block replays a trajectory
        assert abs(names["log_prob"] - names["trajectory"].log_prob).max() < 1e-5
    printed = capsys.readouterr().out
    for shape in re.findall(r"print\(.*shape\)  # (\([\d, ]+\))", block):
        assert shape in printed


def test_the_rollout_takes_at_most_15_lines():
    block = next(block for block in PYTHON if "rlscan.rollout" in block)
    assert len(block.strip().splitlines()) <= 15


def test_the_training_commands_parse(monkeypatch):
    monkeypatch.chdir(ROOT)
    commands = [line for block in SHELL for line in block.splitlines() if "train.py" in line]
    assert len(commands) == 2
    plain, overridden = [parse(c.partition("train.py")[2].split()) for c in commands]
    assert plain.env.name == overridden.env.name == "CartPole-v1"
    assert overridden.ppo.learning_rate == 5e-4
    assert (overridden.policy.init_args["dropout"], overridden.seed) == (0.25, 3)


def test_files_that_the_readme_names_exist():
    links = re.findall(r"\]\((?!https:|#)([^)]+)\)", README)
    names = re.findall(r"`((?:rlscan|scripts|configs|benchmarks)/[\w/.]+)", README)
    assert len(links) > 5 and len(names) > 5
    assert [file for file in (*links, *names) if not (ROOT / file).exists()] == []


def test_every_public_name_has_a_docstring():
    public = [name for name in vars(rlscan) if not name.startswith("_")]
    undocumented = [
        name
        for name in public
        if callable(getattr(rlscan, name)) and not getattr(rlscan, name).__doc__
    ]
    assert not undocumented
