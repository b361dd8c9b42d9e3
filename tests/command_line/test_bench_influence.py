"""``kd-env bench influence_step``: the passes of every step, what it refuses to time, and what a step copies."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from cli.jobs import bench as job

influence_step = job._load("influence_step")
plain = job._load("bare_teaching")
SMALL = influence_step.Options(
    device="cpu",
    repeats=2,
    hidden=(24,),
    layers=1,
    teacher_layers=2,
    teacher_hidden=16,
    batch=(4,),
    length=(12,),
    vocab=60,
)
PASSES = {
    "plain loop": ("2 F, 1 B", "1 F, 1 B"),
    "prokt": ("2 F, 1 B", "1 F, 1 B"),
    "lgtm, student_loss": ("2 F, 1 B", "2 F, 3 B, 1 P"),
    "lgtm, teacher_loss": ("2 F, 1 B", "4 F, 3 B"),
    "metadistil": ("2 F, 1 B", "2 F, 3 B, 1 P"),
    "frozen, uniform": ("-", "1 F, 1 B"),
    "frozen, lgtm": ("-", "3 F, 3 B, 1 P"),
}
"""Of teacher and student, in one step."""
COPIES = {
    "prokt": (1.0, 1.0),
    "lgtm, student_loss": (4.25, 5.5),
    "lgtm, teacher_loss": (4.25, 5.5),
    "metadistil": (2.0, 5.5),
    "frozen, uniform": (0.0, 1.0),
    "frozen, lgtm": (0.0, 5.5),
}
"""Most sets of tensors of the size of teacher and student that are alive at once within a step, made in it: gradients
of the own loss and of the influence, scaled and summed; of the student those of batch and feedback, the virtual student
and its derivative. Parameters and moments are there before."""
WIDE = {"teacher": (4 * 16 * 16, 4), "student": (4 * 24 * 24, 2)}
"""Entries of a model's widest matrices, a size that nothing else here has, and how many of them it holds."""


@pytest.fixture(scope="module")
def problems() -> Any:
    """Random rows; teacher of 2 layers and width 16, student of 1 and 24."""
    return influence_step.build(SMALL, influence_step.Cell("random", 24, 4, 12))


@pytest.fixture(scope="module")
def steps(problems: Any) -> dict[str, Any]:
    """Every step by name."""
    found: dict[str, Any] = influence_step.start(problems)[0]
    return found


