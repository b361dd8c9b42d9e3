"""Knowledge terms: per-example losses between student and teacher, by name.

Importing the package registers the terms that come with it in :data:`TERMS`; other distributions add theirs with
``@TERMS.register("name")`` or the entry-point group ``kd_env.terms``.
"""

from kd_env.knowledge import attentions, features, labels, plausibility, relations
from kd_env.knowledge.base import (
    TERMS,
    LayerPairs,
    Term,
    TermFactory,
    TermInputs,
    TermSpec,
    reads_teacher,
    without_teacher,
)
from kd_env.knowledge.build import TermEntry, build_terms, check_term_values, term_entries

__all__ = [
    "TERMS",
    "LayerPairs",
    "Term",
    "TermEntry",
    "TermFactory",
    "TermInputs",
    "TermSpec",
    "attentions",
    "build_terms",
    "check_term_values",
    "features",
    "labels",
    "plausibility",
    "reads_teacher",
    "relations",
    "term_entries",
    "without_teacher",
]
