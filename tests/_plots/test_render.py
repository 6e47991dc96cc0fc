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
from gymnax.environments.spaces import Box, Discrete
from matplotlib.figure import Figure
from PIL import Image

import rlscan
from rlscan._cli.main import main
from rlscan._core.tree import map_arrays
from rlscan._plots.drawn import gymnax_renderer, own_renderer
from rlscan._plots.episode import Episode, NetworkOutputs, record
from rlscan._plots.render import _cut, _network_panels, render
from rlscan._plots.scenes import (
    SECONDS_PER_STEP,
    SECONDS_PER_STEP_OF_GAMES,
    _torque,
    make_scene,
    seconds_per_step,
)
from rlscan.runs._evaluations import evaluation_key
from rlscan.runs._policy_config import policy_config

REPOSITORY = Path(__file__).parents[2]
NOTHING = jnp.zeros(4), None, jnp.array(4), jnp.array(5)  # four steps without reward or networks


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
    assert episode.length == (length := done.argmax() + 1)
    for ours, theirs in (
        (episode.observation, trajectory.observation),
        (episode.action, trajectory.action),
        (episode.reward, trajectory.reward),
    ):
        np.testing.assert_allclose(ours[:length], theirs[:length, 0], rtol=1e-6)
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


@pytest.mark.slow
def test_under_a_wrapper_the_environment_inside_is_drawn():
    env = rlscan.envs.FrameStack(rlscan.make("CartPole-v1"), num_frames=2)
    policy = rlscan.policies.ActorCritic(env, hidden_sizes=(4,), key=rlscan.key(0))
    episode = recorded(policy, env)
    cart: Any = make_scene("CartPole-v1", Figure().subplots(), episode, env)(1)[0]
    assert cart.get_x() == pytest.approx(float(episode.observation[1, 4]) - 0.25)


