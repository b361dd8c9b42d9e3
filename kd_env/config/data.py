"""Which rows there are, and of what labels."""

from __future__ import annotations

from dataclasses import dataclass

from kd_env.core import checks
from kd_env.core.plain import Plain


@dataclass(frozen=True)
class DataSection:
    """Which rows there are, and of what labels."""

    task: str = "toy"
    """``toy``, ``toy_pair``, a GLUE task, or ``custom`` with ``columns``."""
    data_dir: str | None = None
    """Folder with ``<task>/<split>.parquet`` (csv, tsv, jsonl, or the hub's ``<split>-00000-of-00001.parquet``); None
    reads GLUE from the hub. Embedded tasks have none."""
    columns: Plain | None = None
    """For ``task=custom``: ``text`` (one or two column names), ``label``, ``kind`` (classification, regression), and
    optionally ``labels`` (names of the classes as the files write them, in order), ``label_range`` and ``metrics``
    (:mod:`kd_env.core.metrics`; the first is the headline)."""
    split_seed: int = 0
    """Seed of the cut into train, feedback and selection, of the evaluated feedback rows, and of label noise where
    ``noise_seed`` is None."""
    feedback_rows: int | None = None
    """Rows of the feedback split; None: min(512, 10% of the official train split)."""
    selection_rows: int | None = None
    """Rows of the selection split; None: as ``feedback_rows``."""
    feedback_labels: str = "gold"
    """``gold``, or ``shuffled``: a control in which the evaluated feedback rows have each other's labels, so that
    reward, features and influence see no truth; selection, dev and train keep theirs."""
    max_train_rows: int | None = None
    """Upper limit of train rows after the cut."""
    max_length: int = 128
    """Tokens a row is cut to."""
    label_noise: float = 0.0
    """Share of train labels replaced by a wrong one, after the cut; feedback, selection and dev stay clean."""
    noise_seed: int | None = None
    """Seed of which labels are replaced, and by what, so that the noise can change while the cut stays; None:
    ``split_seed``."""
    train_on: str = "train"
    """``train``, or ``train+feedback`` for rules that are shown beside agents when the feedback labels are cleaner."""


CHECKS: dict[str, checks.Check] = {
    "task": checks.filled,
    "data_dir": checks.optional(checks.filled),
    "columns": checks.optional(checks.mapping),
    "split_seed": checks.whole(0),
    "feedback_rows": checks.optional(checks.whole(1)),
    "selection_rows": checks.optional(checks.whole(1)),
    "feedback_labels": checks.one_of("gold", "shuffled"),
    "max_train_rows": checks.optional(checks.whole(1)),
    "max_length": checks.whole(3),
    "label_noise": checks.within(0.0, 1.0),
    "noise_seed": checks.optional(checks.whole(0)),
    "train_on": checks.one_of("train", "train+feedback"),
}
