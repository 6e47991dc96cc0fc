"""Docstrings open with no fragment, and texts teach only names that are listed."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import rlscan

ROOT = Path(__file__).parent.parent
FOLDERS = ("rlscan", "scripts", "benchmarks", "tests")
FILES = sorted(file for folder in FOLDERS for file in (ROOT / folder).rglob("*.py"))
TAUGHT = sorted(
    file
    for pattern in (
        "*.md",
        "docs/**/*.md",
        "rlscan/**/*.py",
        "scripts/*.py",
        "benchmarks/**/*.py",
        "benchmarks/**/*.md",
    )
    for file in ROOT.glob(pattern)
)
FRAGMENTS = re.compile(r"(Of|By|Those|That|With)\b")


def fragments(source: str) -> Iterator[tuple[int, str]]:
    """Line and text of each docstring that opens with a fragment, those of attributes included."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Expr(value=ast.Constant(value=str(text))) if FRAGMENTS.match(text.strip()):
                yield node.lineno, text.strip().partition("\n")[0]


def test_fragments_are_found() -> None:
    source = '''"""Of all modules."""
class A:
    """With fields."""

    x: int
    """
    Those of x.
    """

    def f(self):
        """By calling. It is Of no use."""
        lambda: "Of a lambda"

async def g():
    """That which is awaited."""
    text = "Of a string that is no docstring"
    """Ofen, Bypass and Withdraw are words."""
'''
    found = {text.split()[0] for _, text in fragments(source)}
    assert [line for line, _ in sorted(fragments(source))] == [1, 3, 6, 11, 15]
    assert found == {"Of", "With", "Those", "By", "That"}


@pytest.mark.parametrize("folder", FOLDERS)
def test_no_docstring_opens_with_a_fragment(folder: str) -> None:
    found = [
        f"{file.relative_to(ROOT)}:{line}: {text}"
        for file in FILES
        if file.is_relative_to(ROOT / folder)
        for line, text in fragments(file.read_text())
    ]
    assert FILES and not found, (
        "a docstring opens with an imperative sentence or a noun phrase, not with Of, By, Those, "
        "That or With:\n" + "\n".join(found)
    )


def old_names(text: str) -> set[str]:
    """List the names that a text gives as `rlscan.name` although `dir(rlscan)` hides them."""
    names = set(re.findall(r"(?<![\w.])rlscan\.([A-Za-z]\w*)", text))
    return names - set(dir(rlscan)) - {"environments"}  # a group of entry points


def test_old_names_are_found() -> None:
    assert old_names("`rlscan.ActorCritic`, rlscan.policies.ActorCritic, rlscan.rollout") == {
        "ActorCritic"
    }


@pytest.mark.parametrize("file", TAUGHT, ids=lambda file: str(file.relative_to(ROOT)))
def test_names_are_taught_where_they_are_listed(file: Path) -> None:
    assert not old_names(file.read_text())
