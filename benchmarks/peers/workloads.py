"""The workloads: the same work for every library. Some are timed, others compare what is learnt."""

from dataclasses import asdict, dataclass, replace


@dataclass(frozen=True)
class Workload:
    """PPO on one environment, with two separate networks of two hidden layers of 64, tanh; or with
    a GRU of 64 that actor and critic share, each with a hidden layer of 64 after it, ReLU."""

    name: str
    env: str
    num_envs: int
    num_steps: int
    num_minibatches: int
    num_updates: int
    bar: float = 0.0
    """The least ratio of rlscan's steps/s over those of the fastest peer, if it is timed."""
    dropout_bar: float | None = 0.95
    """The same for rlscan with dropout 0.1, over the fastest peer without; `None`: not run."""
    is_timed: bool = True
    """Whether speed is compared, in several runs; otherwise the returns of one run's seeds are."""
    is_recurrent: bool = False
    """Whether the policy has a GRU."""
    num_epochs: int = 4
    num_seeds: int = 1
    learning_rate: float = 2.5e-4
    gamma: float = 0.99
    ent_coef: float = 0.01
    gae_lambda: float = 0.95
    clip_range: float = 0.2
    vf_coef: float = 0.5
    max_grad_norm: float = 0.5
    clips_values: bool = True
    """Applies to rlscan. rejax and purejaxrl always clip values; by default the others do not."""

    @property
    def seed_steps(self) -> int:
        """Environment steps of one seed."""
        return self.num_updates * self.num_envs * self.num_steps

    @property
    def steps(self) -> int:
        return self.num_seeds * self.seed_steps

    @property
    def gradient_steps(self) -> int:
        """Gradient steps of one seed."""
        return self.num_updates * self.num_epochs * self.num_minibatches

    def as_message(self, **extra: object) -> dict:
        """The workload as JSON, for a worker, which shares no code with this."""
        total = {"seed_steps": self.seed_steps, "gradient_steps": self.gradient_steps}
        return {**asdict(self), **total, **extra}

    def smoke(self) -> "Workload":
        return replace(self, num_updates=2, num_seeds=min(2, self.num_seeds))


WORKLOADS = {
    workload.name: workload
    for workload in (
        Workload("cartpole-4", "CartPole-v1", 4, 128, 4, num_updates=976, bar=1.15),
        Workload("cartpole-1024", "CartPole-v1", 1024, 32, 8, num_updates=60, bar=1.35),
        Workload("breakout", "Breakout-MinAtar", 64, 128, 8, num_updates=60, bar=1.15),
        # With γ = 0.99 and a learning rate of 2.5e-4 no library learns it in this time. Values are
        # around −100, and if clipped they move by only 0.2 in an update.
        Workload(
            "pendulum", "Pendulum-v1", 16, 128, 4, num_updates=244, bar=1.15,
            learning_rate=1e-3, gamma=0.9, ent_coef=0.0, clips_values=False,
        ),
        Workload(
            "seeds-32", "CartPole-v1", 4, 128, 4, num_updates=100, num_seeds=32,
            bar=1.3, dropout_bar=None,
        ),
    )
}  # fmt: skip

# The budgets end while the returns still rise, so that libraries can differ.
LEARNING = {
    workload.name: replace(workload, is_timed=False, dropout_bar=None, num_seeds=16)
    for workload in (
        Workload("learn-mlp", "CartPole-v1", 4, 128, 4, num_updates=200),
        Workload("learn-gru", "CartPole-v1", 16, 128, 4, num_updates=122, is_recurrent=True),
    )
}
