"""Stochastic layers that Equinox lacks. All their noise comes from the key, so it can be replayed.

`eqx.nn.Dropout` and the dropout of `eqx.nn.MultiheadAttention` work in a policy as they are, and
so does any layer of your own that takes its noise from `key`.
"""

from ._annealed_dropout import (
    AnnealedDropout as AnnealedDropout,
    Schedule as Schedule,
    anneal as anneal,
)
from ._channel_dropout import ChannelDropout as ChannelDropout
from ._drop_path import DropPath as DropPath
from ._gaussian_dropout import GaussianDropout as GaussianDropout
from ._noisy_linear import NoisyLinear as NoisyLinear
from ._variational import (
    VariationalDropoutCell as VariationalDropoutCell,
    VariationalDropoutState as VariationalDropoutState,
)
