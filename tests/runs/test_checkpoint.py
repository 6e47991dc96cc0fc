"""Checkpoints: they are read back exactly, and unreadable ones are reported."""

import dataclasses
import os
import re
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from signed_files import resigned

import rlscan
from rlscan._core import files as _file
from rlscan._core.files import entry
from rlscan.ppo._recent_returns import RecentReturns, no_returns
from rlscan.runs import _checkpoint
from rlscan.runs._checkpoint import (
    BEST,
    checkpoint_content,
    checkpoint_files,
    keep_checkpoint,
    read_checkpoint,
    restore,
)
from rlscan.runs._config import Config, to_dict
from rlscan.runs._counts import Counts, Episodes, check_counts, new_counts

CONFIG = to_dict(Config())


def a_state(generator: str = "mix32", value: float = 0.1) -> dict[str, Any]:
    return {
        "policy": {"weight": jnp.asarray([[value, 2.0]]), "half": jnp.ones(3, jnp.bfloat16)},
        "flag": jnp.asarray([True, False]),
        "count": jnp.asarray(7),
        "keys": jax.random.split(rlscan.key(3, generator=generator), (2, 3)),
        "empty": jnp.zeros((0, 2)),
        "static": jnp.tanh,
    }


def written(directory: Path, state: Any, num_updates: int = 1, **options: Any) -> Path:
    (directory / "checkpoints").mkdir(parents=True, exist_ok=True)
    options = {"best_update": 0, "keep": 2, **options}
    content = checkpoint_content(state, CONFIG, {"counts": {"num_updates": num_updates}})
    keep_checkpoint(directory, content, num_updates=num_updates, **options)
    return checkpoint_files(directory)[0]


@pytest.mark.parametrize("generator", rlscan.random.GENERATORS)
def test_every_bit_is_read_back(generator: str, tmp_path: Path):
    state, like = a_state(generator), a_state(generator, value=9.0)
    loaded = restore(read_checkpoint(written(tmp_path, state)), like)
    assert jax.tree.structure(loaded) == jax.tree.structure(state)
    for ours, theirs in zip(jax.tree.leaves(loaded), jax.tree.leaves(state), strict=True):
        assert ours is theirs or eqx.tree_equal(ours, theirs) and ours.dtype == theirs.dtype


def test_a_part_is_read_into_shapes(tmp_path: Path):
    checkpoint = read_checkpoint(written(tmp_path, a_state()))
    like = eqx.filter_eval_shape(lambda: a_state()["policy"])
    loaded = restore(checkpoint, like, within="['policy']")
    assert eqx.tree_equal(loaded, a_state()["policy"])


def test_arrays_keep_the_placement_of_the_state(tmp_path: Path):
    checkpoint = read_checkpoint(written(tmp_path, {"x": jnp.arange(4.0)}))
    on_second = {"x": jax.device_put(jnp.zeros(4), jax.devices()[1])}
    assert restore(checkpoint, on_second)["x"].devices() == {jax.devices()[1]}


@pytest.mark.parametrize(
    "change, message",
    [
        ({"count": jnp.zeros(2)}, r"\['count'\] must be float32\[2\], got int32\[\]; it was saved"),
        ({"more": jnp.zeros(2)}, r"\['more'\] must be float32\[2\], got nothing"),
        ({"count": None}, r"it has \['count'\], too"),
        (
            {"keys": jax.random.split(rlscan.key(3, generator="threefry2x32"), (2, 3))},
            r"\(keys of threefry2x32\), got uint32\[2, 3, 2\] \(keys of mix32\)",
        ),
    ],
)
def test_another_structure_is_named(change: dict[str, Any], message: str, tmp_path: Path):
    file = written(tmp_path, a_state())
    with pytest.raises(ValueError, match=message) as error:
        restore(read_checkpoint(file), {**a_state(), **change})
    assert str(error.value).startswith(f"{file} does not fit its config: ")


