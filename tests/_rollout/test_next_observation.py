"""The observation after each step, against environments that are stepped by hand."""

import dataclasses
from typing import Any

import distrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rlscan
from rlscan.testing import Box, Discrete
from rlscan.testing._environments import finish

N, T = 4, 21


class Counted(eqx.Module):
    """A walk of fixed ends, seen as a dict: terminated after 5 steps or truncated after 3.

    Which of the two, the episode's kind tells. Each observation appears once in an environment.
    """

    time_limit: int | None = eqx.field(static=True, default=3)
    final_slots: int | None = eqx.field(static=True, default=None)
    both: bool = eqx.field(static=True, default=False)  # whether a termination truncates too

    def reset(self, key: Any) -> tuple:
        kind, start = jax.random.bernoulli(key), jax.random.randint(key, (), 0, 10**6)
        return self._see(kind, start, 0), {"kind": kind, "start": start, "time": 0}

    def step(self, key: Any, state: Any, action: Any) -> tuple:
        time = state["time"] + 1
        terminated = state["kind"] & (time == 5)
        truncated = ~state["kind"] & (time == 3) | (terminated & self.both)
        seen = self._see(state["kind"], state["start"], time)
        return finish(self, key, seen, {**state, "time": time}, 1.0, (terminated, truncated))

    def _see(self, kind: Any, start: Any, time: Any) -> dict:
        return {"place": jnp.stack([start + time, time]).astype(jnp.float32), "count": start + time}

    def observation_space(self) -> dict:
        return {"place": Box(-jnp.inf, jnp.inf, (2,)), "count": Discrete(2 * 10**6)}

    def action_space(self) -> Discrete:
        return Discrete(2)


class Still(eqx.Module):
    """A policy that looks at nothing."""

    def __call__(self, observation: Any, state: Any, *, key: Any) -> tuple:
        return distrax.Categorical(logits=jnp.zeros(2)), None, state

    def initial_state(self) -> tuple:
        return ()


@eqx.filter_jit
def roll(env: Counted) -> Any:
    """Roll out T steps of N environments: `(first, after, trajectory, next observations)`."""
    first = rlscan.init_rollout(Still(), env, num_envs=N, key=rlscan.key(0))
    after, trajectory = rlscan.rollout(Still(), env, first, T)
    return first, after, trajectory, rlscan.next_observation(after, trajectory)


def by_hand(env: Any, first: Any, trajectory: Any) -> tuple:
    """Step the environments one by one: `(what followed each step, what the policy saw next)`."""
    step = jax.jit(jax.vmap(env.step))
    streams, env_state, last, seen = first.key, first.env_state, [], []
    for t in range(T):
        keys = jax.vmap(lambda key: jax.random.split(key, 3))(streams)
        streams = keys[:, 0]
        observation, env_state, *_, info = step(keys[:, 2], env_state, trajectory.action[t])
        last.append(info["final_observation"])
        seen.append(observation)
    return tuple(jax.tree.map(lambda *rows: np.stack(rows), *steps) for steps in (last, seen))


@pytest.mark.slow
@pytest.mark.parametrize(
    "env",
    [
        Counted(),
        Counted(time_limit=None, both=True),
        Counted(time_limit=None, final_slots=T // 3),
    ],
    ids=str,
)
def test_next_observations_against_environments_stepped_by_hand(env: Counted) -> None:
    first, _, trajectory, following = roll(env)
    last, seen = by_hand(env, first, trajectory)
    terminated = np.asarray(trajectory.terminated)
    truncated = np.asarray(trajectory.truncated) & ~terminated
    assert terminated.any() and truncated.any()
    for name, rows in following.items():
        assert rows.dtype == trajectory.observation[name].dtype
        assert (last[name] != seen[name])[truncated].any()
        np.testing.assert_array_equal(rows[~terminated], last[name][~terminated])
        np.testing.assert_array_equal(rows[terminated], seen[name][terminated])


@pytest.mark.slow
@pytest.mark.parametrize(
    "env", [Counted(time_limit=6), Counted(time_limit=None, final_slots=4)], ids=str
)
def test_a_lost_final_observation_is_no_other_one(env: Counted) -> None:
    """Episodes are cut after 3 steps, although 6 are declared: up to 7 ends share 4 slots."""
    _, _, trajectory, following = roll(env)
    kept = np.zeros((T, N), bool)
    kept[np.minimum(trajectory.final.step, T - 1), np.arange(N)] = True
    lost = np.asarray(trajectory.truncated) & ~np.asarray(trajectory.terminated) & ~kept
    assert lost.any()
    np.testing.assert_array_equal(np.isnan(following["place"]).all(-1), lost)
    assert (following["count"][lost] == 0).all()


def test_parts_that_are_only_replayed_are_refused() -> None:
    _, after, trajectory, _ = roll(Counted())
    part = dataclasses.replace(trajectory, final=None)
    with pytest.raises(ValueError, match="final=None.*before the trajectory is cut into minibatch"):
        rlscan.next_observation(after, part)
