"""Rules by name."""

from __future__ import annotations

import inspect
from numbers import Real
from typing import Any

from agents.common.base import AnyEnv, require, unknown_name
from agents.rules.base import Rule
from agents.rules.divergence_shaping import DIVERGENCE_RULES
from agents.rules.influence import INFLUENCE_RULES
from agents.rules.knowledge_selection import KNOWLEDGE_RULES
from agents.rules.learning_teacher import TEACHING_RULES
from agents.rules.sample_weighting import SAMPLE_RULES
from agents.rules.teachers.by_loss import LOSS_RULES
from agents.rules.teachers.dynamic import DYNAMIC_RULES
from agents.rules.teachers.fixed import FIXED_RULES
from agents.rules.teachers.router import ROUTER_RULES
from agents.rules.tutor_token import TOKEN_RULES
from kd_files.plugins import add_plugins, check_loads, subclass_of

GROUP = "kd_env.rules"

_TEACHERS = (*FIXED_RULES, *LOSS_RULES, *DYNAMIC_RULES, *ROUTER_RULES)
_WEIGHTS = (*KNOWLEDGE_RULES, *_TEACHERS, *SAMPLE_RULES, *INFLUENCE_RULES, *TEACHING_RULES)
RULES: dict[str, type[Rule]] = {rule.name: rule for rule in (*_WEIGHTS, *DIVERGENCE_RULES, *TOKEN_RULES)}


def add_rules() -> None:
    """Add the rules of other distributions to :data:`RULES`."""
    add_plugins(RULES, GROUP, subclass_of(Rule))


def rule_class(name: str) -> type[Rule]:
    """The class of a rule by name, plug-ins (entry points ``kd_env.rules``) among them; ``ValueError`` if unknown."""
    add_rules()
    if name not in RULES:
        check_loads(GROUP, "rule", name)
        raise ValueError(unknown_name("rule", name, RULES))
    return RULES[name]


def make_rule(name: str, env: AnyEnv, seed: int = 0, **options: Any) -> Rule:
    """A rule by name.

    Raises:
        ValueError: an unknown rule or option (with near matches), a missing option or one of another kind, or an env
            that does not fit.
    """
    chosen = rule_class(name)
    parameters = inspect.signature(chosen.__init__).parameters
    known = {k: p for k, p in parameters.items() if k not in ("self", "env", "seed") and p.kind is p.KEYWORD_ONLY}
    for option in options:
        if option not in known:
            raise ValueError(unknown_name(f"option of the rule {name!r}", option, known))
        _check_kind(option, options[option], known[option].annotation)
    missing = [k for k, p in known.items() if p.default is p.empty and k not in options]
    if missing:
        raise ValueError(f"The rule {name!r} needs the option {', '.join(missing)}.")
    return chosen(env, seed=seed, **options)


def _check_kind(option: str, value: Any, annotation: Any) -> None:
    """Refuse text and the like where a rule would compare numbers."""
    kind = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", "")
    if kind == "float":
        require(isinstance(value, Real) and not isinstance(value, bool), option, value, "a number")
    elif kind == "bool":
        require(isinstance(value, bool), option, value, "true or false")
