import numpy as np
import pytest

import rlscan
from benchmarks import _results
from benchmarks.learning import __main__ as learning, report
from benchmarks.learning.training import last_tenth, train
from rlscan.runs._parse import parse


def test_the_last_tenth_weighs_by_episodes():
    episode_return = np.array([[9.0] * 18 + [1.0, 4.0]])
    num_episodes = np.array([[7] * 18 + [1, 2]])
    assert last_tenth(episode_return, num_episodes) == pytest.approx([3.0])


def test_an_update_without_an_episode_counts_for_nothing():
    episode_return = np.array([[0.0] * 18 + [np.nan, 4.0]])
    num_episodes = np.array([[1] * 18 + [0, 2]])
    assert last_tenth(episode_return, num_episodes) == pytest.approx([4.0])


@pytest.mark.exhaustive
@pytest.mark.slow
def test_stored_results_are_a_row_beside_published_ones(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(learning, "RESULTS", tmp_path)
    learning.main(["--smoke", "--keep", "cartpole"])
    learning.main(["--report"])
    kept = _results.read(tmp_path)["cartpole"]
    (line,) = [
        x for x in (tmp_path / "table.md").read_text().splitlines() if "configs/cartpole" in x
    ]
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[1] == f"{kept['settings']['total_steps']:,}" and cells[3] == "2"
    assert cells[4].startswith(f"{kept['figures']['iqm']:.2f} [")
    assert "490.0 ± 6.1 (CleanRL)" in cells[-1]
    assert line in capsys.readouterr().out
    with pytest.raises(SystemExit):  # before it trains for minutes
        learning.main(["--keep", "cartpole", "--policy.kind", "mlp"])
    assert "results.json has cartpole already" in capsys.readouterr().err
    assert _results.read(tmp_path)["cartpole"] == kept


@pytest.mark.parametrize(
    "name, found", [("cartpole_pomdp_gru", "ppo_lstm"), ("cartpole", "CleanRL"), ("new", "–")]
)
def test_published_returns_match_the_longest_name(name, found):
    assert found in report.published(name)


@pytest.mark.exhaustive
@pytest.mark.slow
def test_the_generator_comes_from_the_config():
    def first_returns(generator: str) -> np.ndarray:
        small = "--total-steps 1024 --ppo.num-envs 4 --ppo.num-steps 64"
        config = parse([*small.split(), "--generator", generator])
        return train(config, np.arange(2))[0]["episode_return"]

    assert not np.array_equal(first_returns("mix32"), first_returns("threefry2x32"))


@pytest.mark.parametrize("option", ["--seed 3", "--num_seeds 2", "--num-devices 2", "--strict"])
def test_options_without_effect_are_refused(option: str, capsys: pytest.CaptureFixture):
    with pytest.raises(SystemExit):
        learning.main(option.split())
    name = option.split()[0].replace("_", "-")
    assert f"{name} has no effect on what is measured here" in capsys.readouterr().err


def test_equal_seeds_have_an_empty_interval():
    assert rlscan.runs.bootstrap_interval(np.full(10, 500.0)) == (500.0, 500.0)
