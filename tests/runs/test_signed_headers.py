"""Files with a checksum that is right and a header that somebody changed at random.

Whatever the change, reading gives the arrays that were saved, or one line that names the file.
"""

import copy
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from signed_files import resigned

import rlscan
from rlscan.runs import Run
from rlscan.runs._build import build_policy
from rlscan.runs._checkpoint import checkpoint_files
from rlscan.runs._config import Config, EnvConfig
from rlscan.runs._policy_config import policy_config
from rlscan.runs._policy_file import save_policy

ENV = rlscan.make("Pendulum-v1")
CONFIG = Config(
    env=EnvConfig("Pendulum-v1", {"g": 9.0}), policy=policy_config(hidden_sizes=(3,), dropout=0.25)
)
POLICY = build_policy(CONFIG, ENV, key=rlscan.key(1))
STATE = {"weight": jnp.ones((2, 3)), "keys": jax.random.split(rlscan.key(0), 4), "n": jnp.ones(())}

VALUES: list[Any] = [
    *(None, True, False, 0, 1, -1, 3, 2**31, 2**63, -(2**70), 10**400, 0.5, 1e-300, -0.0),
    *(float("nan"), float("inf"), "", "x", "3", "mix32", "threefry2x32", "a" * 5000, "\x1b[31m\n"),
    *([], [None], [1, 2], [[[]]], [2**31] * 3, {}, {"x": 1}, {"class_path": "os.system"}),
    *(json.loads("[" * 90 + "]" * 90), json.loads('{"x":' * 90 + "0" + "}" * 90), [0] * 20_000),
]


def places(node: Any, path: tuple = ()) -> Iterator[tuple]:
    """The paths of all entries of a header."""
    if isinstance(node, dict | list):
        for key in node if isinstance(node, dict) else range(len(node)):
            yield (*path, key)
            yield from places(node[key], (*path, key))


def change(header: dict[str, Any], rng: np.random.Generator) -> str:
    """Change one entry, or where it stands, and say what was done."""
    found = [path for path in places(header) if path != ("sha256",)]
    *way, last = found[rng.integers(len(found))]
    node: Any = header
    for key in way:
        node = node[key]
    action = rng.choice(["set", "set", "delete", "add", "repeat", "move"])
    value = copy.deepcopy(VALUES[rng.integers(len(VALUES))])
    if action == "set":
        node[last] = value
    elif action == "delete":
        del node[last]
    elif isinstance(node, list):
        node.insert(rng.integers(len(node) + 1), node[last] if action == "repeat" else value)
    elif action == "move":
        node[f"{last}s"] = node.pop(last)
    else:
        node["sed"] = node[last] if action == "repeat" else value
    return f"{action} {(*way, last)} {str(value)[:80]}"


def arrays(tree: Any) -> list[np.ndarray]:
    plain = jax.tree.map(
        lambda x: jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x,
        eqx.filter(tree, eqx.is_array),
    )
    return list(map(np.asarray, jax.tree.leaves(plain)))


def updates(state: Any) -> Iterator[tuple[Any, dict[str, Any]]]:
    while True:
        yield state, {"episode_return": 1.0}


def resumed(file: Path) -> Any:
    directory = file.parent.parent
    with Run(directory, STATE, num_updates=3, checkpoint_interval=0.0) as run:
        assert 0 <= run.num_updates_done <= 3
        return run.state


def exported(file: Path) -> Any:
    policy = rlscan.policies.load_exported(file)
    keys = jax.random.split(rlscan.key(5, generator=str(policy.generator)), 2)
    return policy(jnp.ones((2, 3)), keys=keys)[:3]


# How a file of each kind is written and read.
KINDS: dict[str, tuple[Callable[[Path], Any], Callable[[Path], Any]]] = {
    "policy": (lambda file: save_policy(file, POLICY, CONFIG), rlscan.load_policy),
    "checkpoint": (
        lambda file: rlscan.runs.save_checkpoint(file, STATE, config={"rate": 0.5}),
        lambda file: rlscan.runs.load_checkpoint(file, STATE),
    ),
    "exported": (
        lambda file: rlscan.policies.export(POLICY, ENV, file, stochastic=True, platforms=["cpu"]),
        exported,
    ),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A file of each kind, and the run directory of one."""
    directory = tmp_path_factory.mktemp("whole")
    files = {kind: directory / kind for kind in KINDS}
    for kind, (write, _) in KINDS.items():
        write(files[kind])
    with Run(directory / "run", STATE, num_updates=3, checkpoint_interval=0.0) as run:
        for _ in run.record(updates(STATE)):
            if run.num_updates_done == 2:
                break
    return {**files, "resumed": checkpoint_files(directory / "run")[0]}


def copied(kind: str, file: Path, directory: Path) -> Path:
    """Where a changed copy goes: of a run, into a copy of its directory."""
    if kind != "resumed":
        return directory / kind
    shutil.copytree(file.parent.parent, directory, dirs_exist_ok=True)
    return directory / file.parent.name / file.name


def check(kind: str, file: Path, directory: Path, seed: int) -> None:
    """Read a changed copy of a file."""
    load = resumed if kind == "resumed" else KINDS[kind][1]
    wanted, done, rng = arrays(STATE if kind == "resumed" else load(file)), [], None
    rng = np.random.default_rng(seed)
    directory.mkdir()
    changed = copied(kind, file, directory)
    resigned(file, changed, entries=lambda header: done.append(change(header, rng)))
    try:
        found = arrays(load(changed))
    except ValueError as error:
        message = str(error)
        assert str(directory) in message and "\n" not in message, (seed, done, message)
        assert message.isprintable() and len(message) < 1000, (seed, done, message)
        return
    except Exception as error:
        raise AssertionError(f"seed {seed}: {done}") from error
    assert len(found) == len(wanted), (seed, done)
    for a, b in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(a, b, err_msg=f"seed {seed}: {done}")


@pytest.mark.parametrize("kind", [*KINDS, "resumed"])
def test_a_changed_header_is_refused_in_one_line_or_changes_nothing(
    kind: str, whole: dict[str, Path], tmp_path: Path
):
    for seed in range(6):
        check(kind, whole[kind], tmp_path / str(seed), seed)


@pytest.mark.slow(cases="all")
@pytest.mark.parametrize("kind", [*KINDS, "resumed"])
def test_many_changed_headers(kind: str, whole: dict[str, Path], tmp_path: Path):
    for seed in range(100, 400):
        check(kind, whole[kind], tmp_path / str(seed), seed)
