"""Policies that are built from two spaces, without an environment."""

from functools import partial
from typing import Any

import equinox as eqx
import gymnasium.spaces as gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import probes
import pytest

import rlscan
from rlscan.envs import Spaces
from rlscan.policies import (
    ActorCritic,
    NormalizedObservations,
    RecurrentActorCritic,
    TransformerActorCritic,
    export,
    load_exported,
)

KEY = rlscan.key(0)
ENV = probes.Wander()
ALONE = Spaces(ENV.observation_space(), ENV.action_space())
KINDS: dict[str, Any] = {
    "mlp": partial(ActorCritic, hidden_sizes=(4,), key=KEY),
    "gru": partial(RecurrentActorCritic, hidden_size=4, hidden_sizes=(4,), key=KEY),
    "transformer": partial(TransformerActorCritic, num_heads=1, embed_size=4, key=KEY),
    "normalized": lambda env: NormalizedObservations(KINDS["mlp"](env), env),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_spaces_do_for_an_environment(kind: str) -> None:
    policy = KINDS[kind](ALONE)
    assert eqx.tree_equal(policy, KINDS[kind](ENV))


def test_floats_of_a_space_of_dicts_are_normalised_and_nothing_else() -> None:
    parts: dict[str, Any] = {
        "place": gymnasium.Box(-1, 1, (3,)),
        "kind": gymnasium.Discrete(4),
        "moves": (gymnasium.MultiBinary(2), gymnasium.Box(0, 9, (2, 2), np.float64)),
        "action_mask": gymnasium.MultiBinary(2),
    }
    spaces = Spaces(parts, gymnasium.Discrete(2))
    policy = NormalizedObservations(ActorCritic(spaces, key=KEY), spaces)
    moments: Any = policy.moments.value
    assert moments["kind"] is moments["action_mask"] is moments["moves"][0] is None
    for found, shape in ((moments["place"], (3,)), (moments["moves"][1], (2, 2))):
        assert found.mean.value.shape == shape and found.mean.value.dtype == jnp.float32
    observation = {
        "place": jnp.ones(3),
        "kind": jnp.asarray(1),
        "moves": (jnp.ones(2, jnp.int8), jnp.ones((2, 2))),
        "action_mask": jnp.asarray([True, False]),
    }

    def logits(observation: Any) -> Any:
        distribution: Any = policy(observation, (), key=KEY)[0]
        return distribution.logits

    assert jax.eval_shape(logits, observation).shape == (2,)


@pytest.mark.slow
def test_a_policy_is_exported_with_its_spaces_alone(tmp_path: Any) -> None:
    for name, env in (("alone", ALONE), ("env", ENV)):
        export(KINDS["gru"](env), env, tmp_path / name, platforms=["cpu"])
    loaded = [load_exported(tmp_path / name) for name in ("alone", "env")]
    observation = jnp.arange(8.0).reshape(2, 4)
    results = [policy(observation, policy.initial_state(2)) for policy in loaded]
    jax.tree.map(np.testing.assert_array_equal, *results)
    assert repr(loaded[0]) == (
        "ExportedPolicy(observation=f32[4], action=i32[], value=f32[], state=[f32[4]], "
        "generator=None, platforms=cpu)"
    )


def test_what_needs_more_than_spaces_says_so() -> None:
    with pytest.raises(TypeError, match="environment Spaces has no method 'reset'"):
        rlscan.check_policy(KINDS["mlp"](ALONE), ALONE)
