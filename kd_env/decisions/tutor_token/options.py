"""The documented, frozen options of ``kd_env/TutorToken-v0``.

``recipe="paper"`` sets the defaults of Tutor-KD as published (Kim et al., EMNLP 2022), ``recipe="modified"`` those that
suit small students, short budgets and stacked replicas. An option that is given is kept. [code]: read in the released
code, [paper]: in the paper; where neither says anything it is "not stated".

=======================  ============================================  ========================  =====================
part                     published                                     ``recipe="paper"``        ``"modified"``
=======================  ============================================  ========================  =====================
masking                  each ordinary token by itself, 0.15; 80/10/10  the same                  ``slots`` a row, 0.15
                         [code]
slots                    every masked position is overwritten [code]   ``slots="all"``           about 15% of the row
plausibility             replaced tokens get m, others 1 [code]        the same                  the same
loss weights             25 L_pp + 0.5 L_dist [code]                   the same                  the same
L_dist                   sum over layers, embeddings too, of hidden    ``layer_reduction="sum"`` mean over layers
                         states and raw attention scores [code]
mean within a layer      not stated                                    real tokens of a row,     the same
                                                                       then rows
L_pp                     mean over all tokens, padding too [code]      over real tokens          over real tokens
projection               one map for all layers [code]                 ``projection="always"``   where widths differ
its first values         not stated                                    N(0, 1 / width)           the same
student's head           dense, GELU, LayerNorm, linear [code]         ``student_head="mlm"``    ``"linear"``
student's dropout        0.1, BERT's default [code]                    0.1, single environments  0
student's size           6 x 768, or 264 wide with 12, 6, 2 layers     1 x 32; ``student=...``   1 x 32
                         [paper]
attention mask           inverted in the released code [code]          real tokens               real tokens
optimiser                AdamW, betas 0.9, 0.999, weight decay 0.01    the same                  the same
                         [code]
step size, eps           5e-4, 1e-6 [code]                             the same                  7e-3, 1e-8
weight decay of biases   not stated                                    0                         0
clipping                 none [code]                                   none                      norm 1
schedule                 10,000 updates up, then down [code]           ``warmup=0.01``           ``warmup=0.1``
updates, batch, length   1 million, 128, 128 [code]                    ``budget=80``,            the same
                                                                       ``batch_size=16``, 128
text                     Wikipedia, BookCorpus [paper]                 ``text=...``              the same
teacher                  bert-base-uncased [code]                      ``teacher=...``           the same
=======================  ============================================  ========================  =====================

Sizes, text and budget are the user's: 6 x 768 and a million updates are not tried here. The 2-layer student is taught
without attention in the paper, ``losses={"plausibility": 25, "hidden_states": 0.5}``. The tutor's own part stands in
:mod:`agents.tutor.agent`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kd_env.config.environment import EnvConfig
from kd_env.core import checks
from kd_env.core.plain import Plain
from kd_env.core.registry import unknown_name
from kd_env.knowledge import term_entries
from kd_env.mdp.rewards import BATCH_REWARDS

MODES = ("joint", "sequential")
RECIPES: dict[str, dict[str, Any]] = {
    "modified": {},
    "paper": {
        "masking": "bernoulli",
        "slots": "all",
        "student_head": "mlm",
        "layer_reduction": "sum",
        "projection": "always",
        "student": {"dropout": 0.1},
        "optimizer": {"learning_rate": 5e-4, "eps": 1e-6, "max_grad_norm": None, "warmup": 0.01},
    },
}
"""Defaults by recipe, where they differ from those of the fields."""
SHORT_FORMS = ("losses", "layer_reduction", "projection")
"""Options that are short for ``terms``."""
TEXT_LOSSES = {"plausibility": 25.0, "hidden_states": 0.5, "attention": 0.5}
"""25 L_pp + 0.5 L_dist, as in the released code; L_dist adds up hidden states and attention scores, there with
``layer_reduction="sum"``."""
LABEL_LOSSES = {"soft_label": 1.0}
"""With labels of a task: plain distillation of the teacher's label distribution on the edited text."""
_LOSSES = {
    "text": ("plausibility", "hidden_states", "attention"),
    "labels": ("soft_label", "hard_label", "hidden_states", "attention"),
}
"""Losses by objective, in the order of the table."""
_OF_LAYERS = {"hidden_states": ("layer_reduction", "projection"), "attention": ("layer_reduction",)}