def test_any_lost_or_changed_byte_is_detected(tmp_path: Path):
    file = written(tmp_path, a_state())
    content = file.read_bytes()
    rng = np.random.default_rng(0)
    for at in rng.integers(0, len(content), 200):
        flipped = content[at] ^ 1 << int(rng.integers(8))
        for damaged in (content[:at], content[:at] + bytes([flipped]) + content[at + 1 :]):
            file.write_bytes(damaged)
            with pytest.raises(ValueError, match=f"^{file} (is|has)"):
                read_checkpoint(file)


def test_a_foreign_file_and_a_later_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "foreign").write_text('{"format": "rlscan policy"}\n')
    with pytest.raises(ValueError, match=f"{tmp_path}/foreign is no checkpoint saved by rlscan"):
        read_checkpoint(tmp_path / "foreign")
    with monkeypatch.context() as later:
        later.setattr(_checkpoint, "FORMAT_VERSION", 7)
        later.setattr(_file, "__version__", "8.0.0")
        file = written(tmp_path, a_state())
    with pytest.raises(ValueError, match=f"{file} has format 7, saved by rlscan 8.0.0; .* up to 1"):
        read_checkpoint(file)


# Files with a checksum that is right, from another hand.


def _leaf(**entries: Any) -> Any:
    return lambda header: header["leaves"][-1].update(entries)


def _twice(header: dict[str, Any]) -> None:
    header["leaves"][1]["name"] = header["leaves"][0]["name"]


FOREIGN: dict[str, tuple[Any, str]] = {
    "no leaves": (lambda h: h.pop("leaves"), "leaves must be a list, got null"),
    "leaves in a mapping": (lambda h: h.update(leaves={}), "leaves must be a list, got a mapping"),
    "shape as text": (_leaf(shape="2"), "leaves[5].shape must be a list, got '2'"),
    "shape with text": (_leaf(shape=["2"]), "leaves[5].shape[0] must be an integer, got '2'"),
    "a negative shape": (_leaf(shape=[-2, -1]), "must be one of the arrays that follow"),
    "a huge shape": (_leaf(shape=[2**40]), "must be one of the arrays that follow"),
    "a smaller shape": (_leaf(shape=[]), "bytes, got "),
    "objects": (_leaf(dtype="object"), "must be numbers, got the dtype 'object'"),
    "no dtype": (_leaf(dtype="float33"), "must be numbers, got the dtype 'float33'"),
    "unknown entry": (_leaf(pickle=1), "leaves[5] must not have the entry 'pickle'"),
    "the same name": (_twice, "must be one of the arrays that follow"),
}


@pytest.mark.parametrize("what", FOREIGN)
def test_a_foreign_header_is_refused_in_one_line(what: str, tmp_path: Path):
    change, message = FOREIGN[what]
    file = resigned(written(tmp_path, a_state()), tmp_path / "foreign.ckpt", entries=change)
    with pytest.raises(ValueError) as error:
        read_checkpoint(file)
    assert str(error.value).startswith(f"{file} is not as rlscan writes it: ")
    assert message in str(error.value)


def test_a_body_that_is_longer_than_declared_is_refused(tmp_path: Path):
    file = resigned(written(tmp_path, a_state()), tmp_path / "foreign", body=lambda b: b + b"1234")
    with pytest.raises(
        ValueError, match=f"{file} is not as rlscan writes it: its arrays must have"
    ):
        read_checkpoint(file)


def test_a_generator_that_is_wrong_is_refused(tmp_path: Path):
    def other(header: dict[str, Any]) -> None:
        (keys,) = (leaf for leaf in header["leaves"] if "generator" in leaf)
        keys["generator"] = "threefry2x32"

    file = resigned(written(tmp_path, a_state()), tmp_path / "foreign", entries=other)
    with pytest.raises(ValueError, match=r"\(keys of mix32\), got .* \(keys of threefry2x32\)"):
        rlscan.runs.load_checkpoint(file, a_state())


