"""Recorded episodes, and drawings of environments."""

import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import probes
import pytest
import run_dirs
from PIL import Image

import rlscan
from rlscan._cli.main import main
from rlscan._core.tree import map_arrays
from rlscan._plots.episode import Episode, record
from rlscan._plots.render import render
from rlscan._plots.scenes import SECONDS_PER_STEP, SECONDS_PER_STEP_OF_GAMES, make_scene
from rlscan.runs._config import PolicyConfig
from rlscan.runs._evaluations import evaluation_key

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_dirs.with_policy(tmp_path_factory.mktemp("runs") / "run")


def recorded(policy: Any, env: Any, **settings: Any) -> Episode:
    settings = {"max_steps": 8, "key": rlscan.key(2), **settings}
    return jax.device_get(eqx.filter_jit(record)(policy, env, **settings))


@pytest.mark.slow
def test_it_is_the_first_episode_of_a_rollout():
    policy, env = probes.dropout_policy(), probes.Wander()
    episode = recorded(policy, env, action="sample")
    env_key, _ = jax.random.split(rlscan.key(2))
    state = rlscan.init_rollout(policy, env, num_envs=1, key=env_key)
    _, trajectory = rlscan.rollout(policy, env, state, 8, key_schedule="episode")
    done = np.asarray(trajectory.terminated | trajectory.truncated)[:, 0]
    assert episode.length == done.argmax() + 1
    for ours, theirs in (
        (episode.observation, trajectory.observation),
        (episode.action, trajectory.action),
        (episode.reward, trajectory.reward),
    ):
        np.testing.assert_allclose(ours, theirs[:, 0], rtol=1e-6)
    # States are those before each step, so the first is that of the reset.
    first = map_arrays(lambda x: x[0], (episode.env_state, state.env_state))
    assert eqx.tree_equal(*map(jax.tree.leaves, first))


@pytest.mark.slow
@pytest.mark.parametrize("policy", [probes.dropout_policy(), probes.Recurrent()], ids=type)
def test_each_network_keeps_one_mask(policy: Any):
    episode = recorded(eqx.nn.inference_mode(policy), probes.Wander(), num_masks=3)
    _, masks_key = jax.random.split(rlscan.key(2))
    networks: Any = episode.networks
    for k, mask in enumerate(jax.random.split(masks_key, 3)):
        state = policy.initial_state()
        for t in range(int(episode.length)):
            distribution, value, state = policy(episode.observation[t], state, key=mask)
            np.testing.assert_allclose(networks.policy[t, k], distribution.probs, atol=1e-5)
            np.testing.assert_allclose(networks.value[t, k], value, atol=1e-5)
    assert np.ptp(networks.value[0]) > 0


def test_an_episode_that_does_not_end_is_cut():
    assert recorded(probes.dropout_policy(), probes.Wander(), max_steps=1).length == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    ["CartPole-v1", "Pendulum-v1", "Acrobot-v1", "MountainCar-v0", "Breakout-MinAtar"]
    + ["Catch-bsuite", "FrozenLake-misc"],
)
def test_drawings_of_different_steps_differ(name: str):
    """Different steps look different; checked on axes, without a file."""
    from matplotlib.figure import Figure

    env = rlscan.make(name)
    policy = rlscan.policies.ActorCritic(env, hidden_sizes=(4,), key=rlscan.key(0))
    episode = recorded(policy, env, action="sample")
    scene = make_scene(name, Figure().subplots(), episode)

    def looks(t: int) -> list[Any]:
        found = []
        for artist in scene(t):
            for what in ("get_data", "get_array", "get_xy", "get_height"):
                if hasattr(artist, what):
                    found.append(np.array(np.ma.getdata(getattr(artist, what)()), dtype=float))
        return found

    frames = [looks(t) for t in range(int(episode.length))]
    assert all(np.isfinite(x).all() for x in frames[0])
    assert any((x != y).any() for x, y in zip(frames[0], frames[1], strict=True)) or (
        np.array_equal(episode.observation[0], episode.observation[1])
    )


def test_under_a_wrapper_the_environment_inside_is_drawn():
    from matplotlib.figure import Figure

    env = rlscan.envs.FrameStack(rlscan.make("CartPole-v1"), num_frames=2)
    policy = rlscan.policies.ActorCritic(env, hidden_sizes=(4,), key=rlscan.key(0))
    episode = recorded(policy, env)
    cart: Any = make_scene("CartPole-v1", Figure().subplots(), episode)(1)[0]
    assert cart.get_x() == pytest.approx(float(episode.env_state.env_state.x[1]) - 0.25)


@pytest.mark.slow
def test_of_a_game_under_wrappers_the_newest_frame_is_drawn():
    from matplotlib.figure import Figure

    plain = rlscan.make("Breakout-MinAtar")
    env = rlscan.envs.LastActionReward(rlscan.envs.FrameStack(plain, num_frames=3))
    policy = rlscan.policies.ActorCritic(env, num_channels=(), hidden_sizes=(4,), key=rlscan.key(0))
    episode = recorded(policy, env, max_steps=4)
    newest = episode.observation["observation"][..., -4:]
    alone = Episode((), newest, episode.action, jnp.zeros(4), None, jnp.array(4))
    pictures = [
        make_scene("Breakout-MinAtar", Figure().subplots(), shown)(3)[0]
        for shown in (episode, alone)
    ]
    first, second = (np.asarray(picture.get_array()) for picture in pictures)  # pyright: ignore
    assert np.array_equal(first, second) and first.min() < 1


