"""The study at a tiny size, to see that it runs and that its arms are equal at p = 0."""

import dataclasses
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.consistency import cells, report
from benchmarks.consistency.arms import ARMS, arm
from benchmarks.consistency.tasks import CARTPOLE, MEMORY_CHAIN, Task
from benchmarks.consistency.training import Program, make_program

SEEDS = [0, 1]


def run(results: Path) -> None:
    tasks = [smaller(CARTPOLE), smaller(MEMORY_CHAIN)]
    for task in tasks:
        program = make_program(task)
        assert_arms_agree_without_dropout(task, program)
        for cell in cells.cells_of(task):
            cells.run(cell, program, SEEDS, results)
    report.write(tasks, results)
    files = sorted(path for path in results.rglob("*") if path.is_file())
    print(f"{len(files)} files, {sum(path.stat().st_size for path in files)} bytes")


def smaller(task: Task, num_updates: int = 6) -> Task:
    config = dataclasses.replace(task.config, num_envs=4, num_steps=32, num_epochs=2)
    return dataclasses.replace(
        task,
        config=config,
        total_steps=num_updates * 4 * 32,
        num_seeds=len(SEEDS),
        rates=(0.5,),
    )


def assert_arms_agree_without_dropout(task: Task, program: Program) -> None:
    """Assert that at p = 0 every metric of every update is bitwise the same in all arms."""
    for target_kl in (math.inf, 1e-4):
        runs = [
            jax.device_get(program(jnp.asarray(SEEDS), arm(name, 0.0, target_kl))) for name in ARMS
        ]
        leaves = [jax.tree.leaves(one) for one in runs]
        for others in leaves[1:]:
            for ours, theirs in zip(leaves[0], others, strict=True):
                np.testing.assert_array_equal(ours.view(np.uint8), theirs.view(np.uint8))
    print(f"{task.name}: at p = 0 all arms are the same, bit for bit")
