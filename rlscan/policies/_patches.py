"""`patches`: a lever that makes a convolution a matrix product.

On CPU, a linear layer on every patch of an image is much faster than XLA's convolution in
`eqx.nn.Conv2d` (`python -m benchmarks --only levers`).
"""

import jax.numpy as jnp
from jaxtyping import Array, Float


def patches(
    x: Float[Array, "height width channels"], kernel: tuple[int, int], stride: int
) -> Float[Array, "rows columns patch"]:
    """All patches of an image, each flattened in the order rows, columns, channels."""
    height, width = (x.shape[axis] - kernel[axis] + 1 for axis in (0, 1))
    shifted = [
        x[i : i + height : stride, j : j + width : stride]
        for i in range(kernel[0])
        for j in range(kernel[1])
    ]
    return jnp.concatenate(shifted, axis=-1)
