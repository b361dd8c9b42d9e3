"""What is looked up by name, as tables and pages: terms, rules, rewards, features, scores, metrics and tasks."""

from __future__ import annotations

import inspect
import re
from typing import Any

from agents.rules.catalog import RULES
from docs.site.docstrings import arguments, body, markdown, prose, sources, summary, table
from docs.site.options import keywords_of
from kd_env.core.metrics import METRICS
from kd_env.core.types import EncoderFacts, Signal
from kd_env.data.tasks import EMBEDDED, GLUE, TASKS
from kd_env.decisions.catalog import DECISIONS
from kd_env.decisions.sample_weighting.scores import SCORES
from kd_env.knowledge import TERMS, Term, TermSpec
from kd_env.knowledge.base import reads_teacher
from kd_env.mdp.observations.layout import FEATURES
from kd_env.mdp.rewards import BATCH_REWARDS, REWARDS, bounds_of, scores_of

_FACTS = EncoderFacts(num_layers=2, hidden_size=48, num_heads=12, num_labels=2, vocab_size=9)


def term(name: str, *, regression: bool = False, text: bool = False) -> Term | None:
    """A term with its defaults between two equal encoders; None where it has no meaning for that kind of task."""
    facts = _FACTS._replace(num_labels=1) if regression else _FACTS
    spec = TermSpec(facts, facts, ((0, 0), (1, 1), (2, 2)), regression, text=text)
    try:
        return TERMS[name](spec)
    except ValueError:
        return None


def term_kinds(name: str) -> str:
    """The kinds of tasks for which a term has a meaning."""
    if name == "plausibility":
        return "masked text"
    found = ["classes", *(["scores"] if term(name, regression=True) else [])]
    made = term(name, text=True)
    if made is not None and Signal("logits") not in made.student_signals:
        found.append("masked text")
    return ", ".join(found)


def term_needs(name: str) -> str:
    """What a term reads: of the student, of the teacher."""
    made = term(name, text=name == "plausibility")
    assert made is not None
    said = [f"of the student {_signals(made.student_signals)}"]
    if reads_teacher(TERMS[name]):
        said.append(f"of the teacher {_signals(made.teacher_signals)}")
    else:
        said.append("no teacher")
    if made.across_rows:
        said.append("all rows of a batch at once (`micro_batch_size` is refused)")
    return "; ".join(said)


def terms() -> str:
    """The table of knowledge terms, each with a page of its own."""
    rows = [
        (f"[`{name}`](terms/{name}.md)", summary(TERMS[name].__doc__), term_kinds(name), _cited(TERMS[name].__doc__))
        for name in TERMS
    ]
    return table(("term", "loss of a row", "tasks", "source"), rows)


def term_page(name: str) -> str:
    """The page of a knowledge term."""
    factory = TERMS[name]
    text = re.sub(r"\n*Config: .*", "", inspect.getdoc(factory) or "", flags=re.DOTALL)
    config = re.search(r"Config: ``(.*?)``", factory.__doc__ or "", re.DOTALL)
    options = keywords_of(factory) or "It has none of its own."
    parts = [f"# {name}", summary(text), body(text), "## Needs", f"It reads {term_needs(name)}."]
    parts += [f"Tasks: {term_kinds(name)}.", "## Options", options]
    parts += [
        "Every term also takes `weight` (of its loss; with `term_scale=none`) and `as` (its name, where there are two)."
    ]
    if config is not None:
        said = " ".join(config[1].split())
        if match := re.fullmatch(r"terms: (\[.*\])", said):
            parts += ["```sh\n" + f'python train_agent.py task=toy "env.terms={match[1]}"' + "\n```"]
        else:
            words = " ".join(f"env.{word}" for word in said.split() if word.startswith("terms="))
            parts += ["```sh\n" + f'python train_agent.py task=toy objective=text "{words}"' + "\n```"]
    parts += ["## Source", ". ".join(sources(factory.__doc__)) + ".", "[All knowledge terms](../terms.md)"]
    return "\n\n".join(parts) + "\n"


