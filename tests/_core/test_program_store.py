"""Programs are loaded from the disk only where nothing they depend on has changed."""

import importlib
import os
import sys
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rlscan
from rlscan._core import program_store
from rlscan._core.program import Program
from rlscan._core.program_store import stored_programs
from rlscan.random._pickle import allow_pickled_keys


class Result(eqx.Module):
    key: Any
    values: Any
    activation: Any
    world: Any


class World:
    """Something that each process makes for itself."""

    def __init__(self):
        self.inner = [1, 2]


@pytest.fixture(autouse=True)
def cache(compile_cache):
    allow_pickled_keys()
    return compile_cache / "rlscan" / "programs"


@pytest.fixture
def compiled(monkeypatch):
    """The number of programs that were compiled for the store."""
    calls = []
    real = program_store._compile
    monkeypatch.setattr(program_store, "_compile", lambda x: calls.append(x) or real(x))
    return calls


def run(traced: list, *, made_from: Any = "settings", factor=3, world=None, activation=jnp.tanh):
    """Make a program and call it; `traced` grows if it is traced."""
    world = World() if world is None else world

    def scaled(key, x):
        traced.append(True)
        return Result(jax.random.split(key), x * factor, activation, world)

    with stored_programs(made_from, world):
        arguments = rlscan.key(0), jnp.arange(3.0)
        return Program(scaled, *arguments, stored_as="scaled").compile()(*arguments), world


def test_a_stored_program_is_neither_traced_nor_compiled(compiled):
    first, _ = run([])
    traced = []
    again, world = run(traced)
    assert not traced and len(compiled) == 1
    np.testing.assert_array_equal(again.values, [0, 3, 6])
    assert again.key.dtype == first.key.dtype
    assert jnp.array_equal(jax.random.key_data(again.key), jax.random.key_data(first.key))
    assert again.activation is jnp.tanh
    assert again.world is world  # the one of this process, not a copy


@pytest.mark.parametrize("change", ["settings", "name", "shapes", "flags"])
def test_what_a_program_is_made_from_tells_it_from_others(change, monkeypatch):
    run([])
    traced = []
    if change == "settings":
        run(traced, made_from="others")
    elif change == "flags":
        monkeypatch.setenv("XLA_FLAGS", os.environ.get("XLA_FLAGS", "") + " ")
        run(traced)
    else:
        size, name = (4, "scaled") if change == "shapes" else (3, "other")
        with stored_programs("settings"):
            Program(lambda key, x: traced.append(x), rlscan.key(0), jnp.ones(size), stored_as=name)
    assert traced


def test_other_settings_with_the_same_program_compile_nothing(compiled):
    run([])
    traced = []
    found, _ = run(traced, made_from="a value that is an argument")
    assert traced and len(compiled) == 1
    np.testing.assert_array_equal(found.values, [0, 3, 6])


def test_another_program_under_the_same_settings_is_noticed_once_it_is_traced(compiled):
    """The program is that of its text, whatever is stored for other settings."""
    run([])
    found, _ = run([], made_from="others", factor=4)
    assert len(compiled) == 2
    np.testing.assert_array_equal(found.values, [0, 4, 8])


def test_a_program_of_another_machine_or_jax_is_compiled_again(compiled, monkeypatch):
    """Its text may be the same, but the compiled code is not."""
    run([])
    monkeypatch.setattr(program_store, "_machine", lambda: "another one")
    run([])
    assert len(compiled) == 2


def test_changed_code_is_traced_again(tmp_path, monkeypatch):
    file = tmp_path / "some_code.py"
    file.write_text("x = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    importlib.import_module("some_code")
    try:
        run([])
        traced = []
        run(traced)
        assert not traced
        file.write_text("x = 10\n")
        run(traced)
        assert traced
    finally:
        del sys.modules["some_code"]


def test_a_damaged_file_is_compiled_again(cache, compiled):
    run([])
    for file in cache.iterdir():
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
    traced = []
    found, _ = run(traced)
    assert traced and len(compiled) == 2
    np.testing.assert_array_equal(found.values, [0, 3, 6])
    run(traced)
    assert len(traced) == 1 and len(compiled) == 2  # it is whole again


@pytest.mark.parametrize("who", ["directory", "link", "file"])
def test_what_others_could_write_is_not_loaded(who, cache, tmp_path):
    run([])
    if who == "directory":
        cache.chmod(0o755)
    elif who == "link":
        cache.rename(tmp_path / "elsewhere")
        cache.symlink_to(tmp_path / "elsewhere")
    else:
        for file in cache.iterdir():
            file.chmod(0o666)
    traced = []
    run(traced)
    assert traced


def test_nothing_is_stored_if_the_cache_is_off(cache):
    jax.config.update("jax_enable_compilation_cache", False)
    run([])
    assert not cache.exists()


def test_what_cannot_be_pickled_is_traced_each_time_and_compiled_once(compiled):
    run([], activation=lambda x: x)
    traced = []
    run(traced, activation=lambda x: x)
    assert traced and len(compiled) == 1


def test_programs_that_call_python_are_not_stored(cache):
    def called(x):
        jax.debug.callback(lambda x: None, x)
        return x

    with stored_programs("settings"):
        Program(called, jnp.ones(2), stored_as="called").compile()(jnp.ones(2))
    assert not list(cache.iterdir())


def test_the_least_recently_used_programs_are_deleted_first(cache, monkeypatch):
    run([], made_from="old")
    files = list(cache.iterdir())
    for file in files:
        os.utime(file, (1, 1))
    size = sum(file.stat().st_size for file in files)
    monkeypatch.setattr(program_store, "_MOST_BYTES", int(1.5 * size))
    run([], made_from="new", factor=5)
    traced = []
    run(traced, made_from="new", factor=5)
    assert not traced
    assert sum(file.stat().st_size for file in cache.iterdir()) <= 1.5 * size


def test_a_program_is_not_stored_outside_of_the_context(cache):
    double = partial(jnp.multiply, 2)
    Program(double, jnp.ones(2), stored_as="double").compile()(jnp.ones(2))
    assert not cache.exists()
