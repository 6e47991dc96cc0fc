"""Gymnasium: environments in Python, `rlscan.make("gymnasium:CartPole-v1")`.

Always installed, because gymnax needs it; MuJoCo's and others need an extra of Gymnasium's own. The
rollout calls the host once a step for all N environments, a `SyncVectorEnv` that resets in the step
that ends an episode. They run in Python, so a rollout is far slower than in JAX, and what needs
copies of them is not to be had: a run that is resumed begins new episodes, and is not the run that
it would have been.
"""

from typing import Any

import numpy as np

from ..._core.types import Environment, PyTree
from .._host import HostEnvironment, Stepped


def names() -> tuple[str, ...]:
    """List the registered environments; importing a package registers those that it brings."""
    import gymnasium

    return tuple(gymnasium.registry)


def make(name: str, **params: Any) -> Environment:
    """Make an environment.

    **Arguments:**

    - `name`: the name of the environment, one of Gymnasium's registry.
    - `params`: arguments of `gymnasium.make`, such as `max_episode_steps=200`.
    """
    import gymnasium

    one = gymnasium.make(name, **params)
    limit = one.spec.max_episode_steps if one.spec is not None else None
    spaces = one.observation_space, one.action_space
    one.close()
    return HostEnvironment(
        lambda seeds: Vector(name, params, seeds),
        *spaces,
        name=f"gymnasium:{name}",
        time_limit=limit,
    )


class Vector:
    """N environments of Gymnasium, as a pool."""

    def __init__(self, name: str, params: dict[str, Any], seeds: list[int]):
        import gymnasium
        from gymnasium.vector import AutoresetMode

        self.seeds = seeds
        self.envs: Any = gymnasium.make_vec(
            name,
            len(seeds),
            vectorization_mode="sync",
            vector_kwargs={"autoreset_mode": AutoresetMode.SAME_STEP},
            **params,
        )

    def reset(self) -> PyTree:
        return self.envs.reset(seed=self.seeds)[0]

    def step(self, actions: PyTree) -> Stepped:
        from gymnasium.vector.utils import concatenate, create_empty_array, iterate

        observations, rewards, terminated, truncated, info = self.envs.step(actions)
        finals, done = observations, terminated | truncated
        if done.any():
            space = self.envs.single_observation_space
            rows = list(iterate(self.envs.observation_space, observations))
            rows = [info["final_obs"][i] if over else rows[i] for i, over in enumerate(done)]
            finals = concatenate(space, rows, create_empty_array(space, len(rows)))
        return Stepped(observations, np.asarray(rewards), terminated, truncated, finals)

    def close(self) -> None:
        self.envs.close()
