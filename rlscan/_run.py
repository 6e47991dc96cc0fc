"""`run`: a training run, from a config to a run directory."""

import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array

from ._build import build_env, build_policy
from ._checkpoint import POLICY_FILE, save_policy
from ._compile_cache import use_compile_cache
from ._config import Config
from ._devices import configure_cpu, make_mesh, num_cores, worthwhile
from ._divergence import check_divergence
from ._metrics import Metrics, until_diverged
from ._ppo import TrainState, init_train, update
from ._progress import Progress, format_return, format_seconds
from ._random import key as make_key
from ._run_dir import MetricsFiles, check_output, claim
from ._scan import filter_scan
from ._train import check_audit, count_updates
from ._types import Environment


def on_this_machine(config: Config) -> Config:
    """The config with `num_devices` set, and JAX told of them: of a CPU each core may be one. It is
    also told where to keep what it compiles.

    Where it is set already, the run is the same on any machine. It is to come before JAX runs.
    """
    if config.compile_cache:
        use_compile_cache()
    ppo = config.ppo
    minibatch = ppo.num_envs * ppo.num_steps // ppo.num_minibatches
    configure_cpu(config.num_devices or worthwhile(num_cores(), ppo.num_envs, minibatch))
    if config.num_devices is not None:
        return config
    found = worthwhile(len(jax.devices()), ppo.num_envs, minibatch)
    return dataclasses.replace(config, num_devices=found)


@contextmanager
def prepare(config: Config) -> Iterator[tuple[Environment, TrainState, Path]]:
    """Builds what a run needs, then makes its directory: nothing is written before all is checked.

    **Arguments:**

    - `config`: as `parse` gives it, with `output` set.

    **Returns:** a context, of `(env, state, directory)`, the state before the first update. At its
    end the directory is taken away if there are no results in it.

    **Raises:** `ValueError` or `TypeError` for a config that cannot be trained, or an `output`
    that cannot be written or holds another run.
    """
    check_output(str(config.output))
    env = build_env(config.env)
    policy_key, train_key = jax.random.split(make_key(config.seed, generator=config.generator))
    policy = build_policy(config, env, key=policy_key)
    state = init_train(policy, env, config.ppo, key=train_key, mesh=_mesh(config))
    with claim(config, policy) as directory:
        yield env, state, directory


def run(
    config: Config,
    env: Environment,
    state: TrainState,
    directory: Path,
    signals: Sequence[int] = (),
) -> bool:
    """Trains, and writes metrics and policy to the run directory.

    **Arguments:**

    - `config`, and what `prepare` made of it.
    - `signals`: those that asked the program to stop, looked at between updates: the first one
        ends the run after those under way, and what was learned until then is kept.

    **Returns:** whether all updates were made.

    **Raises:** `AuditError` if `strict` and an update fails the audit; `DivergenceError` if a
    number is not finite; `OSError` if the disk is full; files are whole then, and the policy is
    saved. `KeyboardInterrupt` if the signal came before the first update.
    """
    num_updates = count_updates(config.total_steps, config.ppo)
    log = _Log(config, directory, num_updates)
    with log:
        _stop_if(signals)
        log.introduce()
        call, updates_per_call = _compile(state, env, config, num_updates, log)
        _stop_if(signals)
        try:
            for _ in range(0, num_updates, updates_per_call):
                before, (state, metrics) = state, call(state, jnp.asarray(num_updates))
                metrics = until_diverged(jax.device_get(metrics))
                log.write(metrics)
                if config.strict:
                    numbers = config.ppo.as_arrays()
                    check_audit(
                        before, metrics, env, numbers, num_updates=num_updates, mesh=_mesh(config)
                    )
                check_divergence(
                    state,
                    env,
                    config.ppo,
                    num_updates=num_updates,
                    debug=config.debug,
                    mesh=_mesh(config),
                )
                if signals:
                    break
        finally:
            if log.num_updates_done:
                save_policy(directory / POLICY_FILE, state.policy, config)
    log.summarize()
    return log.num_updates_done == num_updates


def _mesh(config: Config) -> Mesh | None:
    return None if config.num_devices in (None, 1) else make_mesh(config.num_devices)


def _stop_if(signals: Sequence[int]) -> None:
    if signals:
        raise KeyboardInterrupt


def _compile(
    state: TrainState, env: Environment, config: Config, num_updates: int, log: "_Log"
) -> tuple[Callable, int]:
    """`(call, updates_per_call)`: the program that makes several updates."""
    length = _updates_per_call(num_updates, config.ppo.num_envs * config.ppo.num_steps)
    numbers = config.ppo.as_arrays()

    def several(state: TrainState, num_updates: Array) -> tuple[TrainState, Metrics]:
        one = partial(update, env=env, config=numbers, num_updates=num_updates, mesh=_mesh(config))
        return filter_scan(lambda state, _: one(state), state, length=length)

    started = time.monotonic()
    jitted: Any = eqx.filter_jit(several)
    call = jitted.lower(state, jnp.asarray(num_updates)).compile()
    log.compiled(time.monotonic() - started)
    return call, length


