"""Tests of the tested versions: the constraints files, the metadata and the warning agree."""

import ast
import subprocess
import sys
import tomllib
import warnings
from collections.abc import Iterator
from pathlib import Path

import equinox as eqx
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version
from probes import Wander, dropout_policy

import rlscan
from rlscan._core import versions
from rlscan._core.versions import TESTED, warn_if_untested

ROOT = Path(__file__).parent.parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def pins(name: str) -> dict[str, Version]:
    lines = (ROOT / name).read_text().splitlines()
    pairs = (line.split("==") for line in lines if line and not line.startswith("#"))
    return {canonicalize_name(package): Version(version) for package, version in pairs}


OLDEST, USUAL, NEWEST = map(
    pins, ("constraints-oldest.txt", "constraints.txt", "constraints-newest.txt")
)


def required() -> dict[str, Requirement]:
    """What rlscan needs and what `[dev]` installs, its own extras resolved."""
    extras, waiting, found = PROJECT["optional-dependencies"], ["rlscan[dev]"], {}
    waiting += PROJECT["dependencies"]
    while waiting:
        one = Requirement(waiting.pop())
        if one.name == "rlscan":
            waiting += [line for extra in one.extras for line in extras[extra]]
        else:
            found[canonicalize_name(one.name)] = one
    return found


@pytest.mark.parametrize("name", sorted(required()))
def test_every_floor_is_tested(name: str) -> None:
    """`.ci/long` runs the quick tests with the oldest versions, so a floor is no guess."""
    (floor,) = (Version(s.version) for s in required()[name].specifier if s.operator == ">=")
    assert OLDEST[name] == floor
    for newer in (USUAL, NEWEST):
        assert required()[name].specifier.contains(newer[name])


def test_the_tested_ranges_are_those_of_the_constraints() -> None:
    ranges = {n: (str(OLDEST[n]), str(max(USUAL[n], NEWEST[n]))) for n in TESTED}
    assert ranges == TESTED
    assert set(TESTED) == {"jax", "equinox", "gymnax", "distrax", "optax"}


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Versions that seem to be installed; no package has been asked about yet."""
    found = {name: oldest for name, (oldest, _) in TESTED.items()}

    def version(name: str) -> str:
        if name not in found:
            raise versions.PackageNotFoundError(name)
        return found[name]

    monkeypatch.setattr(versions, "version", version)
    monkeypatch.setattr(versions, "_asked", set())
    return found


@pytest.mark.parametrize("jax", [TESTED["jax"][0], TESTED["jax"][1], TESTED["jax"][1] + "+cuda12"])
def test_tested_versions_pass_without_a_word(installed: dict[str, str], jax: str) -> None:
    installed["jax"] = jax
    warn_if_untested()


def test_an_untested_version_is_told_once_with_the_range_and_the_edit(
    installed: dict[str, str],
) -> None:
    installed.update(jax="99.1.2", optax="0.1.0")
    oldest, newest = TESTED["jax"]
    with pytest.warns(UserWarning) as told:
        warn_if_untested()
    assert [str(one.message).split(";")[0] for one in told] == [
        f"rlscan is tested with jax {oldest} to {newest}, got jax 99.1.2",
        f"rlscan is tested with optax {TESTED['optax'][0]}, got optax 0.1.0",
    ]
    assert f"pip install 'jax>={oldest},<={newest}'" in str(told[0].message)
    warn_if_untested()  # warnings are errors here


def test_a_suite_has_ranges_of_its_own(installed: dict[str, str]) -> None:
    installed["a-suite"] = "2.0"
    warn_if_untested({"not-installed": ("1.0", "2.0")})
    with pytest.warns(UserWarning, match=r"tested with a-suite 1\.0 to 1\.5, got a-suite 2\.0"):
        warn_if_untested({"a-suite": ("1.0", "1.5")})


def calls() -> Iterator[list[type[ast.AST]]]:
    """The statements around each call of the warning in the library, from the outside in."""

    def walk(node: ast.AST, around: list[type[ast.AST]]) -> Iterator[list[type[ast.AST]]]:
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("warn_if_untested"):
            yield around
        for child in ast.iter_child_nodes(node):
            yield from walk(child, [*around, type(node)])

    for file in (ROOT / "rlscan").rglob("*.py"):
        if "warn_if_untested" in (text := file.read_text()):
            yield from walk(ast.parse(text), [])


def test_an_import_never_warns() -> None:
    found = list(calls())
    assert found and all(ast.FunctionDef in around for around in found)


@pytest.mark.parametrize("first", ["rollout", "train"])
def test_the_first_rollout_or_training_warns(installed: dict[str, str], first: str) -> None:
    installed["equinox"] = "99.0"
    env, policy, key = Wander(), dropout_policy(), rlscan.key(0)

    def rollout() -> object:
        state = eqx.filter_eval_shape(lambda: rlscan.init_rollout(policy, env, num_envs=1, key=key))
        return eqx.filter_eval_shape(lambda state: rlscan.rollout(policy, env, state, 1), state)

    def train() -> object:
        with pytest.raises(ValueError, match="total_steps"):  # after the warning
            rlscan.train(policy, env, rlscan.ppo.PPOConfig(), total_steps=0, key=key)
        return None

    call = {"rollout": rollout, "train": train}[first]
    with pytest.warns(UserWarning, match=r"equinox 0\.13\.8, got equinox 99\.0"):
        call()
    with warnings.catch_warnings(action="error"):
        call()


WITHOUT_GYMNAX_AND_DISTRAX = """
import sys

