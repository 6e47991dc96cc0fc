"""What every noisy layer asks for: a rate, and a key."""

from typing import Any

from jaxtyping import PRNGKeyArray


def as_rate(name: str, p: Any) -> float:
    """A rate in [0, 1) as a Python float: a constant of what is compiled, and no parameter.

    **Raises:** `ValueError` if `p` is no Python number in [0, 1).
    """
    if not (isinstance(p, int | float) and 0 <= p < 1):
        raise ValueError(
            f"{name} must be a Python number in [0, 1), got {p!r} of type {type(p).__name__}; "
            "0 switches the noise off"
        )
    return float(p)


def require_key(layer: Any, key: PRNGKeyArray | None) -> PRNGKeyArray:
    """The key that a layer draws with.

    **Raises:** `RuntimeError` if there is none, as the layers of Equinox do.
    """
    if key is None:
        name = type(layer).__name__
        raise RuntimeError(
            f"{name} requires a key outside of inference mode, got None; call it with "
            "key=key, one that no other layer draws with (jax.random.split), or switch its noise "
            "off with eqx.nn.inference_mode"
        )
    return key
