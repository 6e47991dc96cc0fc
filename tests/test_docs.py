"""Tests that what the README and the documentation show is what happens."""

import json
import re
import types
from pathlib import Path

import pytest
import yaml

import rlscan
from rlscan.runs._parse import parse

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
PAGES = {
    file.relative_to(ROOT).as_posix(): file.read_text()
    for file in (README, *sorted((ROOT / "docs").rglob("*.md")))
}
ROOMS = {"rlscan": rlscan} | {
    f"rlscan.{name}": room
    for name, room in vars(rlscan).items()
    if name in rlscan.__all__ and isinstance(room, types.ModuleType)
}


def blocks(language: str, text: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


PYTHON = {
    f"{page}:{number}": block
    for page, text in PAGES.items()
    for number, block in enumerate(blocks("python", text))
}
COMMANDS = [
    line for text in PAGES.values() for block in blocks("sh", text) for line in block.splitlines()
]


@pytest.mark.slow(cases="all")
@pytest.mark.parametrize("name", PYTHON)
def test_python_blocks_run(name, capsys):
    block, names = PYTHON[name], {}
    exec(compile(block, name, "exec"), names)
    if "log_prob" in names and "trajectory" in names and "rlscan.replay" in block:
        wrong = "inference_mode" in block
        assert wrong or abs(names["log_prob"] - names["trajectory"].log_prob).max() < 1e-5
    printed = capsys.readouterr().out
    for result in re.findall(r"^ *print\(.*\)  # (\([\d, ]+\)|[\d.]+)(?=$|:)", block, re.MULTILINE):
        assert result in printed


@pytest.mark.parametrize("name", PYTHON)
def test_python_blocks_compile_and_are_formatted(name):
    compile(PYTHON[name], name, "exec")
    assert max(map(len, PYTHON[name].splitlines())) <= 100


def test_the_rollout_takes_at_most_15_lines():
    block = next(block for block in PYTHON.values() if "rlscan.rollout" in block)
    assert len(block.strip().splitlines()) <= 15


def test_the_first_page_is_short():
    assert len(README.read_text().splitlines()) <= 120


def test_the_training_commands_parse(monkeypatch):
    monkeypatch.chdir(ROOT)
    commands = [line for line in COMMANDS if "train.py" in line]
    assert len(commands) == 2
    plain, overridden = [parse(c.partition("train.py")[2].split()) for c in commands]
    assert plain.env.name == overridden.env.name == "CartPole-v1"
    assert overridden.ppo.learning_rate == 5e-4
    assert (overridden.policy.init_args["dropout"], overridden.seed) == (0.25, 3)


TRAIN = [line.partition("rlscan train ")[2] for line in COMMANDS if line.startswith("rlscan train")]


@pytest.mark.parametrize(
    "options", [o for o in TRAIN if "my_module" not in o and "resume" not in o]
)
def test_the_options_of_rlscan_train_are_valid(options, monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.syspath_prepend(ROOT)
    assert parse(options.split()).output


@pytest.mark.parametrize("page", PAGES)
def test_files_that_a_page_names_exist(page):
    here = (ROOT / page).parent
    links = re.findall(r"\]\((?!https:|#)([^)#]+)(?:#[^)]*)?\)", PAGES[page])
    names = re.findall(r"`((?:rlscan|scripts|configs|benchmarks|examples)/[\w/.]+)", PAGES[page])
    names += re.findall(r'^--8<-- "(.+)"$', PAGES[page], re.MULTILINE)
    assert [link for link in links if not (here / link).is_file()] == []
    assert [file for file in names if not (ROOT / file).exists()] == []


@pytest.mark.parametrize("room", ROOMS)
def test_every_public_name_is_in_the_api(room):
    page = ROOT / "docs" / "api" / f"{room.removeprefix('rlscan.')}.md"
    shown = re.findall(rf"^::: {re.escape(room)}\.(\w+)$", page.read_text(), re.MULTILINE)
    module = ROOMS[room]
    public = getattr(module, "__all__", None) or [
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and not isinstance(value, types.ModuleType)
    ]
    rooms = {name.rpartition(".")[2] for name in ROOMS} | {"__version__"}
    assert sorted(shown) == sorted(set(public) - rooms)


def test_the_site_is_built_strictly_and_loads_nothing_from_elsewhere():
    """`.ci/run` builds it. Links and anchors that lead nowhere are warnings, and end the build."""
    config = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    assert config["strict"] and config["theme"]["font"] is False
    validation = config["validation"]
    assert {*validation["links"].values(), *validation["nav"].values()} == {"warn"}
    assert {*validation["links"]} >= {"not_found", "anchors", "unrecognized_links"}
    assert "mkdocs build --strict" in (ROOT / ".ci" / "run").read_text()


def test_the_figures_of_the_first_page_are_those_that_are_kept():
    rows = [
        row.split("|")[2].strip() for row in README.read_text().splitlines() if "benchmarks" in row
    ]
    rows = [row for row in rows if row[:1].isdigit() or row.startswith("at most")]
    read = lambda path: json.loads((ROOT / "benchmarks" / path).read_text())  # noqa: E731
    learning = read("learning/results/results.json").values()
    audit = max(found["figures"]["audit_log_ratio"] for found in learning)
    assert rows[0] == "at most 1e-5" and audit <= 1e-5
    assert sum(len(found["figures"]["seeds"]) for found in learning) == 140
    cartpole = read("learning/results/results.json")["cartpole"]["figures"]
    low, high = cartpole["interval"]
    assert rows[1] == f"{cartpole['iqm']:.1f} [{low:.1f}, {high:.1f}]"
    peers = read("peers/results/results.json")
    fastest = [
        min(
            entry["rlscan_times_faster"][0]
            for entry in peers[name]["figures"][name]["entries"]
            if not entry["name"].startswith("rlscan")
        )
        for name in ("cartpole-4", "cartpole-1024")
    ]
    assert rows[2] == "{:.2f} and {:.2f}".format(*fastest)
    costs = [
        ratio["median"]
        for ratio in read("results/suite.json")["figures"]["rollout"]["ratios"]
        if (ratio["of"], ratio["over"]) == ("rlscan, dropout", "rlscan, no dropout")
    ]
    assert rows[3] == "{:.2f}, {:.2f} and {:.2f}".format(*costs)


def test_every_public_name_has_a_docstring():
    public = [name for name in vars(rlscan) if not name.startswith("_")]
    undocumented = [
        name
        for name in public
        if callable(getattr(rlscan, name)) and not getattr(rlscan, name).__doc__
    ]
    assert not undocumented