@pytest.mark.parametrize("setting", ["toy", "random"])
def test_rows_say_times_and_passes(setting: str, problems: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Passes are counted in the models, and are the same whatever their sizes."""
    if setting == "random":
        monkeypatch.setattr(influence_step, "build", lambda *words: problems)
    result = influence_step.run(influence_step.Options(**{**vars(SMALL), "settings": (setting,), "clock": "processor"}))
    rows = {row["step"]: row for row in result["rows"]}
    assert list(rows) == list(PASSES)
    for name, row in rows.items():
        assert tuple(influence_step.spelled(row["passes"], model) for model in ("teacher", "student")) == PASSES[name]
        assert row["seconds"] > 0 and row["loss_difference"] < 1e-5 and row["batch"] == 4
        if row["over"]:
            assert 0 < row["ratio_min"] <= row["ratio"] <= row["ratio_max"]
    assert {name: row["over"] for name, row in rows.items() if row["over"]} == influence_step.BASES
    text = influence_step.table(result)
    sizes = "13 | 4 | 2 x 64 | 1 x 32" if setting == "toy" else "12 | 4 | 2 x 16 | 1 x 24"
    assert f"| {setting} | {sizes} | lgtm, teacher_loss | 2 F, 1 B | 4 F, 3 B |" in text
    assert "of the processor clock" in text


def test_ratios_are_of_rounds() -> None:
    found = influence_step.over(np.array([2.0, 3.0, 8.0]), np.array([1.0, 2.0, 2.0]))
    assert found == {"ratio": 2.0, "ratio_min": 1.5, "ratio_max": 4.0}


@pytest.mark.parametrize("part", ["losses", "teachers", "students"])
def test_a_loop_that_does_other_work_is_not_timed(part: str, problems: Any) -> None:
    prokt = influence_step.Loop(problems.learning, "prokt", {})
    pair = plain.BarePair(prokt.env)
    if part == "losses":
        pair.teacher.tensors[-1].data[0] += 0.01
    else:  # a rate that a few updates hardly show in the losses
        learner = pair.teacher if part == "teachers" else pair.student
        learner.schedule.base_lrs = [1.05 * rate for rate in learner.schedule.base_lrs]
    with pytest.raises(AssertionError, match=part):
        plain.agree(prokt.env, pair, prokt, 3)


def test_a_step_without_an_update_is_measured_again() -> None:
    class Sometimes:
        def __init__(self, every: int) -> None:
            self.count, self.every, self.info = 0, every, {"skipped": False}

        def __call__(self) -> int:
            self.count += 1
            self.info = {"skipped": self.count % self.every != 0}
            return self.count

    step = Sometimes(3)
    assert [influence_step.updated(step, step) for _ in range(2)] == [3, 6]
    never = Sometimes(10**6)
    with pytest.raises(RuntimeError, match="every row has weight 0"):
        influence_step.updated(never, never)


def test_counting_leaves_the_models_as_they_are(steps: dict[str, Any]) -> None:
    step = steps["prokt"]
    with influence_step.counted(step.models) as passes:
        step()
    before = dict(passes)
    step()
    assert before == dict(passes) and not any(module._forward_hooks for module in step.models.values())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["settings=[toy,words]"], "Unknown value of settings"),
        (["hidden=[32,32]"], "must be a list of different values"),
        (["batch=[16,129]"], "batch=129 must be at most 128"),
        (["clock=watch"], "Valid: processor, wall"),
    ],
)
def test_what_does_not_fit_is_refused_before_any_work(words: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError) as caught:
        job.bench(["influence_step", *words, f"out={tmp_path / 'out'}"], "kd-env bench")
    assert message in str(caught.value) and not (tmp_path / "out").exists()


def test_the_clock_of_the_processor_is_not_for_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    influence_step.Options(clock="processor", device="cpu").check()
    monkeypatch.setattr(influence_step, "resolve_device", lambda name: torch.device("cuda"))
    with pytest.raises(ValueError, match="clock=wall"):
        influence_step.Options(clock="processor").check()


class Alive(TorchDispatchMode):
    """The most tensors with a number of entries that are alive at once, of those that operations have made."""

    def __init__(self, numel: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.numel, self.most = numel, 0
        self.made: dict[int, StorageWeakRef] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {place for place, _ in map(_storage, tree_leaves((args, kwargs or {}))) if place is not None}
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            place, storage = _storage(leaf)
            if place is not None and place not in given and leaf.numel() == self.numel:  # no view, nothing in place
                self.made[place] = storage
        self.made = {place: storage for place, storage in self.made.items() if not storage.expired()}
        self.most = max(self.most, len(self.made))
        return out


def _storage(leaf: Any) -> tuple[int | None, Any]:
    if not isinstance(leaf, torch.Tensor):
        return None, None
    found = StorageWeakRef(leaf.untyped_storage())
    return found.cdata, found


@pytest.mark.parametrize("name", list(COPIES))
def test_a_step_makes_no_copy_of_a_model(name: str, steps: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing but gradients and the virtual student has the size of a model: no parameters, moments or modules.

    The buffer by which every step measures how far the student moved is made once.
    """
    step = steps[name]
    influence_step.updated(step, step)
    monkeypatch.setattr(copy, "deepcopy", lambda *words: pytest.fail("a deep copy"))
    for place, (numel, count) in enumerate(WIDE.values()):
        with Alive(numel) as seen:
            step()
        assert seen.most / count <= COPIES[name][place]


def test_a_copy_of_the_teacher_would_be_seen(steps: dict[str, Any]) -> None:
    """The test above fails where a step copies one."""
    step, (numel, count) = steps["prokt"], WIDE["teacher"]
    with Alive(numel) as seen:
        copied = {name: value.clone() for name, value in step.env.run.started().teacher.params.items()}
        step()
    assert copied and seen.most / count > COPIES["prokt"][0]
