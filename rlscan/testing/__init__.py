"""Probe environments with known values, and conformance checks for the parts of any agent.

Each `check_…` takes the object under test (a function, an environment or a policy). Its docstring
gives the signature that it expects. It raises `ConformanceError`, an `AssertionError`, which says
what was required, what was found and what to look at. A test is then one line in any test runner:

```python
import rlscan

def test_my_environment():
    rlscan.testing.check_environment(MyEnvironment())
```

`DEFECTS` are mistakes that libraries have made, each with the check that finds it. The checks use
only the public names of rlscan.
"""

from ._advantage_checks import (
    check_gae as check_gae,
    check_reward_scaling as check_reward_scaling,
)
from ._conformance import ConformanceError as ConformanceError
from ._defects import DEFECTS as DEFECTS, Defect as Defect
from ._environment_check import Seen as Seen, check_environment as check_environment
from ._environments import Box as Box, Discrete as Discrete, Walk as Walk
from ._policies import (
    Coin as Coin,
    DropoutPolicy as DropoutPolicy,
    RecurrentPolicy as RecurrentPolicy,
)
from ._probes import (
    PROBES as PROBES,
    Probe as Probe,
    action_reward as action_reward,
    any_of as any_of,
    both as both,
    both_flags as both_flags,
    check_actions as check_actions,
    check_agent as check_agent,
    check_values as check_values,
    constant_reward as constant_reward,
    leak as leak,
    memory as memory,
    observation_reward as observation_reward,
    truncation as truncation,
    two_step as two_step,
)
from ._replay_checks import check_recurrence as check_recurrence, check_replay as check_replay
from ._rollout_checks import (
    check_evaluation as check_evaluation,
    check_rollout as check_rollout,
    check_truncation as check_truncation,
)
from ._update_checks import (
    check_gradient_clip as check_gradient_clip,
    check_learning_rate_schedule as check_learning_rate_schedule,
    check_minibatches as check_minibatches,
    check_ratio as check_ratio,
    check_value_loss as check_value_loss,
)

__all__ = [
    "check_gae",
    "check_reward_scaling",
    "ConformanceError",
    "DEFECTS",
    "Defect",
    "Seen",
    "check_environment",
    "Box",
    "Discrete",
    "Walk",
    "Coin",
    "DropoutPolicy",
    "RecurrentPolicy",
    "PROBES",
    "Probe",
    "action_reward",
    "any_of",
    "both",
    "both_flags",
    "check_actions",
    "check_agent",
    "check_values",
    "constant_reward",
    "leak",
    "memory",
    "observation_reward",
    "truncation",
    "two_step",
    "check_recurrence",
    "check_replay",
    "check_evaluation",
    "check_rollout",
    "check_truncation",
    "check_gradient_clip",
    "check_learning_rate_schedule",
    "check_minibatches",
    "check_ratio",
    "check_value_loss",
]