def _updates_per_call(num_updates: int, steps_per_update: int) -> int:
    """A call costs about a millisecond, so it makes some updates; not so many that a bar would
    stand still or Ctrl-C wait. It divides their number: another length is another program."""
    most = min(16, max(1, 65_536 // steps_per_update))
    return max(k for k in range(1, most + 1) if num_updates % k == 0)


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


class _Log:
    """Brings the metrics of updates to the files and to the screen."""

    def __init__(self, config: Config, directory: Path, num_updates: int):
        self._config, self._directory, self._num_updates = config, directory, num_updates
        self._steps_per_update = config.ppo.num_envs * config.ppo.num_steps
        self._compile_seconds = math.nan
        self._started = time.monotonic()
        self._seconds = 0.0  # of training so far
        self.num_updates_done = 0
        self._row = _Episodes()
        self._row_start = (0, 0.0)  # updates and seconds at the last row
        self._last_tenth = _Episodes()

    def __enter__(self) -> "_Log":
        self._files = MetricsFiles(self._directory)
        self._progress = Progress(self._num_updates)
        return self

    def __exit__(self, *_: Any) -> None:
        self._progress.stop()
        self._files.close()

    def introduce(self) -> None:
        updates = _counted(self._num_updates, "update")
        devices = self._config.num_devices or 1
        on = f" on {devices} devices" if devices > 1 else ""
        self._progress.say(
            f"{self._config.env.name}: {updates} of {self._steps_per_update:,} steps{on}, "
            f"into {self._directory}; compiling"
        )

    def compiled(self, seconds: float) -> None:
        self._compile_seconds = seconds
        self._progress.say(f"compiled in {format_seconds(seconds)}")
        self._progress.start()
        self._started = time.monotonic()

    def write(self, metrics: dict[str, Any]) -> None:
        """Takes in what a call returned, `[updates_per_call]`."""
        row = None
        before, self._seconds = self._seconds, time.monotonic() - self._started
        length = len(metrics["num_episodes"])
        for i in range(length):
            self.num_updates_done += 1
            seconds = before + (self._seconds - before) * (i + 1) / length
            one = {name: values[i].item() for name, values in metrics.items()}
            row = self._take(one, seconds) or row
        if row is not None:
            self._progress.update(row)

    def _take(self, metrics: dict[str, Any], seconds: float) -> dict[str, Any] | None:
        """Takes in one update; writes a row and returns it if one is due."""
        self._row.add(metrics)
        if self.num_updates_done > 0.9 * self._num_updates:
            self._last_tenth.add(metrics)
        if (
            self.num_updates_done % self._config.log_interval
            and self.num_updates_done < self._num_updates
            and not metrics["diverged"]
        ):
            return None
        updates_before, seconds_before = self._row_start
        steps = (self.num_updates_done - updates_before) * self._steps_per_update
        row = {
            "update": self.num_updates_done,
            "step": self.num_updates_done * self._steps_per_update,
            "seconds": seconds,
            "steps_per_second": steps / max(seconds - seconds_before, 1e-9),
            **metrics,
            **self._row.means(),
        }
        self._files.write(row)
        self._row, self._row_start = _Episodes(), (self.num_updates_done, seconds)
        return row

    def summarize(self) -> None:
        steps = self.num_updates_done * self._steps_per_update
        speed = steps / max(self._seconds, 1e-9)
        if self.num_updates_done < self._num_updates:
            ending = f"stopped after {self.num_updates_done:,} of {self._num_updates:,} updates"
        else:
            mean = self._last_tenth.means()["episode_return"]
            ending = f"return {format_return(mean)} in the last tenth"
        self._progress.say(
            f"{steps:,} steps in {format_seconds(self._seconds)} ({speed:,.0f} steps/s; compiling "
            f"took {format_seconds(self._compile_seconds)}), {ending}: {self._directory}"
        )


class _Episodes:
    """Means over the episodes of several updates."""

    def __init__(self) -> None:
        self._count, self._return, self._length = 0, 0.0, 0.0

    def add(self, metrics: dict[str, Any]) -> None:
        count = int(metrics["num_episodes"])
        if count:  # else the means are NaN
            self._count += count
            self._return += count * metrics["episode_return"]
            self._length += count * metrics["episode_length"]

    def means(self) -> dict[str, Any]:
        count = self._count or math.nan
        return {
            "episode_return": self._return / count,
            "episode_length": self._length / count,
            "num_episodes": self._count,
        }
