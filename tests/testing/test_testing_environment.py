"""`check_environment`: valid environments pass, and each violation is named."""

import dataclasses
from typing import Any

import gymnasium.spaces as gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import probes
import pytest
from compilations import count_compilations

import rlscan
from rlscan import testing
from rlscan.testing import ConformanceError, Seen, check_environment


@pytest.mark.slow
def test_walk_passes():
    env = dataclasses.replace(testing.Walk(), time_limit=3)
    seen = check_environment(env, num_steps=64)
    assert seen.num_terminated > 4 and seen.num_truncated > 4


@pytest.mark.slow
@pytest.mark.parametrize("name", ["truncation", "leak", "both_flags"])
def test_a_probe_passes(name):
    seen = check_environment(testing.PROBES[name], num_steps=20, num_envs=4)
    ended = {"truncation": (0, 16), "leak": (0, 16), "both_flags": (40, 40)}
    assert seen == Seen(*ended[name])


OTHERS = testing.PROBES | {"walk": testing.Walk(is_continuous=True), "wander": probes.Wander()}


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHERS)
def test_others_pass(name):
    check_environment(OTHERS[name])


# Violations in environments of gymnax.
UNTRUE = {
    "DeepSea-bsuite": "state.total_bad_episodes, which is the same in all resets",  # a count
    "MemoryChain-bsuite": "-1.0, outside of its box",
    "MetaMaze-misc": "10.0, outside of its box",  # it observes the last reward, that of the goal
    "GaussianBandit-misc": "outside of its box",  # it observes the last reward, a Gaussian
}


@pytest.mark.slow
@pytest.mark.parametrize("name", rlscan.envs.ENVIRONMENTS)
def test_gymnax(name):
    if name in UNTRUE:
        with pytest.raises(ConformanceError, match=UNTRUE[name]):
            check_environment(rlscan.make(name))
    else:
        check_environment(rlscan.make(name))


class Changed:
    """`Walk` with a changed reset or step."""

    def __init__(self, reset: Any = None, step: Any = None, **attributes: Any):
        self.walk, self._reset, self._step = testing.Walk(), reset, step
        self.time_limit = 7
        vars(self).update(attributes)

    def reset(self, key):
        return self._reset(self, key) if self._reset else self.walk.reset(key)

    def step(self, key, state, action):
        result = self.walk.step(key, state, action)
        return self._step(result, key, state) if self._step else result

    def observation_space(self):
        return self.walk.observation_space()

    def action_space(self):
        return self.walk.action_space()


class PlainReward:
    """An environment whose reward and flags are Python's."""

    reward: Any = 1.0

    def reset(self, key):
        return jax.random.uniform(key, (2,)), jnp.zeros(())

    def step(self, key, state, action):
        seen = jax.random.uniform(key, (2,))
        return seen, state, self.reward, False, False, {"final_observation": seen}

    def observation_space(self):
        return testing.Box(0.0, 1.0, (2,))

    def action_space(self):
        return testing.Discrete(2)


@pytest.mark.slow
def test_a_reward_of_python_is_one_for_the_check_and_the_rollout():
    policy, env = testing.Coin(jnp.zeros(()), jnp.zeros(())), PlainReward()
    assert check_environment(env, num_steps=3, num_envs=2) == Seen(0, 0)
    state = rlscan.init_rollout(policy, env, num_envs=2, key=rlscan.key(0))
    assert (rlscan.rollout(policy, env, state, 3)[1].reward == 1).all()


def test_a_whole_number_of_python_is_no_more_a_float_than_an_array_is():
    for reward in (1, jnp.ones((), jnp.int32)):
        env = PlainReward()
        env.reward = reward
        with pytest.raises(ConformanceError, match="reward must be one float.*int32"):
            check_environment(env)


def ended(result):
    return result[3] | result[4]


def pick(condition, x, y):
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), x, y)


def final_after_reset(result, key, state):
    return *result[:5], {"final_observation": result[0]}


def final_elsewhere(result, key, state):
    return *result[:5], {"final_observation": result[5]["final_observation"] + 1}


def clock_runs_on(result, key, state):
    return result[0], result[1] | {"time": state["time"] + 1}, *result[2:]


