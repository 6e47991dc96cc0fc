"""`Spaces`: what a policy is built from, without an environment."""

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class Spaces:
    """The two spaces of an environment, in its place where a policy is built or exported.

    The spaces are gymnax's, Gymnasium's, or any with their attributes, in dicts and tuples.

    ```python
    import gymnasium, rlscan

    spaces = rlscan.envs.Spaces(
        observation=gymnasium.spaces.Box(-1, 1, (4,)), action=gymnasium.spaces.Discrete(2)
    )
    policy = rlscan.policies.ActorCritic(spaces, key=rlscan.key(0))
    ```
    """

    observation: Any
    """The space of observations."""
    action: Any
    """The space of actions."""

    def observation_space(self) -> Any:
        return self.observation

    def action_space(self) -> Any:
        return self.action
