"""The protocols of a policy, an environment and a distribution.

Nothing needs to inherit from them: any object with these methods will do.
"""

from typing import Any, Protocol, TypeVar, runtime_checkable

from jaxtyping import Array, PRNGKeyArray

PyTree = Any


# `(observation, state, reward, terminated, truncated, info)`, as `Environment.step` returns it.
StepResult = tuple[PyTree, PyTree, Array, Array, Array, dict[str, Any]]


@runtime_checkable
class Distribution(Protocol):
    """A distribution over actions for one observation, with the methods of distrax.

    It must be a pytree, as an `eqx.Module` and the distributions of distrax are. Two methods are
    optional:

    - `mode()` is the action that an evaluation takes with `action="mode"`.
    - `legal(action)` maps a sample to the action that the environment receives, such as its tanh,
      if they differ. The trajectory records the sample, and `log_prob` takes it. The space's own
      mapping follows: a box clips.
    """

    def sample(self, *, seed: Any) -> PyTree:
        """Draw an action with the key `seed`."""
        ...

    def log_prob(self, value: Any) -> Any:
        """The log-probability log π(value), shape `()`."""
        ...

    def entropy(self) -> Any:
        """The entropy in nats, shape `()`."""
        ...


def is_distribution(node: Any) -> bool:
    """Whether an object has the methods of a distribution.

    From Python 3.12 on `isinstance` misses those that an object hands on by `__getattr__`.
    """
    return all(callable(getattr(node, name, None)) for name in ("sample", "log_prob", "entropy"))


@runtime_checkable
class Policy(Protocol):
    """A stochastic policy for one observation: an `eqx.Module` with these two methods."""

    def __call__(
        self, observation: Any, state: Any, *, key: PRNGKeyArray
    ) -> tuple[Distribution, Any, Any]:
        """Act on one observation.

        All randomness before the distribution's parameters (dropout, noise layers, latent
        samples) must come from `key` and nothing else, so that it can be replayed.

        **Returns:** `(distribution, value, state)`. `value` is a scalar for PPO; a Q-learner
        returns its action values, REINFORCE `None`.
        """
        ...

    def initial_state(self) -> Any:
        """The recurrent state at the start of an episode; `()` for a feed-forward policy."""
        ...


AnyPolicy = TypeVar("AnyPolicy", bound=Policy)


@runtime_checkable
class SequencePolicy(Policy, Protocol):
    """A recurrent policy that can also compute all steps of a sequence at once.

    The two methods are optional. `rlscan.replay` uses them if a policy has them, and calls the
    policy step by step otherwise. Together they must compute the same as those calls, with the same
    keys. They are worth writing if most of the computation does not depend on the state.
    """

    def unroll(self, observation: Any, state: Any, done: Any, *, key: Any) -> Any:
        """Compute the features of T steps of one environment, a pytree of arrays `[T, …]`.

        `observation`, `done` and `key` are `[T, …]`; `state` is the state before the first step.
        If `done[t]` is set, the episode ended with step t, and step t + 1 starts from
        `initial_state()`.
        """
        ...

    def decide(
        self, features: Any, observation: Any, *, key: PRNGKeyArray
    ) -> tuple[Distribution, Any]:
        """Return `(distribution, value)` for one step.

        `features` are those that `unroll` returned for the step, and `key` is the same as there.
        """
        ...


@runtime_checkable
class HasSpaces(Protocol):
    """What a policy is built for: an environment, or an `rlscan.envs.Spaces`."""

    def observation_space(self) -> Any:
        """A space with gymnax's or Gymnasium's attributes (`n`, or `low`, `high`, `shape`)."""
        ...

    def action_space(self) -> Any:
        """The space of actions, with the same attributes."""
        ...


@runtime_checkable
class Environment(Protocol):
    """One environment that resets itself; the rollout batches it.

    It must be hashable, as a plain class, an `eqx.Module` and a frozen dataclass are, and keep all
    that changes in the state which it returns. Its methods may have no side effects but those that
    JAX can map over environments, such as `jax.debug.print`.

    An attribute `time_limit: int` is optional. It promises that no episode is truncated before it
    has lasted that many steps, which saves memory (see `rlscan.Trajectory`). If there is no such
    limit, an attribute `final_slots: int` saves memory in its place: it promises that no
    environment is truncated more often than that in one rollout. A flag `keeps_state` says that an
    environment runs outside of JAX and keeps a state there, so that no step can be repeated.
    """

    def reset(self, key: PRNGKeyArray) -> tuple[PyTree, PyTree]:
        """Start an episode, and return `(observation, state)`."""
        ...

    def step(
        self, key: PRNGKeyArray, state: Any, action: Any
    ) -> tuple[PyTree, PyTree, Any, Any, Any, dict[str, Any]]:
        """Take a step, and start the next episode if this one ends.

        **Returns:** `(observation, state, reward, terminated, truncated, info)`. If the episode
        ends, `observation` and `state` belong to the next one, and `info["final_observation"]` is
        the last observation of this one. Otherwise it equals `observation`. An optional
        `info["final_state"]` is in the same way the last state of this episode; `rlscan render`
        draws it.
        """
        ...

    def observation_space(self) -> Any:
        """A space with gymnax's or Gymnasium's attributes (`n`, or `low`, `high`, `shape`)."""
        ...

    def action_space(self) -> Any:
        """The space of actions, with the same attributes."""
        ...
