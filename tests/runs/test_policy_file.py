"""Policy files: saving, loading and damage."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest
from signed_files import resigned

import rlscan
from rlscan._core import files as _file
from rlscan._core.files import reserve
from rlscan.runs import _policy_file
from rlscan.runs._build import build_policy
from rlscan.runs._config import Config, EnvConfig
from rlscan.runs._policy_config import policy_config
from rlscan.runs._policy_file import POLICY_FILE, policy_content, save_policy

CONFIG = Config(
    env=EnvConfig("Pendulum-v1", {"g": 9.0}),  # log_std is a leaf too
    policy=policy_config(hidden_sizes=(5, 3), activation="relu", dropout=0.25),
)


def a_policy(config: Config = CONFIG, seed: int = 1) -> Any:
    env = rlscan.make(str(config.env.name), **config.env.params)
    return build_policy(config, env, key=rlscan.key(seed))


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a policy, as a run leaves it."""
    directory = tmp_path_factory.mktemp("run")
    (directory / POLICY_FILE).parent.mkdir()
    save_policy(directory / POLICY_FILE, a_policy(), CONFIG)
    return directory


def damaged(saved: Path, directory: Path, change) -> Path:
    file = directory / "policy.eqx"
    file.write_bytes(change((saved / POLICY_FILE).read_bytes()))
    return file


def test_a_policy_is_read_back_unchanged(saved: Path):
    assert eqx.tree_equal(rlscan.load_policy(saved, inference=False), a_policy())


def test_a_file_may_be_given_instead_of_its_directory(saved: Path):
    from_file = rlscan.load_policy(saved / POLICY_FILE)
    assert eqx.tree_equal(from_file, rlscan.load_policy(str(saved)))


def test_the_saved_policy_is_loaded_not_a_new_one(saved: Path):
    assert not eqx.tree_equal(rlscan.load_policy(saved, inference=False), a_policy(seed=2))


def test_dropout_is_off_unless_asked_for(saved: Path):
    def value_and_mean(policy, seed: int):
        distribution, value, _ = policy(jnp.ones(3), (), key=rlscan.key(seed))
        return value, distribution.mean()

    policy = rlscan.load_policy(saved)
    assert (
        jax.tree.map(jnp.array_equal, *[value_and_mean(policy, s) for s in (0, 1)]) == (True,) * 2
    )
    noisy = rlscan.load_policy(saved, inference=False)
    means = {float(value_and_mean(noisy, seed)[1][0]) for seed in range(20)}
    assert len(means) > 1


def test_the_first_line_is_json_and_says_what_the_file_is(saved: Path):
    header = json.loads((saved / POLICY_FILE).read_bytes().split(b"\n")[0])
    assert header["format"] == "rlscan policy"
    assert header["rlscan_version"] == rlscan.__version__
    assert header["config"]["policy"]["init_args"]["hidden_sizes"] == [5, 3]


def test_no_run_there(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=f"no policy at {tmp_path}/checkpoints/policy.eqx"):
        rlscan.load_policy(tmp_path)
    with pytest.raises(FileNotFoundError, match="no policy at .*nowhere; give the directory"):
        rlscan.load_policy(tmp_path / "nowhere")


@pytest.mark.parametrize("cut", [1, 100, 400])
def test_a_file_that_is_cut_short(saved: Path, tmp_path: Path, cut: int):
    file = damaged(saved, tmp_path, lambda content: content[:-cut])
    with pytest.raises(ValueError, match=f"{file} is cut short or damaged"):
        rlscan.load_policy(file)


def test_a_file_cut_in_its_first_line(saved: Path, tmp_path: Path):
    file = damaged(saved, tmp_path, lambda content: content[:50])
    with pytest.raises(ValueError, match=f"{file} is no policy saved by rlscan, or its first line"):
        rlscan.load_policy(file)


@pytest.mark.parametrize("old, new", [(b"Pendulum", b"Pandulum"), (b"0.25", b"0.75")])
def test_a_damaged_config(saved: Path, tmp_path: Path, old: bytes, new: bytes):
    file = damaged(saved, tmp_path, lambda content: content.replace(old, new, 1))
    with pytest.raises(ValueError, match="does not match its checksum"):
        rlscan.load_policy(file)


def test_one_flipped_bit(saved: Path, tmp_path: Path):
    file = damaged(saved, tmp_path, lambda c: c[:-7] + bytes([c[-7] ^ 1]) + c[-6:])
    with pytest.raises(ValueError, match=f"{file} is cut short or damaged"):
        rlscan.load_policy(file)


