"""Options as tables: what dataclasses, functions and their docstrings say."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import textwrap
from collections.abc import Callable, Mapping
from functools import cache
from importlib import import_module
from typing import Any

from docs.site.docstrings import cell, markdown, table


def named(path: str) -> Any:
    """The object of a dotted name, as ``kd_env.config.data.DataSection``."""
    module, name = path.rsplit(".", 1)
    return getattr(import_module(module), name)


@cache
def field_docs(kind: type[Any]) -> dict[str, str]:
    """What stands below each field of a dataclass and of those that it derives from, as Markdown."""
    found: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        if not dataclasses.is_dataclass(base):
            continue
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
        assert isinstance(tree, ast.ClassDef)
        for field, below in zip(tree.body, tree.body[1:], strict=False):
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and _is_text(below):
                found[field.target.id] = " ".join(markdown(below.value.value).split())  # type: ignore[attr-defined]
    return found


def default_of(field: dataclasses.Field[Any]) -> Any:
    """A field's default; what its factory makes where it has one."""
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def shown(value: object, tables: str = "") -> str:
    """A default as code; the options of a nested dataclass stand in a table of their own, on the page ``tables``."""
    if dataclasses.is_dataclass(value):
        return f"[its own]({tables}#{type(value).__name__.lower()})"
    if isinstance(value, tuple) and value and not any(isinstance(each, Mapping) for each in value):
        return ", ".join(f"`{each}`" for each in value)
    return f"`{cell(value)}`"


def options_of(kind: type[Any], defaults: Mapping[str, Any] | None = None, tables: str = "") -> str:
    """The table of a dataclass: option, default, meaning.

    Args:
        kind: the dataclass.
        defaults: the options that are shown, with the values that stand in place of their fields' defaults; None: all.
        tables: page with the tables of nested options; this one by default.
    """
    docs = field_docs(kind)
    rows = []
    for field in dataclasses.fields(kind):
        if defaults is None or field.name in defaults:
            value = default_of(field) if defaults is None else defaults[field.name]
            rows.append((f"`{field.name}`", shown(value, tables), docs.get(field.name, "")))
    return table(("option", "default", "meaning"), rows)


def keywords_of(function: Callable[..., Any]) -> str:
    """The table of a function's keyword-only options, whose docstring says what they mean; empty where it has none."""
    found = [p for p in inspect.signature(function).parameters.values() if p.kind is p.KEYWORD_ONLY]
    rows = [(f"`{p.name}`", "must be given" if p.default is p.empty else shown(p.default)) for p in found]
    return table(("option", "default"), rows) if rows else ""


def _is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