def rules() -> str:
    """The rules of every environment, a table each."""
    parts = []
    for decision in DECISIONS:
        rows = []
        for name, rule in RULES.items():
            if rule.decision != decision:
                continue
            bound = " A bound, marked `^`." if rule.bound else ""
            rows.append((f"`{name}`", _sentences(rule.__doc__) + bound, _options(rule), _cited(rule.__doc__)))
        if rows:
            parts += [f"## {decision}", table(("rule", "what it does", "options", "source"), rows)]
    return "\n\n".join(parts)


def rewards() -> str:
    """The table of rewards."""
    rows = []
    for name in REWARDS:
        reward, read = REWARDS[name], []
        if name in BATCH_REWARDS:
            read.append("the updated student on its batch (one more pass)")
        if scores_of(reward):
            read.append("tokens: `env=tutor_token`")
        limit = bounds_of(reward).limit
        about = f"{summary(reward.__doc__)} {' '.join(body(reward.__doc__).split())}".strip()
        rows.append((f"`{name}`", about, f"[-{limit:g}, {limit:g}]", "; ".join(read) or "evaluated feedback rows"))
    return table(("reward", "meaning", "bounds", "reads"), rows)


def features() -> str:
    """The table of observation features; of rows, the means have the same name without ``row_``."""
    used: dict[str, list[str]] = {}
    for decision in DECISIONS:
        for weighting in ("batch", "sample"):
            for name in DECISIONS[decision].features_for({"weighting": weighting}):
                used.setdefault(name, []).append(f"`{decision}`")
    rows = []
    for name in FEATURES:
        feature = FEATURES[name]
        limits = [
            (feature.classification_only, "classes"),
            (feature.labels_only, "labels"),
            (feature.text_only, "masked text"),
            (feature.per_row, "actions for rows"),
        ]
        needs = ", ".join(word for condition, word in limits if condition)
        by_default = ", ".join(dict.fromkeys(used.get(name, ())))
        rows.append((f"`{name}`", markdown(feature.about), f"[{feature.low:g}, {feature.high:g}]", needs, by_default))
    return table(("feature", "meaning", "bounds", "only with", "default of"), rows)


def scores() -> str:
    """The table of scores of rows."""
    rows = [
        (f"`{name}`", markdown(SCORES[name].about), "classes" if SCORES[name].classification_only else "")
        for name in SCORES
    ]
    return table(("score", "meaning", "only with"), rows)


def metrics() -> str:
    """The table of metrics."""
    rows = []
    for name in METRICS:
        metric = METRICS[name]
        kind = "tokens" if metric.of_tokens else "scores" if metric.of_scores else "classes"
        kind = "two classes" if metric.two_classes else kind
        rows.append((f"`{name}`", summary(metric.compute.__doc__), kind))
    return table(("metric", "meaning", "of"), rows)


def tasks() -> str:
    """The table of tasks."""
    rows = []
    for name in TASKS:
        task = TASKS[name]
        home = "embedded" if name in EMBEDDED else "GLUE" if name in GLUE else "plug-in"
        labels = (
            ", ".join(task.labels) if task.label_range is None else "score from {:g} to {:g}".format(*task.label_range)
        )
        columns, scored = (", ".join(f"`{each}`" for each in those) for those in (task.text_columns, task.metrics))
        rows.append((f"`{name}`", home, columns, labels, scored, ", ".join(f"`{each}`" for each in task.dev_splits)))
    return table(("task", "rows", "texts", "labels", "metrics", "dev splits"), rows)


def _signals(signals: frozenset[Signal]) -> str:
    return ", ".join(sorted({f"`{signal.kind}`" for signal in signals}))


def _cited(text: str | None) -> str:
    return "; ".join(sources(text))


def _sentences(text: str | None) -> str:
    """A docstring without its sections, in one line."""
    return " ".join(prose(text).split())


def _options(rule: type[Any]) -> str:
    """Options with their defaults and meanings, in one cell."""
    meanings = {name: text for base in reversed(rule.__mro__) for name, text in arguments(base.__doc__).items()}
    said = []
    for p in inspect.signature(rule).parameters.values():
        if p.kind is p.KEYWORD_ONLY and p.name != "seed":
            default = "must be given" if p.default is p.empty else f"default `{p.default}`"
            said.append(f"`{p.name}` ({default}): {meanings[p.name]}")
    return " ".join(said)
