"""Students of which only the upper part learns (``student.trainable``)."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_models import write_encoder

from kd_env import DistillEnv, DistillVectorEnv, build_problem
from kd_env.core.types import Signal
from kd_env.decisions.options import env_config
from kd_env.envs.environments import TutorTokenEnv

STUDENT = {"init": "teacher", "num_hidden_layers": 2}
TERMS = ["hard_label", "soft_label", "hidden_states", "attention"]
BELOW = ("bert.embeddings.", "bert.encoder.layer.0.")


def options(tiny: dict[str, Any], trainable: str, **others: Any) -> dict[str, Any]:
    """Rows are weighed, so that their influence can be asked for."""
    rows = {"decision": "sample_weighting", "weighting": "sample", "updates_per_step": 1, "features": ["progress"]}
    student = {**STUDENT, "trainable": trainable}
    return {**tiny, **rows, "terms": TERMS, "student": student, "precision": "fp64", **others}


@pytest.fixture(scope="module")
def problem(tiny: dict[str, Any]) -> Any:
    return build_problem(env_config(**options(tiny, "top1", optimizer={"max_grad_norm": None})))


def ones(env: Any) -> np.ndarray:
    return np.ones(env.action_space.shape, np.float32)


def test_what_is_below_is_no_part_of_the_state(problem: Any, tiny: dict[str, Any]) -> None:
    names = [name for name, _ in problem.student.module.named_parameters()]
    assert set(problem.student.trainable) == {name for name in names if not name.startswith(BELOW)}
    envs = DistillVectorEnv(2, problem=problem)
    envs.reset(seed=[0, 1])
    before = {name: value.clone() for name, value in problem.student.module.state_dict().items()}
    envs.step(ones(envs))
    state = envs.run.started()
    assert set(state.params) == set(state.exp_avg) == set(problem.student.trainable)
    assert all(torch.equal(value, before[name]) for name, value in problem.student.module.state_dict().items())
    head = build_problem(env_config(**options(tiny, "head", terms=TERMS[:2]))).student
    assert {name.split(".")[1] for name in head.trainable} == {"pooler", "weight", "bias"}
    blocks = build_problem(env_config(**options(tiny, "top2"))).student
    assert set(blocks.trainable) == {name for name in names if not name.startswith(BELOW[0])}


def test_gradients_are_those_of_a_student_that_learns_whole(problem: Any, tiny: dict[str, Any]) -> None:
    """And losses, of frozen layers, too; without clipping, whose norm is that of what learns."""
    whole = DistillEnv(**options(tiny, "all", optimizer={"max_grad_norm": None}))
    upper = DistillEnv(problem=problem)
    for env in (whole, upper):
        env.reset(seed=3)
    before = {name: value.clone() for name, value in upper.run.started().params.items()}
    infos = [env.step(ones(env))[4] for env in (upper, whole)]
    np.testing.assert_allclose(infos[0]["raw_losses"], infos[1]["raw_losses"], rtol=1e-12)
    states = [env.run.started() for env in (upper, whole)]
    assert set(states[1].exp_avg) > set(states[0].exp_avg)
    for name, value in states[0].exp_avg.items():
        torch.testing.assert_close(value, states[1].exp_avg[name], rtol=1e-9, atol=1e-13)
    moved = [(states[0].params[name] - value).flatten() for name, value in before.items()]
    assert infos[0]["update_norm"] == pytest.approx(float(torch.cat(moved).norm()), rel=1e-6)


def test_stacked_students_equal_singles_and_forks_go_on(problem: Any) -> None:
    single, other, envs = DistillEnv(problem=problem), DistillEnv(problem=problem), DistillVectorEnv(2, problem=problem)
    single.reset(seed=4)
    other.reset(seed=9)
    envs.reset(seed=[4, 5])
    for _ in range(2):
        np.testing.assert_allclose(envs.row_influence()[:1], single.row_influence(), rtol=1e-6, atol=1e-12)
        envs.step(ones(envs))
        single.step(ones(single))
    for name, value in single.run.started().params.items():
        torch.testing.assert_close(envs.run.started().params[name][:1], value, rtol=1e-8, atol=1e-11)
    other.set_state(single.get_state())
    assert single.step(ones(single))[1] == other.step(ones(other))[1]
    for name, value in single.run.started().params.items():
        assert torch.equal(value, other.run.started().params[name])


@pytest.mark.filterwarnings("ignore:The teacher's loss")
@pytest.mark.parametrize("kind", ["Bert", "DistilBert", "Electra", "Roberta"])
def test_saved_students_are_whole(kind: str, tiny: dict[str, Any], tmp_path: Path) -> None:
    """The library alone reads them, and says the same; what is below is the teacher's own in every family."""
    from transformers import AutoModelForSequenceClassification

    folder = write_encoder(tmp_path / "teacher", kind, tiny)
    given = options(tiny, "top1", teacher=folder, teacher_check="none", max_length=30, terms=TERMS[:2])
    env = DistillEnv(**{**given, "precision": "fp32"})
    env.reset(seed=1)
    env.step(ones(env))
    saved = AutoModelForSequenceClassification.from_pretrained(env.save_student(tmp_path / "student")).eval()
    teacher = AutoModelForSequenceClassification.from_pretrained(folder)
    learned = set(env.problem.student.trainable)
    for name, value in teacher.base_model.named_parameters(prefix=teacher.base_model_prefix):
        assert torch.equal(saved.get_parameter(name), value) == (name not in learned), name
    assert {name for name, _ in teacher.named_parameters()} > learned and learned
    table = env.problem.feedback
    batch = table.gather(np.arange(len(table)))
    with torch.no_grad():
        logits = saved(batch.input_ids, batch.attention_mask.long()).logits
    np.testing.assert_allclose(env.run.predict(table)[0], logits, rtol=1e-4, atol=1e-4)


