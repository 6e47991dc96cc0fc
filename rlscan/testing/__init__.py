"""Probes with known values, and checks of the parts of an agent, whoever wrote them.

Each `check_…` takes what it judges (a function, an environment, a policy), says in its docstring
which signature it expects, and raises `ConformanceError`, an `AssertionError`, with what was
required, what was got and what to look at. So a test is one line, under any runner:

```python
import rlscan, rlscan.testing

def test_my_environment():
    rlscan.testing.check_environment(MyEnvironment())
```

`DEFECTS` are mistakes that libraries have made, each with the check that finds it. Nothing here
knows more of rlscan than its public names. `import rlscan` does not import it.
"""

from ._agent import (
    check_actions as check_actions,
    check_agent as check_agent,
    check_values as check_values,
)
from ._defects import DEFECTS as DEFECTS, Defect as Defect
from ._environment import Seen as Seen, check_environment as check_environment
from ._error import ConformanceError as ConformanceError
from ._evaluation import check_evaluation as check_evaluation
from ._gae import check_gae as check_gae
from ._gradient_clip import check_gradient_clip as check_gradient_clip
from ._minibatches import check_minibatches as check_minibatches
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
    constant_reward as constant_reward,
    leak as leak,
    memory as memory,
    observation_reward as observation_reward,
    truncation as truncation,
    two_step as two_step,
)
from ._ratio import check_ratio as check_ratio
from ._recurrence import check_recurrence as check_recurrence
from ._replay import check_replay as check_replay
from ._reward_scaling import check_reward_scaling as check_reward_scaling
from ._rollout import check_rollout as check_rollout
from ._schedule import check_learning_rate_schedule as check_learning_rate_schedule
from ._spaces import Box as Box, Discrete as Discrete
from ._truncation import check_truncation as check_truncation
from ._value_loss import check_value_loss as check_value_loss
from ._walk import Walk as Walk
