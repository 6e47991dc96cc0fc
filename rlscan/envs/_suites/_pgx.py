"""pgx: board games and MinAtar, `rlscan.make("pgx:tic_tac_toe")`.

Extra `pgx`, Python 3.11 on. In a game for several players the agent is player 0, who has another
seat in each episode, and the adapter plays the others. An observation is `{"observation": …,
"action_mask": …}`. An illegal action loses the game, but the mask excludes it.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray

from ..._core.spaces import ACTION_MASK, Box, Discrete
from ..._core.types import Environment
from .._auto_reset import AutoReset
from ._spaces import unbounded

_AGENT = 0  # pgx gives the players their seats at random

Opponent = Callable[[PRNGKeyArray, Array, Array], Array]


def names() -> tuple[str, ...]:
    """List the games."""
    import pgx  # pyright: ignore[reportMissingImports]

    return tuple(pgx.available_envs())


def make(name: str, *, opponent: str | Opponent = "random", **params: Any) -> Environment:
    """Make a game for one agent.

    **Arguments:**

    - `name`: the name of the game, one of pgx's.
    - `opponent`: who has the other seats: `"random"`, or a function `opponent(key, observation,
        action_mask)` that returns a legal action, such as one that asks a policy which was trained
        before.
    - `params`: arguments of `pgx.make`.
    """
    import pgx  # pyright: ignore[reportMissingImports]

    if opponent != "random" and not callable(opponent):
        raise ValueError(
            "opponent must be 'random' or a function (key, observation, action_mask) -> action, "
            f"got {opponent!r}"
        )
    play: Any = _at_random if opponent == "random" else opponent
    # Every game ends by itself, so one slot for a last observation is more than enough.
    return AutoReset(Game(pgx.make(name, **params), play), final_slots=1)


def _at_random(key: PRNGKeyArray, observation: Array, mask: Array) -> Array:
    return jax.random.categorical(key, jnp.where(mask, 0.0, -jnp.inf))


class Game:
    """A game of pgx for one agent as an `rlscan.envs.RawEnvironment`."""

    def __init__(self, env: Any, opponent: Opponent):
        self.env, self._opponent = env, opponent
        self._shapes = jax.eval_shape(env.init, jax.random.key(0))

    def __repr__(self) -> str:
        return f"pgx:{self.env.id}"

    def reset(self, key: PRNGKeyArray) -> tuple[Any, Any]:
        init_key, play_key = jax.random.split(key)
        state = self._until_turn(play_key, self.env.init(init_key))[0]
        return self._see(state), state

    def step(self, key: PRNGKeyArray, state: Any, action: Array) -> tuple[Any, Any, Any, Any, Any]:
        step_key, play_key = jax.random.split(key)
        state = self.env.step(state, action, step_key)
        reward = state.rewards[_AGENT]
        state, others = self._until_turn(play_key, state)
        return self._see(state), state, reward + others, state.terminated, state.truncated

    def _until_turn(self, key: PRNGKeyArray, state: Any) -> tuple[Any, Array]:
        """Play the other seats until it is the agent's turn, or the game is over.

        **Returns:** the state, and what the agent was rewarded with on the way.
        """
        if self.env.num_players == 1:
            return state, jnp.zeros(())

        def goes_on(carry: tuple) -> Array:
            state, _, _ = carry
            return (state.current_player != _AGENT) & ~(state.terminated | state.truncated)

        def move(carry: tuple) -> tuple:
            state, reward, key = carry
            key, play_key, step_key = jax.random.split(key, 3)
            action = self._opponent(play_key, state.observation, state.legal_action_mask)
            state = self.env.step(state, action, step_key)
            return state, reward + state.rewards[_AGENT], key

        state, reward, _ = jax.lax.while_loop(goes_on, move, (state, jnp.zeros(()), key))
        return state, reward

    def _see(self, state: Any) -> dict[str, Array]:
        seen = state.observation
        if self.env.num_players > 1:  # after the end it may be another player's
            player = jnp.full_like(state.current_player, _AGENT)
            seen = self.env.observe(state.replace(current_player=player))
        return {"observation": seen, ACTION_MASK: state.legal_action_mask}

    def observation_space(self) -> dict[str, Any]:
        mask = Box(0, 1, self._shapes.legal_action_mask.shape, jnp.bool_)
        return {"observation": unbounded(self._shapes.observation), ACTION_MASK: mask}

    def action_space(self) -> Discrete:
        return Discrete(self._shapes.legal_action_mask.shape[0])
