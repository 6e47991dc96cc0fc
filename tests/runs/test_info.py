"""`run.json`: the software, machine and times of a run."""

import json
import platform
import subprocess
from pathlib import Path

import jax
import pytest
from test_resume import SMALL, fast, stopped  # noqa: F401 (a fixture)

import rlscan
from rlscan._cli.main import main
from rlscan.runs import _info
from rlscan.runs._info import changed_versions, write_info


def info_of(directory: Path) -> dict:
    return json.loads((directory / "run.json").read_text())


@pytest.mark.slow
@pytest.mark.usefixtures("fast")
def test_a_run_and_its_resumed_sessions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    stopped(tmp_path / "run", 3, monkeypatch)
    before = info_of(tmp_path / "run")
    versions = {**before["sessions"][0]["versions"], "jax": "0.0.1"}
    before["sessions"][0]["versions"] = versions
    (tmp_path / "run" / "run.json").write_text(json.dumps(before))
    assert main(["train", "--resume", str(tmp_path / "run"), "--keep-checkpoints", "1"]) == 0
    info = info_of(tmp_path / "run")
    assert (info["seed"], info["runs"]) == (0, [{"run": 0, "seed": 0}])
    first, second = info["sessions"]
    assert first["command"][:2] == ["rlscan", "train"] and first["command"][2:] != []
    assert second["command"][2:] == ["--resume", str(tmp_path / "run"), "--keep-checkpoints", "1"]
    assert (first["after_update"], second["after_update"]) == (0, 3)
    assert second["versions"]["jax"] == jax.__version__
    assert second["versions"]["rlscan"] == rlscan.__version__
    assert second["python"] == platform.python_version()
    assert second["devices"] == ["cpu: cpu"] * len(jax.devices())
    assert f"warning: jax 0.0.1 → {jax.__version__} since the run was stopped" in (
        capsys.readouterr().out
    )


@pytest.mark.slow
@pytest.mark.usefixtures("fast")
def test_the_runs_side_by_side(tmp_path: Path):
    two = ["--num-seeds", "2", "--sweep", "ppo.gamma=0.9,0.8", "--seed", "4"]
    argv = [*SMALL, *two, "--total-steps", "32", "--output", str(tmp_path / "run")]
    assert main(["train", *argv]) == 0
    assert info_of(tmp_path / "run")["runs"][2] == {"run": 2, "seed": 4, "ppo.gamma": 0.8}


def test_the_commit_of_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert _info._git_commit() is None
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    (tmp_path / "file").write_text("1")
    for command in (["init", "-q"], ["add", "."], [*identity, "commit", "-qm", "first"]):
        subprocess.run(["git", *command], check=True)
    head = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True).stdout
    assert _info._git_commit() == head.strip()
    (tmp_path / "file").write_text("2")
    assert _info._git_commit() == f"{head.strip()}-dirty"
    monkeypatch.setenv("PATH", "")
    assert _info._git_commit() is None


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"sessions": 3}', "\x00"])
def test_a_file_damaged_by_hand_is_started_again(content: str, tmp_path: Path):
    (tmp_path / "run.json").write_text(content)
    assert changed_versions(tmp_path) == []
    write_info(tmp_path, ["rlscan"], 0, {"seed": 0})
    assert len(info_of(tmp_path)["sessions"]) == 1
