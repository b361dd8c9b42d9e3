"""From names and options to terms."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from kd_env.knowledge.base import TERMS, Term, TermFactory, TermSpec
from kd_env.registry import unknown_name


def build_terms(names: Sequence[str | Mapping[str, Any]], spec: TermSpec) -> tuple[Term, ...]:
    """Terms in the order in which they are named.

    Args:
        names: registered names, or mappings ``{"name": ..., **options}``; ``as`` gives a term another name, so that one
            kind of term can be there twice.
        spec: what the terms are built for.

    Raises:
        ValueError: an unknown term or option (with near matches), a name twice, a bad value, or a term that has no
            meaning for this task or layer map.
    """
    if isinstance(names, str):
        raise ValueError(f"terms must be a list, got the string {names!r}; write [{names!r}].")
    if not names:
        raise ValueError(f"terms is empty; name at least one of {', '.join(TERMS)}.")
    terms: dict[str, Term] = {}
    for entry in names:
        term = _build_one(entry, spec)
        if term.name in terms:
            raise ValueError(
                f"The knowledge term {term.name!r} is named twice; give the second one another name, such as "
                f"{{name: {term.name}, as: {term.name}_2}}."
            )
        terms[term.name] = term
    return tuple(terms.values())


def term_options(factory: TermFactory) -> tuple[tuple[str, ...], bool]:
    """Names of a factory's options, and whether it takes any others too (``**options``)."""
    parameters = list(inspect.signature(factory).parameters.values())[1:]
    named = tuple(p.name for p in parameters if p.kind is not inspect.Parameter.VAR_KEYWORD)
    return named, len(named) < len(parameters)


def _build_one(entry: str | Mapping[str, Any], spec: TermSpec) -> Term:
    options = {"name": entry} if isinstance(entry, str) else entry
    if not isinstance(options, Mapping) or not isinstance(options.get("name"), str):
        raise ValueError(f"A term must be a name or a mapping with 'name' and the term's options, got {entry!r}.")
    name, other_name = options["name"], options.get("as", options["name"])
    if not isinstance(other_name, str) or not other_name:
        raise ValueError(f"as={other_name!r} of the knowledge term {name!r} must be a name.")
    factory = TERMS[name]
    given = {key: value for key, value in options.items() if key not in ("name", "as")}
    valid, open_ended = term_options(factory)
    for key in given:
        if key not in valid and not open_ended:
            raise ValueError(unknown_name(f"option of the knowledge term {name!r}:", key, valid))
    return dataclasses.replace(factory(spec, **given), name=other_name)