def written_out(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options with what the recipe publishes, and with ``terms`` for the short forms.

    Args:
        options: keywords of ``gymnasium.make``. ``task=None`` is ``objective="text"``, a task without an objective its
            labels. ``losses``: weight by loss, ``plausibility`` (L_pp), ``hidden_states`` and ``attention`` (raw
            scores), with labels instead of plausibility ``soft_label`` (KL from the teacher, the default alone) and
            ``hard_label``. ``layer_reduction``: ``mean`` or ``sum`` of hidden states and of attention over the mapped
            layers. ``projection``: the one map from the student's to the teacher's width, where they differ (``auto``)
            or ``always``.

    Raises:
        ValueError: an unknown recipe, or a loss that there is not.
    """
    plain = dict(options)
    if plain.get("task") is None:
        plain.pop("task", None)
        plain.setdefault("objective", "text")
    plain.setdefault("objective", "labels")
    checks.one_of(*RECIPES)("recipe", plain.get("recipe", "modified"))
    short = {name: plain.pop(name) for name in SHORT_FORMS if name in plain}
    for name, value in RECIPES[plain.get("recipe", "modified")].items():
        if name in SHORT_FORMS:
            if plain.get("terms") is None:  # terms that are written out are what they are
                short.setdefault(name, value)
            continue
        given = plain.get(name, value)
        plain[name] = {**value, **given} if isinstance(value, Mapping) and isinstance(given, Mapping) else given
    if isinstance(plain["objective"], str) and plain["objective"] in _LOSSES:  # else refused with all options
        plain["terms"] = _terms(plain.get("terms"), short, plain["objective"])
    return plain


def _terms(terms: Any, short: Mapping[str, Any], objective: str) -> tuple[str | Plain, ...]:
    """The knowledge terms with their weights."""
    for name, valid in (("layer_reduction", ("mean", "sum")), ("projection", ("auto", "always"))):
        if name in short:
            checks.one_of(*valid)(name, short[name])
    if "losses" in short or terms is None:
        losses = short.get("losses", TEXT_LOSSES if objective == "text" else LABEL_LOSSES)
        _check_losses(losses, objective)
        terms = [_entry(name, losses[name]) for name in _LOSSES[objective] if losses.get(name, 0.0) > 0]
    changed = []
    for entry in term_entries(terms):
        names = [name for name in _OF_LAYERS.get(entry.kind, ()) if name in short]
        options = {("reduction" if name == "layer_reduction" else name): short[name] for name in names}
        weight = {} if entry.weight == 1.0 else {"weight": entry.weight}
        other = {} if entry.name == entry.kind else {"as": entry.name}
        changed.append({"name": entry.kind, **entry.options, **options, **weight, **other})
    return tuple(changed)


def _entry(name: str, weight: float) -> dict[str, Any]:
    options: dict[str, dict[str, Any]] = {"hidden_states": {"shared": True}, "soft_label": {"temperature": 1.0}}
    return {"name": name, "weight": float(weight), **options.get(name, {})}


def _check_losses(losses: Any, objective: str) -> None:
    checks.mapping("losses", losses)
    valid = _LOSSES[objective]
    for name, weight in losses.items():
        if name not in valid:
            raise ValueError(unknown_name("loss", name, valid))
        checks.within(0)(f"losses.{name}", weight)
    if not any(losses.values()):
        raise ValueError(f"losses={dict(losses)} weigh nothing: give at least one of {', '.join(valid)}.")


def defaults() -> dict[str, Any]:
    """One update a text, constant weights of the terms, a teacher that reads every edited text."""
    return {"reward": "tutor", "updates_per_step": 1, "term_scale": "none", "teacher_source": "online"}


def check_options(config: EnvConfig) -> None:
    """Raise ``ValueError`` for options that have no meaning where an agent writes tokens."""
    if config.teacher_source != "online":
        raise ValueError(
            f"teacher_source={config.teacher_source!r} has no place here: the tutor edits every batch, so that no "
            "output of the teacher can be cached; leave it out (the teacher runs online)."
        )
    for name, value in (("teacher_updates", "none"), ("updates_per_step", 1), ("teachers", None), ("features", ())):
        if getattr(config, name) != value:
            raise ValueError(
                f"{name}={getattr(config, name)!r} is not for decision='tutor_token': one frozen teacher reads every "
                "text, which is edited for one update, and agents see the text; leave it out."
            )
    if config.reward in BATCH_REWARDS:
        raise ValueError(
            f"reward={config.reward!r} reads the batch as it was, which decision='tutor_token' edits; use tutor, "
            "gap_closed or another one."
        )
    if config.mode == "joint" and config.teacher_every != 1:
        raise ValueError(f"teacher_every={config.teacher_every} is for mode='sequential'; leave it out.")
    if config.objective != "text":
        for name, value in (("recipe", "paper"), ("student_head", "mlm")):
            if getattr(config, name) == value:
                raise ValueError(
                    f"{name}={value!r} is of Tutor-KD as published, which distils masked language models; with "
                    f"task={config.task!r} students are classifiers, which is not in the paper: leave {name} out."
                )