for name in ("gymnax", "distrax", "chex", "flax", "tensorflow_probability", "matplotlib"):
    sys.modules[name] = None  # then its import fails

import equinox as eqx, jax, jax.numpy as jnp, rlscan
from rlscan.testing import Box, Discrete

class Bernoulli(eqx.Module):
    logit: jax.Array

    def sample(self, *, seed):
        return jax.random.bernoulli(seed, jax.nn.sigmoid(self.logit)).astype(jnp.int32)

    def log_prob(self, action):
        return -jax.nn.softplus(jnp.where(action == 1, -self.logit, self.logit))

    def entropy(self):
        p = jax.nn.sigmoid(self.logit)
        return -p * self.log_prob(1) - (1 - p) * self.log_prob(0)

class Policy(eqx.Module):
    layer: eqx.nn.Linear
    dropout: eqx.nn.Dropout

    def __call__(self, observation, state, *, key):
        logit, value = self.layer(self.dropout(observation, key=key))
        return Bernoulli(logit), value, state

    def initial_state(self):
        return ()

class Guess(eqx.Module):
    def reset(self, key):
        seen = jax.random.normal(key, (4,))
        return seen, seen

    def step(self, key, state, action):
        seen, after = self.reset(key)
        info = {"final_observation": seen}
        return seen, after, (action == 1) == (state[0] > 0), True, False, info

    def observation_space(self):
        return Box(-jnp.inf, jnp.inf, (4,))

    def action_space(self):
        return Discrete(2)

env = Guess()
policy = Policy(eqx.nn.Linear(4, 2, key=jax.random.key(0)), eqx.nn.Dropout(0.1))
config = rlscan.ppo.PPOConfig(num_envs=8, num_steps=8, num_minibatches=2, num_epochs=1)
*_, (state, metrics) = rlscan.train(policy, env, config, total_steps=192, key=rlscan.key(1))
print(metrics["audit_log_ratio"])
"""


@pytest.mark.slow
def test_without_gymnax_and_distrax_own_classes_train() -> None:
    """The documentation says what an installation without them can do."""
    command = [sys.executable, "-c", WITHOUT_GYMNAX_AND_DISTRAX]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 1e-5