def test_a_tutored_student(tiny_text: dict[str, Any]) -> None:
    env = TutorTokenEnv(**{**tiny_text, "student": {**STUDENT, "trainable": "top1"}})
    env.reset(seed=0)
    env.step(env.action_space.sample())
    assert set(env.run.started().params) == {
        name for name, _ in env.problem.student.module.named_parameters() if not name.startswith(BELOW)
    }


@pytest.mark.parametrize(
    ("student", "terms", "message"),
    [
        ({"trainable": "top3"}, TERMS, r"'top3' is more than the 2 blocks.*at most 'top2', or 'all'"),
        ({"trainable": "top0"}, TERMS, r"student\.trainable='top0'.*all, head, or top<n>"),
        ({"trainable": "top1", "train_embeddings": True}, TERMS, r"train_embeddings=True contradicts .*'top1'"),
        ({"init": "fresh", "trainable": "head"}, TERMS, r"know nothing; set student\.init='teacher'"),
        ({"trainable": "head"}, ["hidden_states"], r"'hidden_states' reads only frozen layers .*\(0, 1, 2; .*0 to 2\)"),
        ({"trainable": "head"}, ["hard_label", "attention"], r"'attention' reads only frozen layers"),
    ],
)
def test_what_could_not_learn_is_refused(
    student: dict[str, Any], terms: list[str], message: str, tiny: dict[str, Any]
) -> None:
    given = {**STUDENT, **student}
    if given["init"] == "fresh":
        del given["num_hidden_layers"]
    with pytest.raises(ValueError, match=message):
        build_problem(env_config(**{**tiny, "student": given, "terms": terms}))


def test_shared_blocks_are_refused(tiny: dict[str, Any], tmp_path: Path) -> None:
    folder = write_encoder(tmp_path, "Albert", tiny)
    with pytest.raises(ValueError, match=r"'top1' freezes blocks one by one: Albert.*Or set student\.trainable='all'"):
        DistillEnv(**{**options(tiny, "top1"), "teacher": folder, "teacher_check": "none"})


def test_layers_are_frozen_up_to_the_depth(problem: Any) -> None:
    """What terms are told is what the module does: no trained parameter changes the frozen signals, all the others."""
    encoder = problem.student
    params = {name: value.requires_grad_() for name, value in encoder.initial(0).items()}
    signals = [Signal("hidden_states", layer) for layer in range(3)]
    out = encoder.forward(params, problem.feedback.gather(np.arange(4)), signals)
    depth = encoder.facts.frozen_depth
    assert [out.hidden_states[layer].requires_grad for layer in range(3)] == [layer > depth for layer in range(3)]


# -- what frozen layers say is kept


