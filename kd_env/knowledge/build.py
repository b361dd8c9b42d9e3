"""From names and options to terms."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from torch import Tensor

from kd_env.core.registry import unknown_name
from kd_env.core.types import EncoderFacts, Signal
from kd_env.knowledge.base import TERMS, Term, TermFactory, TermInputs, TermSpec
from kd_env.knowledge.options import LARGEST_WEIGHT, DoesNotFit, number


def build_terms(names: Sequence[str | Mapping[str, Any]], spec: TermSpec) -> tuple[Term, ...]:
    """Terms in the order in which they are named.

    Args:
        names: registered names, or mappings ``{"name": ..., **options}``; ``as`` gives a term another name, so that one
            kind of term can be there twice, and ``weight``, from 1e-6 to 1e6, multiplies its loss.
        spec: what the terms are built for.

    Raises:
        ValueError: an unknown term or option (with near matches), a name twice, a bad value, or a term that has no
            meaning for this task or layer map, or reads only layers that are frozen.
    """
    terms = []
    for entry in term_entries(names):
        term = dataclasses.replace(TERMS[entry.kind](spec, **entry.options), name=entry.name)
        _refuse_row_logits(term, entry, spec)
        _refuse_frozen(term, spec.student)
        terms.append(term if entry.weight == 1 else dataclasses.replace(term, loss=_times(entry.weight, term.loss)))
    return tuple(terms)


def check_term_values(names: Sequence[str | Mapping[str, Any]], regression: bool, text: bool = False) -> None:
    """Refuse values of options that no student and teacher would make right, before either is there.

    Args:
        names: as in :func:`build_terms`.
        regression: kind of the task.
        text: whether students learn masked text.

    Raises:
        ValueError: the first such value, with what is allowed, or a term without meaning under the objective.
    """
    facts = EncoderFacts(num_layers=2, hidden_size=48, num_heads=12, num_labels=1 if regression else 2, vocab_size=9)
    # Of two widths, since some options have a meaning only then.
    spec = TermSpec(facts, facts._replace(hidden_size=96), ((0, 0), (1, 1), (2, 2)), regression, text=text)
    for entry in term_entries(names):
        factory = TERMS[entry.kind]
        if factory.__module__.startswith(__package__):  # those of others may ask more of a student than this one has
            with suppress(DoesNotFit):
                _refuse_row_logits(factory(spec, **entry.options), entry, spec)


def _refuse_row_logits(term: Term, entry: TermEntry, spec: TermSpec) -> None:
    if spec.text and entry.kind != "plausibility" and Signal("logits") in term.student_signals:
        raise ValueError(
            f"The knowledge term {entry.name!r} reads logits of whole rows, which students of masked text "
            "(objective='text') have not: leave it out, or use plausibility and terms on hidden states or attention."
        )


def _refuse_frozen(term: Term, student: EncoderFacts) -> None:
    """Refuse a term whose loss no update of the student changes."""
    depth, layers = student.frozen_depth, sorted({signal.layer for signal in term.student_signals})
    if depth is not None and layers and layers[0] >= 0 and layers[-1] <= depth:
        raise ValueError(
            f"The knowledge term {term.name!r} reads only frozen layers of the student "
            f"({', '.join(map(str, layers))}; frozen are 0 to {depth}), so that it would teach nothing: leave it out, "
            "map a layer above them with layer_map, or train more with student.trainable."
        )


def _times(weight: float, loss: Callable[[TermInputs], Tensor]) -> Callable[[TermInputs], Tensor]:
    return lambda inputs: weight * loss(inputs)


class TermEntry(NamedTuple):
    """A term as it was asked for."""

    kind: str
    """Its registered name."""
    name: str
    """Its name in the environment."""
    options: dict[str, Any]
    weight: float = 1.0
    """Factor of its loss."""


def term_entries(names: Sequence[str | Mapping[str, Any]]) -> tuple[TermEntry, ...]:
    """What :func:`build_terms` is asked for, checked as far as that needs no models.

    Raises:
        ValueError: an unknown term or option (with near matches), or a name twice.
    """
    if isinstance(names, str):
        raise ValueError(f"terms must be a list, got the string {names!r}; write [{names!r}].")
    if not isinstance(names, list | tuple):
        raise ValueError(f"terms={names!r} must be a list, for example ['hard_label'].")
    if not names:
        raise ValueError(f"terms is empty; name at least one of {', '.join(TERMS)}.")
    entries: dict[str, TermEntry] = {}
    for term in names:
        entry = _entry(term)
        if entry.name in entries:
            raise ValueError(
                f"The knowledge term {entry.name!r} is named twice; give the second one another name, such as "
                f"{{name: {entry.kind}, as: {entry.name}_2}}."
            )
        entries[entry.name] = entry
    return tuple(entries.values())


def term_options(factory: TermFactory) -> tuple[tuple[str, ...], bool]:
    """Names of a factory's options, and whether it takes any others too (``**options``)."""
    parameters = list(inspect.signature(factory).parameters.values())[1:]
    named = tuple(p.name for p in parameters if p.kind is not inspect.Parameter.VAR_KEYWORD)
    return named, len(named) < len(parameters)


def _entry(term: str | Mapping[str, Any]) -> TermEntry:
    options = {"name": term} if isinstance(term, str) else term
    if not isinstance(options, Mapping) or not isinstance(options.get("name"), str):
        raise ValueError(f"A term must be a name or a mapping with 'name' and the term's options, got {term!r}.")
    kind, name = options["name"], options.get("as", options["name"])
    if not isinstance(name, str) or not name:
        raise ValueError(f"as={name!r} of the knowledge term {kind!r} must be a name.")
    valid, open_ended = term_options(TERMS[kind])
    general = {"name", "as"} | ({"weight"} - {*valid})  # a term from outside may have an option of that name
    weight = options.get("weight", 1.0) if "weight" in general else 1.0
    number(kind, "weight", weight, 1.0 / LARGEST_WEIGHT, LARGEST_WEIGHT)
    factory_options = {key: value for key, value in options.items() if key not in general}
    for key in factory_options:
        if key not in valid and not open_ended:
            raise ValueError(unknown_name(f"option of the knowledge term {kind!r}:", key, valid))
    return TermEntry(kind, name, factory_options, float(weight))
