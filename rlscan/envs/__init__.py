"""Environments by name, of gymnax and of other suites, and wrappers around environments."""

from .._core.spaces import Box as Box, Discrete as Discrete
from ._actions import ActionRepeat as ActionRepeat, StickyActions as StickyActions
from ._auto_reset import AutoReset as AutoReset, RawEnvironment as RawEnvironment
from ._clip_reward import ClipReward as ClipReward
from ._flatten import FlattenObservation as FlattenObservation
from ._gymnax import (
    ENVIRONMENTS as ENVIRONMENTS,
    GymnaxEnvironment as GymnaxEnvironment,
)
from ._make import environments as environments, make as make
from ._randomized import RandomizedParams as RandomizedParams
from ._reset import reset_where as reset_where
from ._spaces import Spaces as Spaces
from ._suites._table import suites as suites
from ._time_limit import TimeLimit as TimeLimit
from ._wrappers import (
    FrameStack as FrameStack,
    LastActionReward as LastActionReward,
    ObserveOnly as ObserveOnly,
    Wrapper as Wrapper,
)

__all__ = [
    "Box",
    "Discrete",
    "ActionRepeat",
    "StickyActions",
    "AutoReset",
    "RawEnvironment",
    "ClipReward",
    "FlattenObservation",
    "ENVIRONMENTS",
    "GymnaxEnvironment",
    "environments",
    "make",
    "RandomizedParams",
    "reset_where",
    "Spaces",
    "suites",
    "TimeLimit",
    "FrameStack",
    "LastActionReward",
    "ObserveOnly",
    "Wrapper",
]
