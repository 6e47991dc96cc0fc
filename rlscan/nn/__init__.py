"""Stochastic layers that Equinox lacks, and markers for arrays that the optimiser must not change.

All noise comes from the key, so it can be replayed. `eqx.nn.Dropout` and the dropout of
`eqx.nn.MultiheadAttention` work in a policy as they are, and so does any layer of your own that
takes its noise from `key`.
"""

from ._dropout import (
    AnnealedDropout as AnnealedDropout,
    ChannelDropout as ChannelDropout,
    DropPath as DropPath,
    GaussianDropout as GaussianDropout,
    Schedule as Schedule,
    anneal as anneal,
)
from ._noisy_linear import NoisyLinear as NoisyLinear
from ._statistics import (
    KeepsStatistics as KeepsStatistics,
    Steps as Steps,
    WithStatistics as WithStatistics,
)
from ._trainable import (
    NonTrainable as NonTrainable,
    partition_trainable as partition_trainable,
)
from ._variational import (
    VariationalDropoutCell as VariationalDropoutCell,
    VariationalDropoutState as VariationalDropoutState,
)

__all__ = [
    "AnnealedDropout",
    "ChannelDropout",
    "DropPath",
    "GaussianDropout",
    "Schedule",
    "anneal",
    "NoisyLinear",
    "KeepsStatistics",
    "Steps",
    "WithStatistics",
    "NonTrainable",
    "partition_trainable",
    "VariationalDropoutCell",
    "VariationalDropoutState",
]