@pytest.mark.slow
@pytest.mark.parametrize("continuous", ["gaussian", "tanh", "beta"])
def test_recorded_actions_are_those_sent_to_the_environment(continuous: Any):
    """Each action leads from a state to the next."""
    env = rlscan.make("Pendulum-v1")
    policy = rlscan.policies.ActorCritic(
        env, hidden_sizes=(4,), continuous=continuous, dropout=0.5, key=rlscan.key(0)
    )
    episode = recorded(policy, env, action="sample")
    assert np.abs(episode.action).max() <= 2
    for t in range(7):
        state = map_arrays(lambda x, t=t: jnp.asarray(x[t]), episode.env_state)
        _, after, *_ = env.step(rlscan.key(0), state, episode.action[t])
        assert after.theta_dot == pytest.approx(episode.env_state.theta_dot[t + 1], abs=1e-4)


def test_of_an_environment_that_is_not_known_the_observation_is_drawn():
    from matplotlib.figure import Figure

    assert SECONDS_PER_STEP.keys() <= set(rlscan.envs.ENVIRONMENTS)
    ax = Figure().subplots()
    scalar = Episode((), np.zeros(4), np.zeros(4), jnp.zeros(4), None, jnp.array(4))
    assert len(make_scene("another", ax, scalar)(0)) == 1


def a_picture(length: int, is_game: bool = True) -> tuple[Image.Image, int]:
    episode = Episode(
        env_state=(),
        observation=np.eye(4, dtype=np.float32)[np.arange(length) % 4].reshape(-1, 2, 2),
        action=np.zeros(length),
        reward=jnp.ones(length),
        networks=None,
        length=jnp.asarray(length),
    )
    content, num_steps = render(episode, "Catch-bsuite" if is_game else "CartPole-v1", max_frames=6)
    return Image.open(io.BytesIO(content)), num_steps


def test_an_episode_longer_than_the_picture_is_cut():
    image, num_steps = a_picture(9)
    assert (image.n_frames, num_steps) == (6, 6)  # type: ignore
    assert image.info["duration"] == round(1000 * SECONDS_PER_STEP_OF_GAMES)
    image, num_steps = a_picture(4)
    assert (image.n_frames, num_steps) == (4, 4)  # type: ignore
    assert (np.asarray(image.convert("RGB"))[0, 0] == 255).all()  # exactly white
    image.seek(3)
    assert image.info["duration"] > 1000  # a pause at the end


@pytest.mark.slow
def test_the_script_draws_an_episode_with_its_uncertainty(run: Path, tmp_path: Path):
    script = [sys.executable, str(REPOSITORY / "scripts" / "render.py"), str(run)]
    command = [*script, "--output", "episode.gif", "--uncertainty", "--masks", "3", "--seed", "4"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    policy = rlscan.load_policy(run)
    env = rlscan.make("CartPole-v1", max_steps_in_episode=20)
    length = int(recorded(policy, env, key=evaluation_key(4), max_steps=20).length)
    assert result.stdout == f"episode.gif: {length} steps, return {length}\n"
    with Image.open(tmp_path / "episode.gif") as image:
        assert image.n_frames == (length + 1) // 2  # type: ignore  # 0.02 s per step, 0.04 s per frame
        first = np.asarray(image.convert("RGB")).astype(int)
        image.seek(image.n_frames - 1)  # type: ignore
        last = np.asarray(image.convert("RGB")).astype(int)
    half = first.shape[1] // 2
    for side in (slice(0, half), slice(half, None)):  # the cart and the curves both move
        assert np.abs(first[:, side] - last[:, side]).max() > 50


@pytest.mark.parametrize(
    "options, message",
    [
        ("nowhere --output a.gif", "nowhere is not a run directory: it has no config.yaml"),
        ("run --output a.png", "--output must end in .gif, got a.png"),
        ("run --output old.gif", "old.gif exists already; choose another --output"),
        ("run --output a.gif --masks 0", "--masks must be a positive integer"),
        ("plain --output a.gif --uncertainty", "has no dropout, so that no networks can disagree"),
    ],
)
def test_bad_input_ends_in_one_line(
    options: str, message: str, run: Path, tmp_path: Path, monkeypatch: Any, capsys: Any
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").symlink_to(run)
    (tmp_path / "old.gif").write_text("mine")
    without = PolicyConfig(hidden_sizes=(4,), dropout=0.0)
    run_dirs.with_policy(tmp_path / "plain", policy=without)
    assert main(["render", *options.split()]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ") and captured.err.count("\n") == 1
    assert message in captured.err and captured.out == ""
    assert sorted(p.name for p in tmp_path.iterdir()) == ["old.gif", "plain", "run"]


@pytest.mark.parametrize("module", ["matplotlib", "PIL"])
def test_without_the_extra_its_name_is_the_error(
    module: str, run: Path, tmp_path: Path, monkeypatch: Any, capsys: Any
):
    monkeypatch.setitem(sys.modules, module, None)  # as if it were not installed
    assert main(["render", str(run), "--output", str(tmp_path / "a.gif")]) == 2
    captured = capsys.readouterr()
    assert (
        captured.err == f"error: pictures of episodes need {module}: pip install 'rlscan[plot]'\n"
    )
    assert not (tmp_path / "a.gif").exists()
