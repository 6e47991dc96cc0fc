"""Tests that what the README and the documentation show is what happens."""

import ast
import inspect
import json
import re
import subprocess
import types
from pathlib import Path

import pytest
import yaml

import rlscan
from benchmarks.pages import render
from benchmarks.peers import libraries as peers
from benchmarks.peers.environments import is_built
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
PEERS = {  # what another library's code would be; a block of ours has no title
    page: match
    for page, text in PAGES.items()
    for match in re.findall(r'^```python title="(.+)"\n(.*?)^```', text, re.MULTILINE | re.DOTALL)
}
COMMANDS = [
    line for text in PAGES.values() for block in blocks("sh", text) for line in block.splitlines()
]


@pytest.mark.slow(cases="all")
@pytest.mark.parametrize("name", PYTHON)
def test_python_blocks_run(name, capsys):
    block, names = PYTHON[name], {}
    for suite in re.findall(r'rlscan\.make\("(\w+):', block):
        pytest.importorskip(suite)  # an extra that the environment of the tests may lack
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


@pytest.mark.parametrize("page", PEERS)
def test_blocks_of_other_libraries_parse_and_stand_beside_ours(page):
    _, block = PEERS[page]
    compile(block, page, "exec")
    assert max(map(len, block.splitlines())) <= 100
    assert any(name.startswith(page) for name in PYTHON)


def test_each_library_has_a_page():
    folder = ROOT / "docs" / "coming_from"
    pages = {file.relative_to(ROOT).as_posix() for file in folder.glob("*.md")}
    assert PEERS.keys() == pages - {"docs/coming_from/index.md"} and len(PEERS) == 5


def test_each_extension_point_links_to_an_example():
    bullets = re.split(r"^- ", PAGES["docs/extending.md"].partition("\n## ")[0], flags=re.MULTILINE)
    assert len(bullets) > 20 and all("](" in bullet for bullet in bullets[1:])


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.parametrize("page", PEERS)
def test_blocks_of_other_libraries_run(page, tmp_path):
    """Where the benchmark of the peers has built an environment for the library."""
    title, block = PEERS[page]
    library = peers.PEERS.get(title.lower())
    if library is None or not is_built(library) or library.needs_checkout:
        pytest.skip(f"{title} is not installed by `python -m benchmarks.peers build`")
    subprocess.run([library.interpreter, "-c", block], cwd=tmp_path, check=True)


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


@pytest.mark.parametrize("room", ROOMS)
def test_every_field_of_a_public_class_is_documented(room):
    """The pages of the API show the string after a field, and a field without one is bare."""
    bare = []
    for name, value in vars(ROOMS[room]).items():
        is_class = inspect.isclass(value) and value.__module__.startswith("rlscan")
        if name.startswith("_") or not is_class or value.__name__ != name:
            continue
        source = ast.parse(inspect.getsource(inspect.getmodule(value)))  # type: ignore[arg-type]
        (found,) = (x for x in source.body if isinstance(x, ast.ClassDef) and x.name == name)
        for field, after in zip(found.body, [*found.body[1:], None], strict=True):
            match field, after:
                case ast.AnnAssign(), ast.Expr(value=ast.Constant(value=str())):
                    pass
                case ast.AnnAssign(target=ast.Name(id=field_name)), _ if field_name[0] != "_":
                    bare.append(f"{name}.{field_name}")
    assert not bare, f"write a string after each of these fields: {', '.join(bare)}"


def test_the_api_shows_the_default_of_a_field():
    griffe = pytest.importorskip("griffe")
    from docs.field_defaults import FieldDefaults

    code = """
class A:
    a: int = _shape(4)
    b: float = eqx.field(default=0.5, converter=_number)
    c: bool = eqx.field(static=True)
    d: list = dataclasses.field(default_factory=list)
    e: int = 3
    f: B

    def __init__(self, f):
        self.f = B(f)
"""
    extensions = griffe.load_extensions(FieldDefaults())
    with griffe.temporary_visited_module(code, extensions=extensions) as module:
        shown = {name: field.value for name, field in module["A"].attributes.items()}
    assert shown == {"a": "4", "b": "0.5", "c": None, "d": "list()", "e": "3", "f": None}


# A results page may name settings: sizes, seeds, rates. Whatever was measured comes from a file.
SETTINGS = re.compile(
    r"\b(N|T|p|γ|λ) = [\d.]+|\bn = \d+|\b2 × 64\b|\bdropout 0\.1\b|\b95 %|\b64 units\b|\bto 64\b"
    r"|dieharder 3\.31\.1|SP 800-22|\b10[⁰-⁹]+|\bfrom (0|1000) on\b|numbered from 0|begins at 1\b"
    r"|\b0 or 1\b|\bbelow 1\b|\binclude 1\b|\(k3\)|\bk3\b|Stable-Baselines3|mix32"
)
NO_TEXT = re.compile(
    r"\A---.*?^---$|^```.*?^```$|\{\{.*?\}\}|`[^`]*`|\]\([^)]*\)", re.MULTILINE | re.DOTALL
)


def typed_figures(text: str) -> list[str]:
    """The numbers that a page states by itself."""
    left = SETTINGS.sub("", NO_TEXT.sub("", text))
    return re.findall(r"[^\s|(\[]*\d[^\s|)\]]*", left)


RESULTS = [page for page in PAGES if page.startswith("docs/results/")]


@pytest.mark.parametrize("page", RESULTS)
def test_no_figure_of_a_results_page_is_typed(page):
    assert not typed_figures(PAGES[page]), "take figures from the results that are kept"


def test_typed_figures_are_found():
    text = "`python 3` at N = 4 gave {{ suite.speed(4) }}, [1.5](2.md) times as much, or 12 %"
    assert typed_figures(text) == ["1.5", "12"]
    assert typed_figures("| a | 0.98 |\n") == ["0.98"]


@pytest.mark.slow  # and `.ci/run` builds the documentation, with each of these pages
@pytest.mark.parametrize("page", [p for p in PAGES if p.startswith("docs/") and "{{" in PAGES[p]])
def test_figures_of_a_page_are_filled_in(page):
    pytest.importorskip("jinja2")
    text = render(PAGES[page])
    assert "{{" not in text and "None" not in text and not re.search(r"\bnan\b", text)


def test_a_figure_that_is_not_kept_is_refused():
    jinja2 = pytest.importorskip("jinja2")
    with pytest.raises(LookupError, match="no ratio of 'rollout' over 'update'"):
        render('{{ suite.ratio("rollout", "rollout", "update", "N = 4") }}')
    with pytest.raises(jinja2.UndefinedError):
        render("{{ suite.no_such_figure() }}")


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
        row.split("|")[2].strip()
        for row in README.read_text().splitlines()
        if row.startswith("|") and "benchmarks" in row
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
