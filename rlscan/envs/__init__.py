"""Environments by name, and wrappers around environments."""

from ._gymnax import (
    ENVIRONMENTS as ENVIRONMENTS,
    GymnaxEnvironment as GymnaxEnvironment,
    make as make,
)
from ._reset import reset_where as reset_where
from ._spaces import Spaces as Spaces
from ._wrappers import (
    FrameStack as FrameStack,
    LastActionReward as LastActionReward,
    ObserveOnly as ObserveOnly,
    Wrapper as Wrapper,
)

__all__ = [
    "ENVIRONMENTS",
    "GymnaxEnvironment",
    "make",
    "reset_where",
    "Spaces",
    "FrameStack",
    "LastActionReward",
    "ObserveOnly",
    "Wrapper",
]
