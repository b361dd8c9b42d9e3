"""What students learn: labels or masked text, and by which knowledge terms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from kd_env.core import checks
from kd_env.core.plain import Plain

DEFAULT_TERMS = ("hard_label", "soft_label", "hidden_states", "relation")


@dataclass(frozen=True)
class ObjectiveSection:
    """What students learn: labels or masked text, and by which knowledge terms."""

    objective: str = "labels"
    """What students learn: ``labels`` of the task, or masked ``text`` (Tutor-KD's pre-training distillation): which
    tokens are plausible, says a masked language model. Students are then judged by L_pp on feedback texts. Or one of
    another distribution, of labels (``docs/plugins.md``)."""
    text: str | Sequence[str] | None = None
    """With ``objective=text``: ``toy``, ``toy_pair``, a GLUE task (its sentences), a folder of ``.txt`` files or the
    name of a ``datasets`` data set; or several of them, whose texts are put together. None: the sentences of
    ``task``."""
    column: str | None = None
    """For a ``datasets`` data set of texts: its column."""
    packing: bool = False
    """With ``objective=text``: whether texts are put end to end in full rows of ``max_length`` tokens, which are
    tokenised once and lie in ``cache_dir``, in memory-mapped shards: a corpus may be larger than memory. Folders may
    then hold ``.jsonl``, ``.parquet``, ``.arrow`` and ``.feather`` files, too, and texts of ``datasets`` data sets
    are streamed; ``column`` is ``text`` where it is None. The splits are by the content of each text: feedback,
    selection and (where a source has none of its own) dev hold as many texts as fill their rows, at most 10% each, and
    no text that another split holds, though one may contain another. Repeats in train stay. False: a padded row for
    each text, all in memory."""
    masking: str = "fixed"
    """Where text is masked. ``fixed``: every row has ``slots`` masked positions, drawn without replacement.
    ``bernoulli``: each ordinary token is masked by itself with ``mask_rate`` (Tutor-KD); slots beyond ``slots`` are
    dropped and counted, and slots that a row does not fill are not valid."""
    mask_rate: float = 0.15
    """Share of the ordinary tokens of a row that is masked, in (0, 1)."""
    slots: int | str | None = None
    """P; None: ``max(1, round(mask_rate * mean number of ordinary tokens))``. With ``masking=fixed`` rows with fewer
    ordinary tokens are left out. ``all``, with ``masking=bernoulli``: so many that the longest train row has more
    masked tokens at most once in 10^9 draws."""
    language_model: str | None = None
    """With ``decision=tutor_token`` and labels: folder or hub name of the masked language model that reads the masked
    rows, whose candidates and hidden states the tutor sees; of the teacher's vocabulary. None: the packaged one."""
    student_head: str = "linear"
    """What turns the student's last hidden states into the scalar u of every token, with ``objective=text``:
    ``linear``, or ``mlm`` (dense, GELU, LayerNorm, linear, without dropout: Tutor-KD's released code)."""
    terms: Sequence[str | Plain] = DEFAULT_TERMS
    """Knowledge terms by name, or mappings with ``name``, the term's options and a ``weight`` of its loss, 1 by
    default."""
    term_scale: str = "running"
    """``running`` divides each term by the running mean of its loss, over all teachers; ``none`` leaves it as it is."""
    weight_normalization: str = "none"
    """``none``, ``mean`` (weights divided by their mean) or ``sum``."""
    layer_map: str | Sequence[Sequence[int]] = "uniform"
    """``uniform``, ``last``, ``skip`` or explicit pairs (student layer, teacher layer); 0 is the embedding output."""


def _texts(name: str, value: Any) -> None:
    if not isinstance(value, str):
        checks.names("toy")(name, value)


def _slots(name: str, value: Any) -> None:
    if value != "all":
        checks.optional(checks.whole(1))(name, value)


CHECKS: dict[str, checks.Check] = {
    "objective": checks.filled,
    "text": checks.optional(_texts),
    "column": checks.optional(checks.text),
    "packing": checks.boolean,
    "masking": checks.one_of("fixed", "bernoulli"),
    "mask_rate": checks.mask_rate,
    "slots": _slots,
    "language_model": checks.optional(checks.text),
    "student_head": checks.one_of("linear", "mlm"),
    "terms": checks.names("hard_label", mappings=True),
    "term_scale": checks.one_of("running", "none"),
    "weight_normalization": checks.one_of("none", "mean", "sum"),
    "layer_map": checks.layer_numbers(0, length=2),
}