def starts_where_it_ended(result, key, state):
    position = jnp.where(ended(result), state["position"], result[1]["position"])
    return result[0], result[1] | {"position": position}, *result[2:]


def one_start(result, key, state):
    start = testing.Walk().reset(jax.random.key(0))
    return *pick(ended(result), start, result[:2]), *result[2:]


def drawn_by_numpy(result, key, state):
    return *result[:2], result[2] + np.random.default_rng().normal(), *result[3:]


def one_draw(env, key):
    return env.walk.reset(jax.random.key(0))


class Bytes:
    low, high, shape, dtype = 0, 9, (3,), np.uint8


class Simulator:
    """A program on the host that remembers how often it was called."""

    calls = 0.0

    def __call__(self, reward):
        self.calls += 1
        return np.asarray(reward + self.calls, np.float32)


simulate, own_simulator = Simulator(), Simulator()


def simulated(result, key, state):
    return _simulated(result, simulate)


def simulated_by_its_own(result, key, state):
    return _simulated(result, own_simulator)


def _simulated(result, simulator):
    reward = jax.pure_callback(simulator, result[2], result[2], vmap_method="sequential")
    return *result[:2], reward, *result[3:]


@jax.custom_batching.custom_vmap
def doubled(x):
    return 2 * x


@doubled.def_vmap
def _(axis_size, in_batched, x):
    return 3 * x, in_batched[0]


def mapped_by_its_own_rule(result, key, state):
    return *result[:2], doubled(result[2]), *result[3:]


def counted(env, key):
    env.log["resets"] += 1
    return env.walk.reset(key)


BROKEN = {
    "floats for bytes": (
        Changed(observation_space=lambda: Bytes),
        "in the observation space; got it is of dtype float32, but the space declares uint8",
    ),
    "a simulator that remembers": (
        Changed(step=simulated),
        "the result of a step, reward, for the same state, action and key again, must be",
    ),
    "a simulator in an attribute": (
        Changed(step=simulated_by_its_own, simulator=own_simulator),
        "got env.simulator.calls, which changed while the environment played",
    ),
    "a counter in an attribute": (
        Changed(reset=counted, log={"resets": 0}),
        r"must be in the state .* got env.log\['resets'\], which changed",
    ),
    "two values": (Changed(step=lambda r, *_: r[:5]), "step must return .* got 5 values"),
    "integer reward": (
        Changed(step=lambda r, *_: (*r[:2], r[2].astype(int), *r[3:])),
        "reward must be one float",
    ),
    "number for a flag": (
        Changed(step=lambda r, *_: (*r[:3], r[3].astype(float), *r[4:])),
        "terminated must be one boolean",
    ),
    "no final observation": (
        Changed(step=lambda r, *_: (*r[:5], {})),
        "info must have 'final_observation'",
    ),
    "other dtype": (
        Changed(step=lambda r, *_: (r[0].astype(jnp.bfloat16), *r[1:])),
        r"observation of step must be as reset's, float32\[3\]; got bfloat16\[3\]",
    ),
    "other structure": (
        Changed(step=lambda r, *_: (r[0], r[1] | {"more": 0}, *r[2:])),
        "structure of the state of step",
    ),
    "NaN reward": (
        Changed(step=lambda r, *_: (*r[:2], jnp.log(r[2]), *r[3:])),
        "every reward must be finite",
    ),
    "small space": (
        Changed(observation_space=lambda: testing.Box(-1.0, 1.0, (3,))),
        "outside of its box",
    ),
    "wrong shape of a space": (
        Changed(observation_space=lambda: testing.Box(-1.0, 9.0, (2,))),
        r"has the shape \(3,\), but the space declares \(2,\)",
    ),
    "final is after the reset": (
        Changed(step=final_after_reset),
        "last observation of an episode must differ",
    ),
    "final is something else": (
        Changed(step=final_elsewhere),
        "final_observation within an episode",
    ),
    "cut early": (Changed(time_limit=9), "truncated before time_limit = 9 .* one of 7 steps"),
    "cut late": (Changed(time_limit=5), "must end after time_limit = 5 steps; got one of 7"),
    "clock runs on": (
        Changed(step=clock_runs_on, time_limit=None),
        r"the state\['time'\], which is the same in all",
    ),
    "starts where it ended": (
        Changed(step=starts_where_it_ended),
        r"the state\['position'\] after an end, from several states with one key",
    ),
    "one start after ends": (Changed(step=one_start), "a start must differ from episode"),
    "one start": (Changed(reset=one_draw), "another key must give another start"),
    "other rewards under vmap": (
        Changed(step=mapped_by_its_own_rule),
        "the result of a step, reward, for the key of a mapped step, must be",
    ),
    "drawn by NumPy": (
        Changed(step=drawn_by_numpy),
        "the result of a step.* for the key of a mapped step",
    ),
}


