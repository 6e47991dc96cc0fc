"""Defaults of fields as users know them: an extension of griffe, which reads the code.

A field shows its default, not the call that declares it, and nothing that an `__init__` assigns.
"""

import ast

import griffe


class FieldDefaults(griffe.Extension):
    """Puts the default of a field in the place of `eqx.field(default=…)` and its like."""

    def on_class_members(self, *, node: ast.AST, cls: griffe.Class, **kwargs: object) -> None:
        if not isinstance(node, ast.ClassDef):
            return
        for statement in node.body:
            if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
                attribute = cls.members.get(statement.target.id)
                if isinstance(attribute, griffe.Attribute):
                    attribute.value = _default(statement.value)


def _default(value: ast.expr | None) -> str | None:
    if not isinstance(value, ast.Call):
        return None if value is None else ast.unparse(value)
    given = {keyword.arg: keyword.value for keyword in value.keywords}
    name = ast.unparse(value.func).rpartition(".")[2]
    if "default" in given:
        return ast.unparse(given["default"])
    if "default_factory" in given:
        return f"{ast.unparse(given['default_factory'])}()"
    if name.startswith("_") and value.args:  # a function of ours that declares a field
        return ast.unparse(value.args[0])
    return None if name == "field" else ast.unparse(value)
