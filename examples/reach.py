"""An environment: a point walks over a square to a target, with a dict observation, an action mask
and a time limit.

    rlscan train --config examples/reach.yaml
    rlscan train --env examples.reach.Reach --env.num_steps 50 --total-steps 100000
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from gymnax.environments.spaces import Box, Dict, Discrete

import rlscan

MOVES = jnp.array([[0.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])


class State(eqx.Module):
    position: jax.Array  # [2], in [-1, 1]
    target: jax.Array  # [2]
    time: jax.Array  # steps of this episode


class Reach(eqx.Module):
    """Walk to a target: each step costs the distance to it, and arriving pays 10."""

    speed: float = 0.2
    """Length of a step; the square has sides of length 2."""
    tolerance: float = 0.15
    """Distance at which the target is reached."""
    num_steps: int = 40
    """Steps until the episode is truncated."""

    @property
    def time_limit(self) -> int:
        return self.num_steps

    def reset(self, key):
        position_key, target_key = jax.random.split(key)
        position = jax.random.uniform(position_key, (2,), minval=-1, maxval=1)
        target = jax.random.uniform(target_key, (2,), minval=-1, maxval=1)
        state = State(position, target, jnp.zeros((), jnp.int32))
        return self.observe(state), state

    def step(self, key, state, action):
        position = jnp.clip(state.position + self.speed * MOVES[action], -1, 1)
        after = State(position, state.target, state.time + 1)
        distance = jnp.linalg.norm(after.target - position)
        terminated = distance < self.tolerance
        truncated = after.time >= self.num_steps
        reward = jnp.where(terminated, 10.0, -distance)
        last = self.observe(after)
        observation, state = rlscan.envs.reset_where(
            terminated | truncated, lambda: self.reset(key), (last, after)
        )
        info = {"final_observation": last, "final_state": after}
        return observation, state, reward, terminated, truncated, info

    def observe(self, state):
        inside = jnp.abs(state.position + self.speed * MOVES) <= 1
        return {
            "position": state.position,
            "target": state.target,
            "action_mask": inside.all(axis=-1),  # a move that leads out of the square is illegal
        }

    def observation_space(self):
        square, mask = Box(-1, 1, (2,)), Box(0, 1, (len(MOVES),), jnp.bool_)
        return Dict({"position": square, "target": square, "action_mask": mask})

    def action_space(self):
        return Discrete(len(MOVES))

    def render(self, state):
        """A picture `[128, 128, 3]`: the target in green, the point in blue."""
        pixels = jnp.stack(jnp.meshgrid(*2 * [jnp.linspace(-1, 1, 128)]), axis=-1)
        image = jnp.ones((128, 128, 3))
        for place, radius, colour in (
            (state.target, self.tolerance, (0.3, 0.7, 0.4)),
            (state.position, 0.06, (0.2, 0.4, 0.8)),
        ):
            is_near = jnp.linalg.norm(pixels - place, axis=-1) < radius
            image = jnp.where(is_near[..., None], jnp.array(colour), image)
        return jnp.flipud(image)