@pytest.mark.parametrize("content", [b"", b"\n", b"PK\x03\x04\xff", b"[1]\n", b'{"format": "x"}\n'])
def test_a_foreign_file(tmp_path: Path, content: bytes):
    (tmp_path / "foreign").write_bytes(content)
    with pytest.raises(ValueError, match=f"{tmp_path}/foreign is no policy saved by rlscan"):
        rlscan.load_policy(tmp_path / "foreign")


def test_a_later_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    file = tmp_path / "policy.eqx"
    with monkeypatch.context() as later:
        later.setattr(_policy_file, "FORMAT_VERSION", 9)
        later.setattr(_file, "__version__", "9.0.0")
        save_policy(file, a_policy(), CONFIG)
    with pytest.raises(ValueError, match=f"{file} has format 9, saved by rlscan 9.0.0; .* up to 3"):
        rlscan.load_policy(file)


def test_a_failed_save_leaves_the_old_file(saved: Path, monkeypatch: pytest.MonkeyPatch):
    def fail(*_):
        raise OSError(28, "No space left on device")

    before = (saved / POLICY_FILE).read_bytes()
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space left") as error:
        save_policy(saved / POLICY_FILE, a_policy(seed=2), CONFIG)
    assert error.value.filename == str(saved / POLICY_FILE)
    assert (saved / POLICY_FILE).read_bytes() == before
    assert os.listdir((saved / POLICY_FILE).parent) == [POLICY_FILE.name]


def test_exactly_the_needed_space_is_reserved(tmp_path: Path):
    """It must be exact to the byte, because a full disk has not one more."""
    file = tmp_path / "policy.eqx"
    reserved = reserve(file, len(policy_content(a_policy(), CONFIG)))
    inode, size = reserved.stat().st_ino, reserved.stat().st_size
    with pytest.raises(FileNotFoundError):  # the reserved file is not taken for a policy
        rlscan.load_policy(tmp_path / POLICY_FILE)
    save_policy(file, a_policy(seed=2), CONFIG, room=reserved)
    assert (file.stat().st_ino, file.stat().st_size) == (inode, size)
    assert os.listdir(tmp_path) == [file.name]
    assert eqx.tree_equal(rlscan.load_policy(file, inference=False), a_policy(seed=2))


@pytest.mark.slow
def test_an_annealed_rate_is_that_of_the_last_update(tmp_path: Path):
    settings = policy_config(hidden_sizes=(8,), dropout=0.5, dropout_end=0.1)
    config = Config(policy=settings, ppo=rlscan.ppo.PPOConfig(num_envs=2), total_steps=5 * 2 * 128)
    policy = a_policy(config)
    assert [float(rlscan.nn.anneal(policy, u).actor.dropout.p) for u in (0, 1, 4, 5)] == (
        pytest.approx([0.5, 0.4, 0.1, 0.1])  # the last of five updates has the number 4
    )
    last = rlscan.nn.anneal(policy, 3)
    save_policy(tmp_path / "policy.eqx", last, config)
    loaded: Any = rlscan.load_policy(tmp_path / "policy.eqx", inference=False)
    assert float(loaded.actor.dropout.p) == pytest.approx(0.2)
    for ours, theirs in zip(*map(jax.tree.leaves, (loaded, last)), strict=True):
        assert callable(ours) or jnp.array_equal(ours, theirs)


def test_the_format_before_this_one(saved: Path, tmp_path: Path):
    """Its checksum covered only config and leaves, and its config had fewer keys."""
    line, _, leaves = (saved / POLICY_FILE).read_bytes().partition(b"\n")
    config = json.loads(line)["config"]
    for key in ("checkpoint_interval", "keep_checkpoints", "num_seeds", "sweep", "num_samples"):
        del config[key]
    checksum = hashlib.sha256(json.dumps(config).encode() + leaves).hexdigest()
    header = {"format": "rlscan policy", "format_version": 2, "rlscan_version": "0.1.0"}
    header |= {"config": config, "sha256": checksum}
    file = tmp_path / "policy.eqx"
    file.write_bytes(json.dumps(header).encode() + b"\n" + leaves)
    assert eqx.tree_equal(rlscan.load_policy(file, inference=False), a_policy())


# Files with a checksum that is right, from another hand.


def _with(**settings: Any) -> Any:
    return lambda header: header["config"].update(settings)


def _swapped(header: dict[str, Any]) -> None:
    leaves = header["leaves"]
    leaves[0], leaves[1] = leaves[1], leaves[0]


