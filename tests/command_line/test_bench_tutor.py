"""``kd-env bench tutor_step``: what it measures, what it refuses to time, and the memory promise of a step."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from cli.jobs import bench as job
from kd_env.envs import DistillVectorEnv
from kd_env.envs.environments import TutorTokenEnv
from kd_env.mdp.problem import Problem

tutor_step = job._load("tutor_step")
loops = job._load("bare_tutor")
SMALL = tutor_step.Options(
    device="cpu",
    repeats=3,
    hidden=(16,),
    batch=(4,),
    length=(30,),
    vocab=500,
    teacher_layers=1,
    teacher_hidden=16,
    teacher_every=(1, 3, 9),
    memory_batch=4,
    memory_length=12,
)


@pytest.fixture(scope="module")
def problem() -> Problem:
    """Rows of 16 tokens, 2 slots each, from 500 words."""
    built: Problem = tutor_step.build(SMALL, tutor_step.Cell("random", 8, 4, 16))
    return built


def test_rows_say_time_and_teacher_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both texts, the joint mode and each way to go on; ratios are of rounds, so that they lie in their bounds."""
    asked: list[str] = []

    def measured(options: Any, loop: str) -> dict[str, Any]:
        asked.append(loop)
        return {"loop": loop, "slots": 1, "step_mib": 1.0, "whole_mib": 3.0, "slots_mib": 2.0}

    monkeypatch.setattr(tutor_step, "_in_child", measured)
    result = tutor_step.run(SMALL)
    rows = result["rows"]
    random = [row for row in rows if row["setting"] == "random"]
    assert {row["setting"] for row in rows} == {"text", "random"} and asked == ["bare", "env"]
    assert [(row["mode"], row["slots"], row["tokens"], row["vocab"]) for row in random[:1]] == [("joint", 4, 30, 500)]
    # Of 4 slots the teacher reads again after 1, 2, 3; after 3; never. 9 is as good as 4.
    assert [(row["teacher_every"], row["passes"]) for row in random[1:]] == [(1, 5), (3, 3), (4, 2)]
    for row in rows:
        assert 0 < row["ratio_min"] <= row["ratio"] <= row["ratio_max"] and row["seconds"] > 0
    assert all(row["loss_difference"] < 1e-5 for row in rows if row["mode"] == "joint")
    text = tutor_step.table(result)
    assert all(part in text for part in ("| random | 30 | 500 | 4 | 4 | 16 |", "one step, env | 1", "every token | 3"))


def test_ratios_are_of_rounds_without_the_first() -> None:
    found = tutor_step._over([9.0, 2.0, 3.0, 8.0], [1.0, 1.0, 2.0, 2.0])
    assert found == {"seconds": 3.0, "base": 2.0, "ratio": 2.0, "ratio_min": 1.5, "ratio_max": 4.0}


def test_memory_is_of_a_process_of_its_own() -> None:
    found = tutor_step._in_child(SMALL, "env")
    assert found["slots"] == 2 and found["step_mib"] >= 0
    assert found["whole_mib"] * 2**20 == 4 * 12 * 500 * 4 and found["slots_mib"] * 2**20 == 4 * 2 * 500 * 4


@pytest.mark.parametrize("part", ["losses", "rewards", "students"])
def test_a_loop_that_does_other_work_is_not_timed(part: str, problem: Problem, monkeypatch: pytest.MonkeyPatch) -> None:
    env, bare = loops.start(problem)
    right = bare.step
    if part == "losses":
        bare.projection.data *= 1.001
    elif part == "rewards":
        monkeypatch.setattr(bare, "step", lambda *words: right(*words)._replace(recognises=np.float32(0.1)))
    else:
        monkeypatch.setattr(loops, "WEIGHTS", (0.5, 25.0, 0.5))
    tokens = np.random.default_rng(0).integers(5, 500, (1, 4, 2))
    with pytest.raises(AssertionError, match=part):
        loops.agree(env, bare, [*tokens], "fp32")


def test_the_loop_is_for_bert_only(problem: Problem) -> None:
    module = SimpleNamespace(config=SimpleNamespace(model_type="electra"))
    other: Any = SimpleNamespace(reader=SimpleNamespace(model=SimpleNamespace(module=module)))
    with pytest.raises(ValueError, match="'electra'"):
        loops.BareTutor(other, {})


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["settings=[text,words]"], "Unknown value of settings"),
        (["hidden=[32,33]"], "hidden=33 must be a multiple of the 2 heads"),
        (["text=sst2"], "text='sst2' comes without a teacher; give encoder="),
        (["teacher_every=[1,1]"], "must be a list of different values"),
        (["memory_length=4"], "memory_length=4 must be a whole number of at least 8"),
    ],
)
def test_what_does_not_fit_is_refused_before_any_work(words: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError) as caught:
        job.bench(["tutor_step", *words, f"out={tmp_path / 'out'}"], "kd-env bench")
    assert message in str(caught.value) and not (tmp_path / "out").exists()


class Largest(TorchDispatchMode):
    """The number of elements of the largest tensor that any operation gives."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.numel = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        sizes = [leaf.numel() for leaf in tree_leaves(out) if isinstance(leaf, torch.Tensor)]
        self.numel = max(self.numel, *sizes, 0)
        return out


@pytest.mark.parametrize("mode", ["joint", "sequential"])
@pytest.mark.parametrize("replicas", [1, 2])
def test_no_tensor_has_rows_times_length_times_vocabulary(mode: str, replicas: int, problem: Problem) -> None:
    """Teacher's logits exist at the slots alone, from reset over updates and evaluations to the end of an episode."""
    options: dict[str, Any] = {"mode": mode, "evaluate_every": 1, "budget": 2}
    env: Any = (
        TutorTokenEnv(problem=problem, **options)
        if replicas == 1
        else DistillVectorEnv(replicas, problem=problem, autoreset_mode="disabled", **options)
    )
    assert (problem.reader.ids.shape[1], problem.reader.slots, problem.reader.model.facts.vocab_size) == (16, 2, 500)
    with Largest() as seen:
        env.reset(seed=0)
        ended = False
        while not ended:
            ended = bool(np.all(env.step(np.full(env.action_space.shape, 9))[2]))
    at_slots, everywhere = replicas * 4 * 2 * 500, 4 * 16 * 500
    assert at_slots <= seen.numel < everywhere


def test_logits_of_every_token_would_be_seen(problem: Problem, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test above fails where the teacher's head is asked for whole rows."""
    language_model = type(problem.reader.model)
    right = language_model.encode

    def wasteful(teacher: Any, *words: Any, **options: Any) -> Any:
        found = right(teacher, *words, **options)
        teacher.logits(found.hidden)
        return found

    monkeypatch.setattr(language_model, "encode", wasteful)
    env = TutorTokenEnv(problem=problem)
    with Largest() as seen:
        env.reset(seed=0)
    assert seen.numel == 4 * 16 * 500
