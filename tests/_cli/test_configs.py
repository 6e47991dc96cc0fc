"""Configs by name, in a checkout and from a wheel."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from rlscan._cli.main import main
from rlscan.runs._named_configs import named_configs, summary
from rlscan.runs._parse import parse

ROOT = Path(__file__).parents[2]


def test_every_config_is_listed_with_what_it_is(capsys: pytest.CaptureFixture[str]):
    assert main(["configs"]) == 0
    listed = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert set(listed) == {file.stem for file in (ROOT / "configs").glob("*.yaml")}
    assert listed["cartpole"] == "CartPole-v1 with dropout"
    assert all(summary(file) for file in named_configs().values())


def test_a_config_is_printed_as_it_is(capsys: pytest.CaptureFixture[str]):
    assert main(["configs", "pendulum"]) == 0
    assert capsys.readouterr().out == (ROOT / "configs" / "pendulum.yaml").read_text()
    assert main(["configs", "pendulm"]) == 2
    assert "no config pendulm, did you mean pendulum?" in capsys.readouterr().err


def test_a_name_means_that_config_unless_there_is_such_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pendulum").mkdir()  # as a run directory may be called
    named = parse(["--config", "pendulum", "--output", "out"])
    assert named == parse(["--config", str(ROOT / "configs/pendulum.yaml"), "--output", "out"])
    Path("cartpole").write_text("seed: 7")
    assert parse(["--config", "cartpole", "--output", "out"]) == parse(
        ["--seed", "7", "--output", "out"]
    )
    with pytest.raises(ValueError, match="no config file acrobott, did you mean acrobot?"):
        parse(["--config", "acrobott"])


@pytest.mark.exhaustive
@pytest.mark.slow
def test_a_wheel_carries_the_configs(tmp_path: Path):
    wheel = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir"]
    subprocess.run([*wheel, str(tmp_path), str(ROOT)], check=True)
    (built,) = tmp_path.glob("rlscan-*.whl")
    site, empty = tmp_path / "site", tmp_path / "empty"
    zipfile.ZipFile(built).extractall(site)
    empty.mkdir()
    rlscan = [sys.executable, "-m", "rlscan"]
    settings = {"cwd": empty, "env": {**os.environ, "PYTHONPATH": str(site)}, "text": True}
    listed = subprocess.run([*rlscan, "configs"], capture_output=True, check=True, **settings)
    assert len(listed.stdout.splitlines()) == len(named_configs())
    train = [*rlscan, "train", "--config", "cartpole", "--total-steps", "1024", "--output", "run"]
    subprocess.run(train, check=True, **settings)
    assert (empty / "run" / "metrics.csv").stat().st_size
    assert (
        str(site)
        in subprocess.run(
            [sys.executable, "-c", "import rlscan; print(rlscan.__file__)"],
            capture_output=True,
            check=True,
            **settings,
        ).stdout
    )