@pytest.mark.parametrize(
    "counts, message",
    [
        (None, "counts must be a mapping, got null"),
        ({"num_updates": "3"}, "counts.num_updates must be an integer, got '3'"),
        ({"row": [{"count": 1, "mean": 2}]}, "counts.row[0] must not have the entry 'mean'"),
    ],
)
def test_foreign_counts_are_refused(counts: Any, message: str, tmp_path: Path):
    change = lambda header: header.update(counts=counts)  # noqa: E731
    checkpoint = read_checkpoint(resigned(written(tmp_path, {}), tmp_path / "f", entries=change))
    with pytest.raises(ValueError, match=re.escape(message)):
        entry(checkpoint.file, checkpoint.header, "counts", Counts)


@pytest.mark.parametrize(
    "counts, message",
    [
        (new_counts(2), "counts.num_updates must be 1 or more, got 0"),
        (Counts(num_updates=3, best_update=4), "counts.best_update must be from 0 to 3, got 4"),
        (Counts(num_updates=3, row_updates=-1), "counts.row_updates must be from 0 to 3, got -1"),
        (Counts(num_updates=1), "counts.row must have 2 entries, got 1"),
        (
            dataclasses.replace(new_counts(2), num_updates=1),
            "counts.ends must have the lengths of metrics.csv and metrics.jsonl",
        ),
    ],
)
def test_counts_of_another_run_are_refused(counts: Counts, message: str):
    with pytest.raises(ValueError, match=message):
        check_counts(counts, 2)


def test_the_last_ones_and_the_best_are_kept(tmp_path: Path):
    for update in range(1, 6):
        written(tmp_path, a_state(value=update), update, best_update=min(update, 2), keep=2)
    assert [f.name for f in checkpoint_files(tmp_path)] == [
        "update-0000000005.ckpt",
        "update-0000000004.ckpt",
    ]
    best = restore(read_checkpoint(tmp_path / "checkpoints" / BEST), a_state())
    assert best["policy"]["weight"][0, 0] == 2.0
    assert len(os.listdir(tmp_path / "checkpoints")) == 3


def test_the_best_is_kept_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def link(*_):
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", link)
    file = written(tmp_path, a_state(), best_update=1)
    assert file.with_name(BEST).read_bytes() == file.read_bytes()


def test_a_failed_save_leaves_the_old_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def fail(*_):
        raise OSError(28, "No space left on device")

    old = [written(tmp_path, a_state(), update) for update in (1, 2)]
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space left") as error:
        written(tmp_path, a_state(), 3)
    assert error.value.filename.endswith("update-0000000003.ckpt")
    assert sorted(os.listdir(tmp_path / "checkpoints")) == [file.name for file in old]


def test_counts_are_read_back_unchanged(tmp_path: Path):
    counts = Counts(3, 1 / 3, row=[Episodes(2, 0.1, 1e-300)], ends={"metrics.csv": 12})
    file = written(tmp_path, {})
    file.write_bytes(checkpoint_content({}, CONFIG, {"counts": dataclasses.asdict(counts)}))
    assert entry(file, read_checkpoint(file).header, "counts", Counts) == counts


def test_the_best_checkpoint_follows_the_best_stretch():
    counts = Counts(num_updates=4, since_checkpoint=[Episodes(2, 20.0, 2.0)]).at_checkpoint()
    assert (counts.best_return, counts.best_update) == (10.0, 4)
    counts.num_updates = 8
    assert counts.at_checkpoint() == counts  # no episode ended, so it is not better
    counts.since_checkpoint = [Episodes(1, 9.0, 1.0)]
    assert counts.at_checkpoint().best_update == 4
    counts.since_checkpoint = [Episodes(1, 11.0, 1.0)]
    assert counts.at_checkpoint().best_update == 8


def test_a_checkpoint_from_before_recent_returns_starts_without_any(tmp_path: Path):
    class Before(eqx.Module):
        number: jax.Array

    class Now(Before):
        recent_returns: RecentReturns

    rlscan.runs.save_checkpoint(tmp_path / "a.ckpt", Before(jnp.ones(3)))
    like = Now(jnp.zeros(3), no_returns())
    loaded = rlscan.runs.load_checkpoint(tmp_path / "a.ckpt", like)
    assert loaded.number.tolist() == [1, 1, 1] and int(loaded.recent_returns.count) == 0
