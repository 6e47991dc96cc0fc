"""`make("SUITE:NAME")`: the table of suites, missing extras, and packages that bring a suite."""

import importlib.metadata
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import probes
import pytest

import rlscan
from rlscan._cli.main import main
from rlscan.envs import environments, suites
from rlscan.envs._make import check_name, float_params
from rlscan.envs._suites._table import SUITES, Suite
from rlscan.runs._build import build_env
from rlscan.runs._config import Config, EnvConfig, check
from rlscan.runs._parse import parse


class FakeSuite(types.ModuleType):
    """The suite of a package: walks of any limit."""

    def names(self) -> list[str]:
        return ["Wander", "Wonder"]

    def make(self, name: str, *, limit: int = 7) -> Any:
        if limit < 1:
            raise RuntimeError("no walk is that short")
        return probes.Wander(limit=limit, time_limit=limit)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> None:
    """A package with two entry points, one of which lacks a function."""
    monkeypatch.setitem(sys.modules, "fake_suite", FakeSuite("fake_suite"))
    points = [
        importlib.metadata.EntryPoint(name, value, "rlscan.environments")
        for name, value in (("fake", "fake_suite"), ("broken", "json"), ("gone", "no_such_module"))
    ]
    found = importlib.metadata.entry_points
    monkeypatch.setattr(
        importlib.metadata,
        "entry_points",
        lambda *, group: points if group == "rlscan.environments" else found(group=group),
    )


def test_gymnax_is_the_default() -> None:
    assert suites()[0] == "gymnax" and environments() == rlscan.envs.ENVIRONMENTS
    named, plain = rlscan.make("gymnax:CartPole-v1"), rlscan.make("CartPole-v1")
    assert named == plain
    assert float_params("gymnax:Pendulum-v1") == float_params("Pendulum-v1") != frozenset()


def test_a_package_brings_a_suite(fake: None) -> None:
    assert suites()[-3:] == ("broken", "fake", "gone")
    assert environments("fake") == ("Wander", "Wonder")
    assert rlscan.make("fake:Wander", limit=3).time_limit == 3  # pyright: ignore
    with pytest.raises(ValueError, match="fake has no environment 'Wandr', did you mean Wander"):
        rlscan.make("fake:Wandr")
    with pytest.raises(ValueError, match="fake:Wander does not take {'limit': 0}, .*that short"):
        rlscan.make("fake:Wander", limit=0)
    with pytest.raises(ValueError, match="json of the suite broken must have the functions names"):
        environments("broken")
    with pytest.raises(ValueError, match="no_such_module of the suite gone does not load, Module"):
        environments("gone")


def test_a_config_names_an_environment_of_a_suite(fake: None) -> None:
    config = parse("--env fake:Wander --env.params.limit 4 --output out".split())
    assert (config.env.name, config.env.params) == ("fake:Wander", {"limit": 4})
    assert build_env(config) == probes.Wander(limit=4, time_limit=4)
    config = Config(env=EnvConfig(name="fake:Wander", params={"limit": 4}))
    check(config)
    for name, told in {
        "fakes:Wander": "env.name: unknown suite 'fakes', did you mean fake",
        "fake:": "env.name: 'fake:' names no environment; `rlscan envs fake` lists them",
        "CartPole": "env.name: unknown environment 'CartPole'",
    }.items():
        with pytest.raises(ValueError, match=told):
            check(Config(env=EnvConfig(name=name)))
    with pytest.raises(ValueError, match="env.name: fake has no environment 'Walk'"):
        build_env(Config(env=EnvConfig(name="fake:Walk")))
    with pytest.raises(ValueError, match="env.params: fake:Wander does not take {'limit': 0}"):
        build_env(Config(env=EnvConfig(name="fake:Wander", params={"limit": 0})))


def test_the_command_lists_suites_and_environments(
    fake: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    absent = Suite("absent", "absent-package", "no_such_module", ("1.0", "1.0"))
    monkeypatch.setitem(SUITES, "absent", absent)
    assert main(["envs"]) == 0
    listed = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert listed["gymnax"] == listed["fake"] == "installed"
    assert listed["absent"] == "pip install 'rlscan[absent]'"
    assert main(["envs", "fake"]) == 0
    assert capsys.readouterr().out == "fake:Wander\nfake:Wonder\n"
    assert main(["envs", "gymnax"]) == 0
    assert capsys.readouterr().out.splitlines() == list(rlscan.envs.ENVIRONMENTS)
    assert main(["envs", "absent"]) == 2
    assert capsys.readouterr().err == (
        "error: the environments of absent-package need no_such_module: "
        "pip install 'rlscan[absent]'\n"
    )
    assert main(["envs", "fkae"]) == 2
    assert "unknown suite 'fkae', did you mean fake?" in capsys.readouterr().err


def test_a_missing_extra_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    absent = Suite("absent", "absent-package", "no_such_module", ("1.0", "1.0"))
    monkeypatch.setitem(SUITES, "absent", absent)
    check_name("absent:Walk")  # a config may be read without it
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'rlscan\[absent\]'"):
        rlscan.make("absent:Walk")


def test_every_suite_has_an_extra_and_a_file() -> None:
    import tomllib

    root = Path(rlscan.__file__).parent
    project = tomllib.loads((root.parent / "pyproject.toml").read_text())["project"]
    page = (root.parent / "docs" / "guides" / "suites.md").read_text()
    long, tests = (root.parent / ".ci" / "long").read_text(), Path(__file__).parent
    for suite in SUITES.values():
        assert any(
            r.startswith(suite.package) for r in project["optional-dependencies"][suite.name]
        )
        assert (root / "envs" / "_suites" / f"_{suite.name}.py").is_file()
        assert f"| `{suite.name}` |" in page
        assert all(version in page for version in suite.tested)
        assert f'"{suite.name}:' in (tests / "test_suites.py").read_text()
        assert suite.name in long


@pytest.mark.slow
def test_no_suite_is_imported_unasked() -> None:
    code = (
        "import sys, rlscan, rlscan.envs; rlscan.make('CartPole-v1'); rlscan.envs.suites();"
        f"print([m for m in {[s.module for s in SUITES.values()]} if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.strip() in ("[]", "['gymnasium']"), result.stderr
