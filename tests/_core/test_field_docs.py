"""The docstrings of fields in `help` of their class."""

import dataclasses
import pydoc
from typing import Any

import pytest

import rlscan
from rlscan._core import field_docs
from rlscan._core.field_docs import with_field_docs


@pytest.mark.parametrize(
    "cls",
    [
        rlscan.ppo.PPOConfig,
        rlscan.ppo.Schedule,
        rlscan.ppo.TrainState,
        rlscan.ppo.Minibatch,
        rlscan.Transition,
        rlscan.Trajectory,
        rlscan.RolloutState,
        rlscan.FinalObservations,
    ],
)
def test_help_tells_what_each_field_is(cls: Any):
    shown = pydoc.render_doc(cls, renderer=pydoc.TextDoc())
    for field in dataclasses.fields(cls):
        assert f"- `{field.name}`: " in shown, field.name
    assert all(len(line) <= 100 for line in cls.__doc__.splitlines())


@dataclasses.dataclass
class Base:
    """A class with fields."""

    first: int = 1
    """The first of them,
    in two lines."""
    second: int = 2
    without_text = 3
    """No field."""


@with_field_docs
@dataclasses.dataclass
class Derived(Base):
    """A class with one field more."""

    third: int = 3
    """The last one."""


def test_inherited_fields_are_listed_and_others_are_left_out():
    assert Derived.__doc__ == (
        "A class with one field more.\n\n**Fields:**\n\n- `first`: The first of them, in two lines."
        "\n- `third`: The last one."
    )
    assert Base.__doc__ == "A class with fields."


def test_without_a_source_the_docstring_stays(monkeypatch: pytest.MonkeyPatch):
    def missing(file: str) -> Any:
        raise FileNotFoundError(file)

    monkeypatch.setattr(field_docs, "_classes", missing)
    assert with_field_docs(Base).__doc__ == "A class with fields."
