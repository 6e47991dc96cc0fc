"""Loggers: several at once, none of which can stop a run."""

import importlib.util
import json
import math
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

import rlscan
from rlscan._cli.main import main
from rlscan.runs import _loggers, _train
from rlscan.runs._config import from_dict, to_dict, to_yaml
from rlscan.runs._loggers import WandbLogger, check_loggers
from rlscan.runs._metric_names import NAMES, metrics_in, settings_in
from rlscan.runs._metrics_files import PLACE
from rlscan.runs._parse import parse

ROW = {"update": 1, "step": 128, "episode_return": 3.0, "loss": math.nan}


class Kept:
    """A logger that a user might write."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self.num_closed = 0

    def log(self, row: dict[str, Any]) -> None:
        self.rows.append(row)

    def close(self) -> None:
        self.num_closed += 1


class Failing(Kept):
    """Fails at its second row, and when it is closed."""

    def __init__(self, error: Exception, at: int = 2):
        super().__init__()
        self.error, self.at = error, at

    def log(self, row: dict[str, Any]) -> None:
        row.clear()  # a logger may change the row that it is given
        super().log(row)
        if len(self.rows) == self.at:
            raise self.error

    def close(self) -> None:
        raise self.error


def test_a_logger_that_fails_is_dropped_with_one_warning():
    first, broken, last = Kept(), Failing(OSError(28, "No space left on device")), Kept()
    said: list[str] = []
    loggers = rlscan.runs.Loggers([first, broken, last], warn=said.append)
    for update in range(4):
        loggers.log({**ROW, "update": update})
    loggers.close()
    assert len(broken.rows) == 2
    assert said == [
        "Failing failed to log and is dropped (OSError: [Errno 28] No space left on device); "
        "the run continues"
    ]
    for kept in (first, last):
        assert [row["update"] for row in kept.rows] == [0, 1, 2, 3]
        assert all(row["episode_return"] == 3.0 for row in kept.rows)  # not emptied by another
        assert kept.num_closed == 1
    assert isinstance(first, rlscan.runs.Logger)


def test_a_logger_that_fails_when_it_is_closed():
    said: list[str] = []
    loggers = rlscan.runs.Loggers(
        [Failing(ConnectionError(), at=9), kept := Kept()], warn=said.append
    )
    loggers.log(ROW)
    loggers.close()
    loggers.close()  # nothing is left to close
    assert (kept.num_closed, len(said)) == (1, 1)
    assert said[0].startswith("Failing failed to close and is dropped (ConnectionError)")


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("a bug in the class of the error")


@pytest.mark.parametrize(
    "error, shown",
    [
        (Unprintable(), "(Unprintable: its message cannot be shown)"),
        (ValueError("\x1b[31mred\nlines"), r"(ValueError: \x1b[31mred lines)"),
    ],
)
def test_a_logger_cannot_end_the_run_or_change_the_terminal_by_its_message(error, shown: str):
    said: list[str] = []
    rlscan.runs.Loggers([Failing(error, at=1)], warn=said.append).log(ROW)
    assert said == [f"Failing failed to log and is dropped {shown}; the run continues"]


def test_by_default_a_failure_is_a_python_warning():
    with pytest.warns(UserWarning, match="Failing failed to log and is dropped"):
        rlscan.runs.Loggers([Failing(RuntimeError("lost"), at=1)]).log(ROW)


def test_ctrl_c_is_not_a_failure_of_a_logger():
    with pytest.raises(KeyboardInterrupt):
        rlscan.runs.Loggers([Failing(KeyboardInterrupt(), at=1)]).log(ROW)  # type: ignore


@pytest.mark.exhaustive
@pytest.mark.slow
def test_a_run_outlives_its_loggers(tmp_path: Path, monkeypatch: Any, capsys: Any):
    broken, kept = Failing(OSError(28, "No space left on device")), Kept()
    monkeypatch.setattr(_train, "build_loggers", lambda config: [broken, kept])
    small = "--ppo.num-envs 2 --ppo.num-steps 16 --policy.hidden-sizes [4] --total-steps 128"
    others = "--compile-cache false --num-devices 1 --eval-interval 2 --eval-episodes 2"
    run = tmp_path / "run"
    assert main(["train", *small.split(), *others.split(), "--output", str(run)]) == 0
    assert capsys.readouterr().err == (
        "warning: Failing failed to log and is dropped (OSError: [Errno 28] No space left on "
        "device); the run continues\n"
    )
    written = rlscan.runs.read_metrics(run)
    trained = [row for row in kept.rows if "loss" in row]
    np.testing.assert_array_equal([row["loss"] for row in trained], written["loss"])
    seen = [row for row in kept.rows if "evaluation/episode_return" in row]
    assert [(row["update"], row["step"]) for row in seen] == [(2, 64), (4, 128)]
    assert kept.num_closed == 1


@pytest.mark.parametrize("name, package", [("tensorboard", "tensorboardX"), ("wandb", "wandb")])
def test_a_missing_package_names_its_extra(
    name: str, package: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(_loggers, "_is_installed", lambda package: False)
    message = rf"the logger {name} needs {package}: pip install 'rlscan\[{name}\]'"
    with pytest.raises(ValueError, match=message):
        check_loggers([name])
    parse(["--loggers", f"[{name}]"])  # a config can be read without them, for example to evaluate


def test_other_mistakes_in_the_list(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(_loggers, "_is_installed", lambda package: True)
    with pytest.raises(ValueError, match="loggers has wandb twice"):
        check_loggers(["wandb", "wandb"])
    with pytest.raises(ValueError, match="loggers must be a list of tensorboard and wandb"):
        parse(["--loggers", "[csv]"])
    with pytest.raises(ValueError, match="loggers must be among tensorboard, wandb, got 'csv'"):
        check_loggers(["csv"])


def test_a_list_of_loggers_goes_to_a_file_and_back(tmp_path: Path):
    config = parse(["--loggers", "[tensorboard, wandb]"])
    names = ("TensorBoardLogger", "WandbLogger")
    assert [one.class_path for one in config.loggers] == [f"rlscan.runs.{n}" for n in names]
    assert parse(["--loggers", "tensorboard", "--loggers=wandb"]).loggers == config.loggers
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    assert parse(["--config", str(tmp_path / "config.yaml")]).loggers == config.loggers
    assert from_dict(json.loads(json.dumps(to_dict(config)))).loggers == config.loggers


# Names, and what the two loggers write.

SWEPT = {"run": 1, "seed": 4, "ppo.gamma": 0.9, **ROW, "evaluation/x": 2.0, "mine": 5.0}


def test_every_metric_has_a_group():
    known = rlscan.ppo.METRICS.keys() | PLACE.keys() - {"update", "step"}
    assert known <= NAMES.keys()
    assert len(set(NAMES.values())) == len(NAMES)
    assert all(name.count("/") == 1 for name in NAMES.values())


def test_metrics_are_grouped_and_settings_are_none():
    expected = {"rollout/episode_return": 3.0, "evaluation/x": 2.0, "metrics/mine": 5.0}
    assert metrics_in(SWEPT) == expected  # without `loss`, which is NaN
    assert settings_in(SWEPT) == {"seed": 4, "ppo.gamma": 0.9}
    assert settings_in(ROW) == {}


class FakeWandb(ModuleType):
    """Weights & Biases without a network, which keeps what it is given."""

    class settings:
        mode = "offline"

    def __init__(self) -> None:
        super().__init__("wandb")
        self.started: list[dict[str, Any]] = []

    def setup(self) -> Any:
        return self

    def login(self, *, prompt: bool) -> bool:
        assert not prompt
        return False

    def Settings(self, **settings: Any) -> dict[str, Any]:
        return settings

    def init(self, **settings: Any) -> Any:
        rows: list[dict[str, Any]] = []
        self.started.append({**settings, "rows": rows})
        ignore = lambda *_, **__: None  # noqa: E731
        return SimpleNamespace(log=rows.append, define_metric=ignore, finish=ignore)


def test_each_seed_is_a_run_of_wandb_in_one_group(monkeypatch: Any, tmp_path: Path):
    monkeypatch.setitem(sys.modules, "wandb", fake := FakeWandb())
    (tmp_path / "config.yaml").write_text("seed: 3\nppo: {gamma: 0.99, num_envs: 2}\n")
    logger = WandbLogger(tmp_path)
    for update in (1, 2):
        for run in (0, 1):
            logger.log({**SWEPT, "run": run, "seed": 3 + run, "update": update})
    logger.close()
    assert len(fake.started) == 2
    assert {one["group"] for one in fake.started} == {tmp_path.name}
    first, second = fake.started
    assert second["name"] == f"{tmp_path.name}-run-1" and second["reinit"] == "create_new"
    assert second["config"] == {"seed": 4, "ppo.gamma": 0.9, "ppo.num_envs": 2}
    assert first["config"]["seed"] == 3
    assert [row["step"] for row in second["rows"]] == [128, 128]
    assert "rollout/episode_return" in second["rows"][0]


def test_wandb_never_prompts_for_a_key(monkeypatch: pytest.MonkeyPatch):
    """On a terminal, `wandb.init` would ask for a key, and the run would wait."""

    fake = FakeWandb()
    monkeypatch.setattr(fake.settings, "mode", "online")
    monkeypatch.setitem(sys.modules, "wandb", fake)
    said: list[str] = []
    rlscan.runs.Loggers([WandbLogger("run")], warn=said.append).log(ROW)
    assert "WandbLogger failed to log" in said[0] and "WANDB_MODE=offline" in said[0]


@pytest.mark.skipif(
    importlib.util.find_spec("tensorboardX") is None, reason="needs rlscan[tensorboard]"
)
def test_scalars_are_where_tensorboard_looks_for_them(tmp_path: Path):
    logger = rlscan.runs.TensorBoardLogger(tmp_path, config={"ppo": {"gamma": 0.99}})
    logger.log(ROW)
    for run in (0, 1):
        logger.log({**SWEPT, "run": run})
    logger.close()
    (alone,) = (tmp_path / "tensorboard").glob("events*")
    content = alone.read_bytes()
    for word in (b"rollout/episode_return", b"ppo.gamma: 0.99", b"_hparams_/experiment"):
        assert word in content
    assert b"loss" not in content and b"update" not in content  # a NaN, and not a metric
    (second,) = (tmp_path / "tensorboard").glob("run-1/events*")
    assert b"ppo.gamma: 0.9\n" in second.read_bytes()  # that of the run
    assert len(list((tmp_path / "tensorboard").glob("run-[01]/events*"))) == 2


def test_a_logger_needs_no_config(tmp_path: Path):
    pytest.importorskip("tensorboardX")
    logger = rlscan.runs.TensorBoardLogger(tmp_path / "new")
    logger.log(ROW)
    logger.close()
    assert b"hparams" not in next((tmp_path / "new" / "tensorboard").glob("events*")).read_bytes()