@pytest.mark.slow
def test_of_a_game_under_wrappers_the_newest_frame_is_drawn():
    plain = rlscan.make("Breakout-MinAtar")
    env = rlscan.envs.LastActionReward(rlscan.envs.FrameStack(plain, num_frames=3))
    policy = rlscan.policies.ActorCritic(env, num_channels=(), hidden_sizes=(4,), key=rlscan.key(0))
    episode = recorded(policy, env, max_steps=4)
    newest = episode.observation["observation"][..., -4:]
    alone = Episode((), newest, episode.action, *NOTHING)
    pictures = [
        make_scene("Breakout-MinAtar", Figure().subplots(), shown)(4)[0]
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
    for t in range(8):
        state = map_arrays(lambda x, t=t: jnp.asarray(x[t]), episode.env_state)
        _, after, *_ = env.step(rlscan.key(0), state, episode.action[t])
        assert after.theta_dot == pytest.approx(episode.env_state.theta_dot[t + 1], abs=1e-4)


def test_of_an_environment_that_is_not_known_the_observation_is_drawn():
    assert SECONDS_PER_STEP.keys() <= set(rlscan.envs.ENVIRONMENTS)
    ax = Figure().subplots()
    scalar = Episode((), np.zeros(5), np.zeros(4), *NOTHING)
    assert len(make_scene("another", ax, scalar)(4)) == 1


def an_episode(length: int, networks: Any = None) -> Episode:
    seen = np.eye(4, dtype=np.float32)[np.arange(length + 1) % 4].reshape(-1, 2, 2)
    ends = jnp.asarray(length), jnp.asarray(length + 1)
    return Episode((), seen, np.zeros(length), jnp.ones(length), networks, *ends)


def a_picture(length: int) -> tuple[Image.Image, int]:
    content, num_steps = render(an_episode(length), "Catch-bsuite", max_frames=6)
    return Image.open(io.BytesIO(content)), num_steps


def test_an_episode_longer_than_the_picture_is_cut():
    image, num_steps = a_picture(9)
    assert (image.n_frames, num_steps) == (6, 5)  # type: ignore
    assert image.info["duration"] == round(1000 * SECONDS_PER_STEP_OF_GAMES)
    image, num_steps = a_picture(4)
    assert (image.n_frames, num_steps) == (5, 4)  # type: ignore
    assert (np.asarray(image.convert("RGB"))[0, 0] == 255).all()  # exactly white
    image.seek(4)
    assert image.info["duration"] > 1000  # a pause at the end


# The last step, and environments that draw themselves.


class NearGoal(rlscan.envs.Wrapper):
    """Acrobot whose next step reaches the goal."""

    def reset(self, key: Any) -> Any:
        observation, state = self.env.reset(key)
        angles = {"joint_angle1": jnp.asarray(2.0), "velocity_1": jnp.asarray(1.5)}
        return observation, state.replace(**angles)


@pytest.mark.slow
def test_the_step_that_reaches_the_goal_is_drawn():
    env = NearGoal(rlscan.make("Acrobot-v1"))
    policy = rlscan.policies.ActorCritic(env, hidden_sizes=(4,), key=rlscan.key(0))
    episode = _cut(recorded(policy, env, max_steps=3))
    length = int(episode.length)
    assert (length, int(episode.num_frames)) == (1, 2)
    scene = make_scene("Acrobot-v1", Figure().subplots(), episode, env)
    tips = [scene(t)[1].get_data()[1][1] for t in range(length + 1)]
    assert tips[0] < 1 < tips[1]  # the goal is the height 1
    arrows = [scene(t)[4].get_xy() for t in range(length + 1)]
    assert np.ptp(arrows[0], axis=0).min() > 0 or episode.action[0] == 1
    assert np.ptp(arrows[1], axis=0).max() == 0  # no action follows


@pytest.mark.parametrize("torque", [-1.5, 0.2])
def test_the_head_of_a_torque_points_along_its_arc(torque: float):
    arc, head = _torque(Figure().subplots(), 0.3)((0, 0), 0.0, torque)
    end = np.transpose(arc.get_data())[-1]
    tip = head.get_xy()[0]
    assert (end[0] * tip[1] - end[1] * tip[0]) * torque > 0  # anticlockwise if positive
    assert np.linalg.norm(end) == pytest.approx(0.3)


class Countdown(eqx.Module):
    """An environment of one's own, whose episodes have three steps. Its state is a number."""

    final_state: bool = True
    shade: Any = 50  # how bright the picture gets in each step

    def reset(self, key: Any) -> Any:
        return jnp.zeros(1), jnp.asarray(0)

    def step(self, key: Any, state: Any, action: Any) -> Any:
        after = state + 1
        done = after == 3
        seen, info = jnp.ones(1) * after, {"final_observation": jnp.ones(1) * after}
        info |= {"final_state": after} if self.final_state else {}
        return jnp.where(done, 0, seen), jnp.where(done, 0, after), 1.0, done, False, info

    def observation_space(self) -> Any:
        return Box(0, 3, (1,))

    def action_space(self) -> Any:
        return Discrete(2)


class Drawn(Countdown):
    metadata = {"render_fps": 20}

    def render(self, state: Any) -> Any:
        return np.full((4, 6, 3), self.shade * int(state), np.uint8)


class WithParams(Countdown):
    params: Any = 0.25

    def render(self, state: Any, params: Any) -> Any:
        return jnp.full((4, 6, 3), params * state)


def shades(env: Any) -> list[int]:
    """How bright each frame is, of the environment under a wrapper with a state of its own."""
    env = rlscan.envs.ObserveOnly(env, [0])
    env = rlscan.envs.FrameStack(env, num_frames=2)
    policy = rlscan.policies.ActorCritic(env, hidden_sizes=(4,), key=rlscan.key(0))
    episode = recorded(policy, env, max_steps=5)
    assert episode.length == 3
    scene = make_scene("mine", Figure().subplots(), episode, env)
    return [int(scene(t)[0].get_array()[0, 0, 0]) for t in range(int(episode.num_frames))]


@pytest.mark.slow
def test_an_environment_draws_itself_up_to_its_last_state():
    assert shades(Drawn()) == [0, 50, 100, 150]
    assert shades(Drawn(final_state=False)) == [0, 50, 100]  # a reset hides the last one
    with_params = own_renderer(WithParams())
    assert with_params is not None and (with_params(2) == 128).all()  # of 0.5, from 0 to 1
    assert seconds_per_step("mine", rlscan.envs.ObserveOnly(Drawn(), [0])) == 1 / 20


def test_of_an_environment_without_render_the_last_observation_is_drawn():
    env = Countdown(final_state=False)
    policy = rlscan.policies.ActorCritic(env, hidden_sizes=(4,), key=rlscan.key(0))
    episode = recorded(policy, env, max_steps=5)
    np.testing.assert_array_equal(episode.observation[: int(episode.num_frames), 0], [0, 1, 2, 3])


@pytest.mark.parametrize(
    "picture, message",
    [
        (np.zeros((4, 6)), r"must return an RGB array \[H, W, 3\] of uint8.* float64\[4, 6\]"),
        (2 * np.ones((4, 6, 3)), "floats from 0 to 1, got .* from 2 to 2"),
        (None, "got None"),
    ],
)
def test_what_is_no_picture_is_refused(picture: Any, message: str):
    class Wrong(Countdown):
        def render(self, state: Any) -> Any:
            return picture

    renderer = own_renderer(Wrong())
    assert renderer is not None
    with pytest.raises(ValueError, match=rf"Wrong.render {message}|{message}"):
        renderer(0)
    assert own_renderer(Countdown()) is None


def test_a_figure_of_gymnax_is_a_picture():
    env = rlscan.make("FourRooms-misc")
    renderer = gymnax_renderer(env)
    assert renderer is not None
    picture = renderer(env.reset(jax.random.key(0))[1])
    assert picture.ndim == 3 and picture.dtype == np.uint8 and np.ptp(picture) > 200


def test_rounding_does_not_look_like_drift():
    """An axis spans at least a twentieth of what it shows."""
    noise = 1e-7 * np.random.default_rng(0).normal(size=(4, 3))
    probability = 0.5 + noise[..., None] * [1, -1]
    networks = NetworkOutputs(jnp.asarray(probability), jnp.asarray(7 + noise))
    figure = Figure()
    _network_panels(figure, an_episode(4, jax.device_get(networks)))
    _, upper, lower = figure.axes
    for ax, least in ((upper, 0.05), (lower, 0.35)):
        assert np.ptp(ax.get_ylim()) >= least


def test_an_mp4_has_the_frames_of_the_episode(tmp_path: Path):
    ffmpeg = pytest.importorskip("imageio_ffmpeg")
    content, num_steps = render(an_episode(9), "Catch-bsuite", suffix=".mp4")
    (tmp_path / "a.mp4").write_bytes(content)
    command = [ffmpeg.get_ffmpeg_exe(), "-i", "a.mp4", "-f", "framehash", "-"]
    read = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    hashes = [line.split()[-1] for line in read.stdout.splitlines() if line[0] != "#"]
    assert (len(hashes), num_steps) == (10 + 15, 9)  # the last one for 1.5 s more
    assert len(set(hashes[:5])) > 1 and "Duration: 00:00:02.50" in read.stderr


def test_without_the_extra_for_video_nothing_is_played(
    tmp_path: Path, run: Path, monkeypatch: Any, capsys: Any
):
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    assert main(["render", str(run), "--output", str(tmp_path / "a.mp4")]) == 2
    assert capsys.readouterr().err == (
        "error: MP4 files need imageio_ffmpeg: pip install 'rlscan[video]'\n"
    )


@pytest.mark.parametrize(
    "name, frames", [("Catch-bsuite", [*range(10)]), ("CartPole-v1", [0, 2, 4, 6, 8, 9])]
)
def test_the_last_step_is_shown_whatever_the_pace(name: str, frames: list[int], monkeypatch: Any):
    """Steps of CartPole are shorter than frames, of which every second one is drawn."""
    shown: list[int] = []
    scene = lambda t: shown.append(t) or []  # noqa: E731
    monkeypatch.setattr("rlscan._plots.render.make_scene", lambda *_: scene)
    render(an_episode(9), name)
    assert shown == frames


def test_a_long_episode_may_be_thinned_instead():
    content, num_steps = render(an_episode(9), "Catch-bsuite", max_frames=5, is_thinned=True)
    image: Any = Image.open(io.BytesIO(content))
    assert (image.n_frames, num_steps) == (4, 9)  # after 0, 3, 6 and 9 steps


@pytest.mark.exhaustive
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
        assert image.n_frames == 1 + (length + 1) // 2  # type: ignore  # 0.02 s per step, 0.04 s per frame
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
        ("run --output a.png", "--output must end in .gif or .mp4, got a.png"),
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
    without = policy_config(hidden_sizes=(4,), dropout=0.0)
    run_dirs.with_policy(tmp_path / "plain", policy=without)
    assert main(["render", *options.split()]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ") and captured.err.count("\n") == 1
    assert message in captured.err and captured.out == ""
    assert sorted(p.name for p in tmp_path.iterdir()) == ["old.gif", "plain", "run"]


@pytest.mark.slow
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
