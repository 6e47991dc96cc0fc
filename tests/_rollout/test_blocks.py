import equinox as eqx
import jax.numpy as jnp
import numpy as np
import probes
import pytest

from rlscan._rollout.blocks import over_steps


@pytest.mark.slow
@pytest.mark.parametrize(
    "batch, blocks",
    [((12,), " length=3"), ((2, 5), " length=5"), ((3, 3), " length=3"), ((11,), None)],
)
def test_results_of_any_shape_are_those_of_single_steps(batch, blocks, monkeypatch):
    """At most four steps make a block, and a block divides the steps; 11 of them have no block."""
    monkeypatch.setattr("rlscan._rollout.blocks.BLOCK", 4)
    steps = {"place": jnp.arange(3.0 * np.prod(batch)).reshape(*batch, 3), "t": jnp.ones(batch)}

    def f(policy: probes.Coin, step: dict) -> dict:
        return {"all": policy.value * step["place"], "sum": step["place"].sum() + step["t"]}

    compute = lambda policy, steps: over_steps(f, policy, steps, batch)  # noqa: E731
    policy = probes.Coin(jnp.asarray(0.0), jnp.asarray(2.0))
    found = compute(policy, steps)
    np.testing.assert_array_equal(found["all"], 2 * steps["place"])
    np.testing.assert_array_equal(found["sum"], steps["place"].sum(-1) + 1)
    program = str(eqx.filter_make_jaxpr(compute)(policy, steps)[0])
    assert blocks in program if blocks else " scan[" not in program
