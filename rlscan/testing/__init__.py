from ._agent import check_actions as check_actions, check_agent as check_agent, check_values as check_values
from ._environment import Seen as Seen, check_environment as check_environment
from ._gae import check_gae as check_gae
from ._rollout import check_rollout
from ._replay import check_replay
from ._recurrence import check_recurrence
from ._truncation import check_truncation
from ._probes import *
from ._probes import PROBES as PROBES
from ._walk import Walk as Walk
from ._policies import *