@pytest.mark.slow
def test_a_step_is_compiled_once_if_jax_maps_it_by_itself():
    """Most of the check's time is that of compiling steps."""
    for env, num_programs in ((testing.Walk(), 1), (Changed(step=simulated_alike), 2)):
        with count_compilations() as names:
            check_environment(env, num_steps=14, num_envs=3)
        assert sum(name == "jit(step)" for name in names) == num_programs


def simulated_alike(result, key, state):
    return _simulated(result, lambda reward: reward)


def with_nothing(result):
    return result[0], result[1] | {"nothing": jnp.zeros((0, 3))}, *result[2:]


@pytest.mark.slow
def test_an_empty_array_in_a_state_is_no_fault():
    env = Changed(
        reset=lambda env, key: with_nothing(env.walk.reset(key)),
        step=lambda result, key, state: with_nothing(result),
    )
    check_environment(env, num_steps=14, num_envs=2)


@pytest.mark.slow
@pytest.mark.parametrize("name", BROKEN)
def test_each_violation_is_named(name):
    env, says = BROKEN[name]
    with pytest.raises(ConformanceError, match=says):
        check_environment(env, num_steps=24, num_envs=4)


def test_spaces_of_spaces():
    """Dict and Tuple spaces, read by their attributes."""
    from rlscan.testing._environments import complaint, sample

    space = {"at": testing.Box(-jnp.inf, jnp.inf, (2,)), "which": (testing.Discrete(3),)}
    for i in range(5):
        assert complaint(space, sample(space, rlscan.key(i))) is None
    nothing = {"at": np.zeros(2), "which": (3,)}
    assert "in ['which'] in [0] is 3" in (complaint(space, nothing) or "")
    several, flags = gymnasium.MultiDiscrete([2, 3], start=[1, -1]), gymnasium.MultiBinary(2)
    for i in range(5):
        assert complaint(several, sample(several, rlscan.key(i))) is None
        assert complaint(flags, sample(flags, rlscan.key(i))) is None
    assert complaint(several, np.array([0, 0])) == "is 0, not an integer in 1 … 2"
    assert "shape (3,)" in (complaint(flags, np.zeros(3, int)) or "")
    for integers in (several, flags, testing.Discrete(3)):
        assert "dtype float64" in (complaint(integers, np.zeros(2)) or "")
    assert "structure" in (complaint(space, {"at": np.zeros(2)}) or "")
    assert "outside" in (complaint(space["at"], np.array([0.0, np.nan])) or "")
    with pytest.raises(ConformanceError, match="sample_action"):
        sample(object(), rlscan.key(0))


def test_a_check_that_takes_long_says_what_it_does(monkeypatch, capsys):
    from rlscan.testing._progress import Progress

    for patience, said in (
        (60.0, ""),
        (0.0, "check takes a while: first\ncheck takes a while: second\n"),
    ):
        monkeypatch.setattr("rlscan.testing._progress._PATIENCE", patience)
        progress = Progress("check")
        progress.stage = "first"
        with progress:
            progress._timer.join(0.05)
            progress.stage = "second"
        assert capsys.readouterr().err == said


@pytest.mark.slow
def test_a_users_own_actions():
    """An unknown action space, and a limit that only one action reaches."""
    env = Changed(action_space=lambda: object())
    still = lambda key: jnp.asarray(1)  # noqa: E731
    seen = check_environment(env, num_steps=14, num_envs=2, sample_action=still)
    assert seen == Seen(0, 4)
