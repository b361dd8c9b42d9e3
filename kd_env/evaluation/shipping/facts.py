"""What is known of a student that ships: plain values, for its card and its record."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from kd_env.evaluation.shipping.parity import Parity

TEACHER, STUDENT, ONNX, INT8 = "teacher (PyTorch)", "student (PyTorch)", "student (ONNX)", "student (ONNX, int8)"
"""Models that are timed."""
RECORD = "kd_env_export.json"
"""The record beside a student that ships."""


@dataclass(frozen=True)
class Cost:
    """What one model costs."""

    parameters: int
    megabytes: float
    """Of its files with weights, 10^6 bytes."""
    milliseconds: Mapping[int, float]
    """Median of a batch, by its rows."""


@dataclass(frozen=True)
class ClassScores:
    """One class on one split."""

    rows: int
    precision: float
    recall: float
    f1: float


@dataclass(frozen=True)
class SplitFacts:
    """The student on one split, beside all students of its policy and the teacher."""

    rows: int
    own: Mapping[str, float]
    """The task's metrics of the student that ships."""
    policy: Mapping[str, str]
    """The same as means over trainings and seeds of its policy, with intervals."""
    teacher: Mapping[str, float]
    """Of the reference teacher; empty where it learned beside the students."""
    classes: Mapping[str, ClassScores]
    """By name; none in regression."""


@dataclass(frozen=True)
class TaskFacts:
    """What the student was made for."""

    name: str
    pair: bool
    labels: tuple[str, ...]
    """Names of the classes; none in regression."""
    label_range: tuple[float, float] | None
    max_length: int
    files: Mapping[str, str]
    """Names of files that were read, with their split; empty of embedded tasks and the hub."""
    hashes: Mapping[str, str]
    """Of the content of each split."""
    noise: float
    """Share of wrong labels in train."""


@dataclass(frozen=True)
class Teaching:
    """How the student was taught."""

    policy: str
    learned: bool
    options: str
    """Of the policy, in words; may be empty."""
    steered: bool
    """Whether feedback rows had a say in it."""
    seed: int
    trainings: int
    seeds: int
    """Students of each training that the run judged."""
    teachers: tuple[str, ...]
    budget: int
    batch_size: int
    terms: tuple[str, ...]
    trained_on: str
    student: str
    """The architecture, in words."""


@dataclass(frozen=True)
class Facts:
    """Everything."""

    name: str
    """Of the folder, or on the hub."""
    licence: str | None
    task: TaskFacts
    teaching: Teaching
    splits: Mapping[str, SplitFacts]
    """Selection first, then the official dev splits."""
    metric: str
    """By which the student was chosen on the selection split."""
    judged: float
    """Its value there as the run found it."""
    others: Mapping[str, float]
    """The best student's value there of every other policy."""
    means: Mapping[str, float]
    """The mean value there of every policy."""
    best_rule: str | None
    not_better: tuple[str, ...]
    """Learned policies that are not above the best rule there."""
    temperature: float | None
    """Fitted on feedback rows; None where there is none."""
    calibration_error: Mapping[str, float]
    """Expected calibration error without the temperature, by split."""
    costs: Mapping[str, Cost]
    repeats: int
    machine: str
    parity: Mapping[str, Parity]
    opset: int
    plain: bool
    """Whether transformers alone read it; else kd-env does."""
    versions: Mapping[str, str]
