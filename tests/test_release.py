"""Tests that what a release says of itself is one thing everywhere."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import yaml

import rlscan

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
ABOUT = PROJECT["project"]
CITATION = yaml.safe_load((ROOT / "CITATION.cff").read_text())
CI = (ROOT / ".ci" / "run").read_text()
WORKFLOW = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
DOCKERFILE = (ROOT / "Dockerfile").read_text()
PYTHONS = [
    name.rpartition(" ")[2]
    for name in ABOUT["classifiers"]
    if re.search(r"Python :: 3\.\d+$", name)
]


def stage(name: str) -> list[str]:
    """The commands of one function of `.ci/run`."""
    body = re.search(rf"^{name}\(\) \{{\n(.*?)^\}}", CI, re.MULTILINE | re.DOTALL)
    assert body, f".ci/run has no function {name}"
    return [line.strip() for line in body[1].splitlines()]


def stages_of_workflow() -> dict[str, list[str]]:
    """The stages of `.ci/run` that each job of the workflow runs."""
    return {
        name: words
        for name, job in WORKFLOW["jobs"].items()
        for step in job["steps"]
        if (words := step.get("run", "").removeprefix("bash .ci/run").split())
        and step["run"].startswith("bash .ci/run")
    }


def test_the_changelog_opens_with_this_version() -> None:
    """A version that ends in `.dev0` is on its way to the one that heads the changelog."""
    version, _, is_dev = rlscan.__version__.partition(".dev")
    heads = re.findall(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert heads[0] == version + (" (unreleased)" if is_dev else "")
    assert all(re.fullmatch(r"\d+\.\d+\.\d+", head) for head in heads[1:])
    numbers = [[int(n) for n in head.split()[0].split(".")] for head in heads]
    assert numbers == sorted(numbers, reverse=True)


def test_the_citation_says_what_the_package_says() -> None:
    assert CITATION["version"] == rlscan.__version__
    assert CITATION["title"] == ABOUT["name"]
    assert CITATION["abstract"] == ABOUT["description"]
    assert CITATION["license"] == ABOUT["license"]
    assert CITATION["keywords"] == ABOUT["keywords"]
    assert CITATION["authors"] == ABOUT["authors"] == [{"name": "The rlscan developers"}]


def test_the_versions_of_python_are_the_same_everywhere() -> None:
    minors = [int(version.partition(".")[2]) for version in PYTHONS]
    assert minors == list(range(minors[0], minors[-1] + 1))
    assert ABOUT["requires-python"] == f">=3.{minors[0]},<3.{minors[-1] + 1}"
    assert WORKFLOW["jobs"]["test"]["strategy"]["matrix"]["python"] == PYTHONS
    assert PROJECT["tool"]["ruff"]["target-version"] == f"py3{minors[0]}"
    assert PROJECT["tool"]["pyright"]["pythonVersion"] == PYTHONS[0]
    spoken = f"Python {', '.join(PYTHONS[:-1])} or {PYTHONS[-1]}"
    assert all(
        spoken in (ROOT / page).read_text() for page in ("README.md", "docs/start/install.md")
    )
    assert re.search(r"^FROM python:([\d.]+)-slim$", DOCKERFILE, re.MULTILINE)[1] in PYTHONS  # type: ignore[index]


def test_the_hooks_run_what_ci_runs() -> None:
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    hooks = [hook for repo in config["repos"] for hook in repo["hooks"]]
    assert {repo["repo"] for repo in config["repos"]} == {"local"}
    assert all(hook["language"] == "system" and not hook["pass_filenames"] for hook in hooks)
    before_commits = [hook["entry"] for hook in hooks if "stages" not in hook]
    assert before_commits == stage("lint")
    readme = (ROOT / "README.md").read_text()
    (tests,) = (hook["entry"] for hook in hooks if hook.get("stages") == ["pre-push"])
    assert f"&& {tests}\n" in readme


def test_the_workflow_runs_every_stage() -> None:
    stages = re.search(r'^all="(.+)"$', CI, re.MULTILINE)[1].split()  # type: ignore[index]
    run = stages_of_workflow()
    assert sorted(sum(run.values(), [])) == sorted(stages)
    publish = WORKFLOW["jobs"]["publish"]
    assert set(publish["needs"]) == run.keys()
    assert "refs/tags/v" in publish["if"] and "vars.PUBLISH" in publish["if"]
    assert publish["permissions"] == {"id-token": "write"}  # no password is kept anywhere


def test_an_unknown_stage_is_refused() -> None:
    command = ["bash", ROOT / ".ci" / "run", "doc"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("no stage doc: one of quick ")


def test_the_sdist_takes_what_there_is() -> None:
    patterns = [
        name.lstrip("/")
        for name in PROJECT["tool"]["hatch"]["build"]["targets"]["sdist"]["include"]
    ]
    assert len(set(patterns)) == len(patterns)
    assert [pattern for pattern in patterns if not any(ROOT.glob(pattern))] == []
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode == 0:  # a checkout, not an sdist
        tops = {name.partition("/")[0] for name in listed.stdout.splitlines()}
        left = {top for top in tops if not any(fnmatch(top, pattern) for pattern in patterns)}
        assert left == {"LICENSE", "pyproject.toml", ".gitignore"}  # hatch takes these by itself


def copied_by_docker(target: Path) -> None:
    """Copy what `COPY . .` would: the files of the repository without those of `.dockerignore`."""
    ignored = [
        line for line in (ROOT / ".dockerignore").read_text().split("\n") if line[:1] not in "#"
    ]
    ignore = lambda folder, names: {  # noqa: E731
        name for name in names for pattern in ignored if fnmatch(name, pattern.removeprefix("**/"))
    }
    shutil.copytree(ROOT, target, ignore=ignore)


@pytest.mark.slow
@pytest.mark.exhaustive  # installs everything
def test_the_lines_of_the_dockerfile_run(tmp_path: Path) -> None:
    """In a new environment, with nothing of this one but where pip finds packages."""
    copied_by_docker(tmp_path / "rlscan")
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    kept = {k: v for k, v in os.environ.items() if k.startswith("PIP_")}
    environment: dict[str, Any] = kept | {
        "PATH": f"{tmp_path}/venv/bin:/usr/bin:/bin",
        "HOME": str(tmp_path),
    }
    lines = re.findall(r"^RUN (.+)$", DOCKERFILE, re.MULTILINE)
    assert len(lines) == 2 and "\\\n" not in DOCKERFILE
    for line in lines:
        subprocess.run(
            ["/bin/sh", "-c", line], cwd=tmp_path / "rlscan", env=environment, check=True
        )
    (tmp_path / "work").mkdir()
    command = [
        "rlscan",
        "train",
        "--config",
        "cartpole",
        "--total-steps",
        "20480",
        "--output",
        "run",
    ]
    subprocess.run(["/usr/bin/env", *command], cwd=tmp_path / "work", env=environment, check=True)
    assert (tmp_path / "work" / "run" / "metrics.csv").stat().st_size