FOREIGN: dict[str, tuple[Any, str]] = {
    "no config": (lambda h: h.pop("config"), "holds a policy that no config of rlscan builds"),
    "config is null": (lambda h: h.update(config=None), "holds a policy that no config of rlscan"),
    "config is a list": (lambda h: h.update(config=[1]), "config must be a mapping, got a list"),
    "unknown key": (_with(sed=1), "config must not have the entry 'sed'"),
    "unknown group": (_with(env={"nam": "x"}), "config.env must not have the entry 'nam'"),
    "another type": (_with(ppo={"gamma": "1"}), "config.ppo.gamma must be a number, got '1'"),
    "null": (_with(ppo={"gamma": None}), "config.ppo.gamma must be a number, got null"),
    "a flag": (_with(seed=True), "config.seed must be an integer, got True"),
    "a huge number": (_with(ppo={"gamma": 10**400}), "config.ppo.gamma must be a number, got one"),
    "many runs": (_with(num_seeds=2**31 - 1), "config.num_seeds"),
    "text in a list": (
        _with(policy={"init_args": {"hidden_sizes": [5, "3"]}}),
        "config.policy.hidden_sizes[1] must be an integer, got '3'",
    ),
    "generator": (_with(generator="mix33"), "config.generator must be one of mix32, philox4x32"),
    "invalid": (
        _with(policy={"init_args": {"dropout": 2}}),
        "config.policy.dropout must be in [0, 1), got 2",
    ),
    "environment": (
        _with(env={"name": "Pendulum-v1", "params": {"x": 1}}),
        "env.params: Pendulum-v1 has no parameter 'x'",
    ),
    "deep parameters": (
        _with(env={"params": json.loads('{"x":' * 50 + "0" + "}" * 50)}),
        "config.env.params.x must hold at most 10,000 values, in at most 32 levels",
    ),
    "no leaf": (lambda h: h["leaves"].pop(), ".head.parts.log_std float32[1] must come next"),
    "one leaf more": (lambda h: h["leaves"].append(h["leaves"][0]), "no array must come next, got"),
    "another order": (_swapped, "must come next, got"),
    "shapes as text": (
        lambda h: h["leaves"][1].update(shape="3"),
        "leaves[1].shape must be a list, got '3'",
    ),
    "format version": (
        lambda h: h.update(format_version=True),
        "format_version must be an integer",
    ),
    "unnamed": (lambda h: h["leaves"][0].pop("name"), "leaves[0] must have the entry 'name'"),
}


@pytest.mark.parametrize("what", FOREIGN)
def test_a_foreign_header_is_refused_in_one_line(what: str, saved: Path, tmp_path: Path):
    change, message = FOREIGN[what]
    file = resigned(saved / POLICY_FILE, tmp_path / "policy.eqx", entries=change)
    with pytest.raises(ValueError) as error:
        rlscan.load_policy(file)
    assert str(error.value).startswith(f"{file} ") and message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "body, message",
    [
        (lambda body: body + b"more", "4 bytes follow its last array"),
        (lambda body: body[:-8], "does not fit its policy: "),
        (lambda body: b"", "does not fit its policy: "),
        (lambda body: b"PK\x03\x04" + body, "does not fit its policy: "),
    ],
)
def test_a_foreign_body_is_refused_in_one_line(
    body: Any, message: str, saved: Path, tmp_path: Path
):
    file = resigned(saved / POLICY_FILE, tmp_path / "policy.eqx", body=body)
    with pytest.raises(ValueError) as error:
        rlscan.load_policy(file)
    assert str(error.value).startswith(f"{file} ") and message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("depth", [5_000, 100_000])
def test_json_that_is_nested_deeply_is_refused(depth: int, tmp_path: Path):
    file = tmp_path / "policy.eqx"
    file.write_text('{"format": "rlscan policy", "config":' + "[" * depth + "]" * depth + "}\n")
    with pytest.raises(
        ValueError, match=f"{file} is (no policy saved by rlscan, or its|cut short)"
    ):
        rlscan.load_policy(file)


def test_parameters_that_are_nan_are_refused(tmp_path: Path):
    policy = eqx.tree_at(lambda p: p.head.parts.log_std, a_policy(), jnp.full(1, jnp.nan))
    save_policy(tmp_path / "policy.eqx", policy, CONFIG)
    with pytest.raises(ValueError, match=r"parameters that are NaN: 1 of 1 in .*log_std; use"):
        rlscan.load_policy(tmp_path / "policy.eqx")


def test_a_single_run_has_no_other_policy(saved: Path):
    assert eqx.tree_equal(rlscan.load_policy(saved, run=0), rlscan.load_policy(saved))
    with pytest.raises(ValueError, match="holds one run; run must be from 0 to 0, got 1"):
        rlscan.load_policy(saved, run=1)
