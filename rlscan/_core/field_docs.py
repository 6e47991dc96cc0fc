"""`with_field_docs`: the docstrings of a class's fields in `help` of the class."""

import ast
import inspect
from dataclasses import fields
from functools import cache
from pathlib import Path
from textwrap import fill
from typing import Any, TypeGuard, TypeVar

Class = TypeVar("Class", bound=type)


def with_field_docs(cls: Class) -> Class:
    """Decorate a dataclass: its docstring lists the fields with the docstrings that follow them.

    Inherited fields are listed too. Python drops a string that stands after a field, so they are
    read from the source; without one, as in a program that was frozen, the docstring stays as it
    is.
    """
    texts: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if base.__module__.partition(".")[0] == cls.__module__.partition(".")[0]:
            texts |= _field_docs(base)  # those of other packages take long to read
    listed: list[Any] = [field for field in fields(cls) if field.name in texts]
    if listed and cls.__doc__:
        lines = "\n".join(
            fill(f"- `{field.name}`: {texts[field.name]}", 96, subsequent_indent="    ")
            for field in listed
        )
        cls.__doc__ = f"{inspect.cleandoc(cls.__doc__)}\n\n**Fields:**\n\n{lines}"
    return cls


def _field_docs(cls: type) -> dict[str, str]:
    try:
        classes = _classes(inspect.getfile(cls))
    except (OSError, TypeError):  # there is no source; or the class is Python's own
        return {}
    body = classes.get(cls.__qualname__, [])
    texts = {}
    for field, after in zip(body, body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            text = ast.literal_eval(after.value) if _is_text(after) else None
            texts |= {field.target.id: inspect.cleandoc(text)} if text else {}
    return texts


def _is_text(statement: ast.stmt) -> TypeGuard[ast.Expr]:
    constant = statement.value if isinstance(statement, ast.Expr) else None
    return isinstance(constant, ast.Constant) and isinstance(constant.value, str)


@cache
def _classes(file: str) -> dict[str, list[ast.stmt]]:
    """The bodies of the classes at the top of a file."""
    tree = ast.parse(Path(file).read_text(encoding="utf-8"))
    return {node.name: node.body for node in tree.body if isinstance(node, ast.ClassDef)}
