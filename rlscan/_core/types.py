"""What rlscan expects of a policy, an environment and a distribution.

An object needs to inherit from nothing here: whatever has these methods will do.
"""

from typing import Any, Protocol, runtime_checkable

from jaxtyping import Array, PRNGKeyArray

PyTree = Any


# `(observation, state, reward, terminated, truncated, info)`, of `Environment.step`.
StepResult = tuple[PyTree, PyTree, Array, Array, Array, dict[str, Any]]


@runtime_checkable
class Distribution(Protocol):
    """A distribution over actions, as distrax defines it, for one observation.

    Two methods are optional. `mode()`: the action that an evaluation takes with `action="mode"`.
    `legal(action)`: what the environment is sent for a sample, where that is not the sample itself,
    such as its tanh. The sample is what is recorded, and what `log_prob` takes. The space's own
    mapping follows: a box clips.
    """

    def sample(self, *, seed: Any) -> PyTree:
        """An action drawn with the key `seed`."""
        ...

    def log_prob(self, value: Any) -> Any:
        """log π(value), shape `()`."""
        ...

    def entropy(self) -> Any:
        """The entropy in nats, shape `()`."""
        ...


@runtime_checkable
class Policy(Protocol):
    """A stochastic policy for one observation: an `eqx.Module` with these two methods."""

    def __call__(
        self, observation: Any, state: Any, *, key: PRNGKeyArray
    ) -> tuple[Distribution, Any, Any]:
        """`(distribution, value, state)`.

        All randomness before the distribution's parameters (dropout, noise layers, latent
        samples) comes from `key`, and from nothing else: that is what makes it replayable.
        `value` is a scalar for PPO; a Q-learner returns its action values, REINFORCE `None`.
        """
        ...

    def initial_state(self) -> Any:
        """The recurrent state at the start of an episode; `()` for a feed-forward policy."""
        ...


@runtime_checkable
class SequencePolicy(Policy, Protocol):
    """A recurrent policy that can also compute all steps of a sequence at once.

    Optional: `rlscan.replay` uses the two methods where a policy has them, and else calls the
    policy step by step. Together they must say what those calls say, under the same keys. That
    pays where more than the state can be computed for all steps together.
    """

    def unroll(self, observation: Any, state: Any, done: Any, *, key: Any) -> Any:
        """T steps of one environment: what the policy knows at each, a pytree of arrays `[T, …]`.

        `observation`, `done` and `key` are `[T, …]`; `state` is that before the first step. Where
        `done[t]` is set, the episode ended with step t, and step t + 1 starts from
        `initial_state()`.
        """
        ...

    def decide(
        self, features: Any, observation: Any, *, key: PRNGKeyArray
    ) -> tuple[Distribution, Any]:
        """`(distribution, value)` of one step, from what `unroll` returned for it.

        `key` is that of the step, the same as for `unroll`.
        """
        ...


@runtime_checkable
class Environment(Protocol):
    """One environment that resets itself; batching is the rollout's.

    `time_limit: int` is optional: no episode is truncated before it has lasted that many steps.
    Knowing it saves the memory of one observation per step (see `rlscan.Trajectory`).
    """

    def reset(self, key: PRNGKeyArray) -> tuple[PyTree, PyTree]:
        """`(observation, state)`."""
        ...

    def step(self, key: PRNGKeyArray, state: Any, action: Any) -> StepResult:
        """`(observation, state, reward, terminated, truncated, info)`.

        Where the episode ends, `observation` and `state` are those of the next episode, and
        `info["final_observation"]` is the last observation of this one. At any other step it
        is the same as `observation`.
        """
        ...

    def observation_space(self) -> Any:
        """A space with gymnax's or Gymnasium's attributes (`n`, or `low`, `high`, `shape`)."""
        ...

    def action_space(self) -> Any:
        """As `observation_space`."""
        ...