@pytest.mark.filterwarnings("ignore:The teacher's loss")
@pytest.mark.parametrize(
    ("kind", "trainable", "on_disk"), [("Bert", "top1", True), ("Bert", "head", False), ("Electra", "top1", False)]
)
def test_keeping_what_frozen_layers_say_changes_nothing(
    kind: str, trainable: str, on_disk: bool, tiny: dict[str, Any], tmp_path: Path
) -> None:
    """Losses, influence, evaluations and students, stacked, in memory and from files."""
    folder = write_encoder(tmp_path / "teacher", kind, tiny)
    terms: list[Any] = ["hard_label", "soft_label"]
    if trainable == "top1":
        terms += ["cls", "attention"]
    others = {
        **{"teacher": folder, "teacher_check": "none", "max_length": 30, "terms": terms, "layer_map": [[2, 1]]},
        "cache_dir": str(tmp_path / "cache") if on_disk else None,
    }
    results = []
    for kept in (False, True):
        given = options(tiny, trainable, **others)
        given["student"] = {**given["student"], "cache_frozen": kept}
        envs = DistillVectorEnv(2, **given)
        envs.reset(seed=[1, 2])
        said = [envs.row_influence()]
        for _ in range(2):
            *_, info = envs.step(ones(envs))
            said += [info["raw_losses"], info["loss"]]
        results.append((said, envs.run.started().params, envs.problem))
    for plain, fast in zip(results[0][0], results[1][0], strict=True):
        np.testing.assert_allclose(fast, plain, rtol=1e-6, atol=1e-9)
    for name, value in results[0][1].items():
        torch.testing.assert_close(results[1][1][name], value, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("kind", ["DistilBert", "Roberta"])
def test_upper_parts_of_other_families(kind: str, tiny: dict[str, Any], tmp_path: Path) -> None:
    """They say what the whole says."""
    folder = write_encoder(tmp_path, kind, tiny)
    given = options(tiny, "top1", teacher=folder, teacher_check="none", max_length=30, terms=TERMS[:2])
    given["student"]["cache_frozen"] = True
    problem = build_problem(env_config(**given))
    batch, signals = problem.train.gather(np.arange(6)), {Signal("hidden_states", 1), Signal("hidden_states", 2)}
    assert set(batch.states) == {1}
    part, whole = (problem.student.forward({}, each, signals) for each in (batch, batch._replace(states={})))
    torch.testing.assert_close(part.logits, whole.logits, rtol=1e-9, atol=1e-12)
    for layer in (1, 2):
        real = (output.hidden_states[layer][batch.attention_mask] for output in (part, whole))
        torch.testing.assert_close(*real, rtol=1e-9, atol=1e-12)


def test_a_member_with_pooling_is_refused(tiny: dict[str, Any], problem: Any) -> None:
    """Its pooling takes tokens alone."""
    from kd_env.models.pooling import AttentionPooling, PooledClassifier
    from kd_env.models.students.upper import with_upper

    bert = problem.student.module.bert
    pooled = PooledClassifier(bert, AttentionPooling(16), torch.nn.Linear(16, 2)).double().eval()
    student = dataclasses.replace(problem.student, module=pooled, trainable=())
    with pytest.raises(ValueError, match=r"PooledClassifier cannot be run alone .*; set student\.cache_frozen=false"):
        with_upper(student, problem.train.gather(np.arange(2)), ())


def test_frozen_layers_run_once_a_row(tiny: dict[str, Any]) -> None:
    """After the problem is built neither updates nor evaluations call them, and no replica holds them."""
    given = options(tiny, "head", terms=["hard_label", "soft_label"], precision="fp32")
    given["student"]["cache_frozen"] = True
    problem = build_problem(env_config(**given))
    calls: list[str] = []
    for name, module in problem.student.module.named_modules():
        if name in ("bert.embeddings", "bert.encoder.layer.0", "bert.encoder.layer.1"):
            module.register_forward_hook(lambda *_, name=name: calls.append(name))
    env = DistillEnv(problem=problem)
    env.reset(seed=0)
    env.step(ones(env))
    assert calls == []
    assert problem.selection.states is None  # rows of other tables run through the whole student
    env.run.predict(problem.selection)
    assert calls
    single, other = DistillEnv(problem=problem), DistillEnv(problem=problem)
    single.reset(seed=3)
    other.set_state(single.get_state())
    assert single.step(ones(single))[1] == other.step(ones(other))[1]


@pytest.mark.parametrize(
    ("student", "others", "message"),
    [
        ({"trainable": "all"}, {}, r"freezes none; set student\.trainable='top1'"),
        ({"dropout": 0.1}, {}, r"with student\.dropout=0\.1 they say something else"),
        ({}, {"terms": ["hidden_states"]}, r"output of layer 1 alone, .* hidden_states of layer 0, which does not run"),
        ({}, {"terms": ["hard_label", "attention"]}, r"attention_scores of layer 1, which does not run"),
        ({}, {"decision": "tutor_token"}, r"they are edited at every update; set student\.cache_frozen=false"),
    ],
)
def test_what_cannot_be_kept_is_refused(
    student: dict[str, Any], others: dict[str, Any], message: str, tiny: dict[str, Any]
) -> None:
    given = {**STUDENT, "trainable": "top1", "cache_frozen": True, **student}
    task = {name: value for name, value in tiny.items() if name not in ("features", "updates_per_step", "terms")}
    with pytest.raises(ValueError, match=message):
        build_problem(env_config(**{**task, "terms": ["hard_label"], **others, "student": given}))
