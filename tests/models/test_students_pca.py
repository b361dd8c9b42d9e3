"""Fresh students on the teacher's word embeddings, reduced to their width."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from kd_env import DistillEnv, DistillVectorEnv, build_problem
from kd_env.core import trees
from kd_env.decisions.options import env_config
from kd_env.envs.environments import TutorTokenEnv
from kd_env.models.students.embeddings import principal_components

STUDENT = {"hidden_size": 8, "num_attention_heads": 2, "embedding_init": "pca"}
TABLE = "bert.embeddings.word_embeddings.weight"
ALL = np.ones(3, np.int8)


@pytest.fixture(scope="module")
def problem(tiny: dict[str, Any]) -> Any:
    features = ["progress", "row_influence"]
    rows = {"decision": "sample_weighting", "weighting": "sample", "updates_per_step": 1, "features": features}
    return build_problem(env_config(**{**tiny, **rows, "student": STUDENT, "precision": "fp64"}))


def test_components_are_those_of_a_plain_svd() -> None:
    """But for its signs."""
    rows = torch.randn(50, 12, generator=torch.Generator().manual_seed(0)) * torch.arange(1, 13) + 3.0
    found = principal_components(rows, 5)
    centred = (rows - rows.mean(0)).double().numpy()
    right = np.linalg.svd(centred, full_matrices=False)[2]
    axes = right[:5] * np.sign(right[np.arange(5), np.abs(right[:5]).argmax(1)])[:, None]
    np.testing.assert_allclose(found, centred @ axes.T, rtol=1e-5, atol=1e-5)
    # As many components as there are axes turn the rows, and change no distance.
    torch.testing.assert_close(torch.pdist(principal_components(rows, 12)), torch.pdist(rows), rtol=1e-5, atol=0)
    assert torch.equal(principal_components(rows, 5), found)


def test_the_table_is_the_teachers_frozen_and_shared(problem: Any) -> None:
    """Not among the parameters or moments of a state, however many replicas there are; the rest is drawn by seed."""
    module = problem.student.module
    expected = principal_components(problem.reference.encoder.module.get_input_embeddings().weight, 8)
    assert torch.equal(module.get_parameter(TABLE), expected.double())
    envs = DistillVectorEnv(3, problem=problem)
    envs.reset(seed=[0, 1, 1])
    state = envs.run.started()
    assert TABLE not in state.params and set(state.params) == set(state.exp_avg) == set(state.exp_avg_sq)
    rest = {name for name, _ in module.named_parameters()} - {TABLE}
    assert rest == {name for name in state.params if not name.startswith("projections.")}
    query = state.params["bert.encoder.layer.0.attention.self.query.weight"]
    assert not torch.equal(query[0], query[1]) and torch.equal(query[1], query[2])
    envs.step(envs.action_space.sample())
    assert torch.equal(module.get_parameter(TABLE), expected.double())


def test_stacked_students_equal_singles(problem: Any) -> None:
    """Also the influence of rows; the norm of the change is that of the trainable tensors."""
    env = DistillEnv(problem=problem)
    env.reset(seed=3)
    before = trees.copy(env.run.started())
    influence = env.row_influence()
    *_, info = env.step(np.ones(env.action_space.shape, np.float32))
    after = env.run.started()
    squares = [(after.params[name] - value).square().sum() for name, value in before.params.items()]
    assert info["update_norm"] == pytest.approx(float(torch.stack(squares).sum().sqrt()), rel=1e-6)
    assert np.abs(influence).max() > 0
    stacked = DistillVectorEnv(2, problem=problem)
    stacked.reset(seed=[3, 4])
    np.testing.assert_allclose(stacked.row_influence()[:1], influence, rtol=1e-7)
    stacked.step(np.ones(stacked.action_space.shape, np.float32))
    for name, value in stacked.run.started().params.items():
        torch.testing.assert_close(value[:1], after.params[name], rtol=1e-9, atol=1e-12)


def test_a_fork_goes_on_as_it_was(problem: Any) -> None:
    env, other = DistillEnv(problem=problem), DistillEnv(problem=problem)
    env.reset(seed=5)
    other.reset(seed=6)
    weights = np.linspace(0.5, 1.0, 4, dtype=np.float32).reshape(env.action_space.shape)
    env.step(weights)
    other.set_state(env.get_state())
    assert env.step(weights)[1] == other.step(weights)[1]
    for name, value in env.run.started().params.items():
        assert torch.equal(value, other.run.started().params[name])


@pytest.mark.filterwarnings("ignore:The teacher's loss")
def test_a_saved_student_holds_its_table(tiny: dict[str, Any], tmp_path: Path) -> None:
    """The library alone reads it, and says the same."""
    from transformers import AutoModelForSequenceClassification

    env = DistillEnv(**{**tiny, "student": STUDENT})
    env.reset(seed=1)
    env.step(ALL)
    model = AutoModelForSequenceClassification.from_pretrained(env.save_student(tmp_path / "student")).eval()
    assert torch.equal(model.get_parameter(TABLE), env.problem.student.module.get_parameter(TABLE))
    table = env.problem.feedback
    batch = table.gather(np.arange(len(table)))
    with torch.no_grad():
        logits: Tensor = model(batch.input_ids, batch.attention_mask.long(), batch.token_type_ids).logits
    np.testing.assert_allclose(env.run.predict(table)[0], logits, rtol=1e-4, atol=1e-5)


def test_gradients_are_those_of_a_student_with_a_trained_table(tiny: dict[str, Any]) -> None:
    """Without clipping, whose norm is that of the trainable tensors."""
    moments = []
    for trains in (False, True):
        options = {"optimizer": {"max_grad_norm": None}, "precision": "fp64", "updates_per_step": 1}
        env = DistillEnv(**{**tiny, **options, "student": {**STUDENT, "train_embeddings": trains}})
        env.reset(seed=2)
        env.step(ALL)
        moments.append(env.run.started().exp_avg)
    frozen, trained = moments
    assert set(trained) - set(frozen) == {TABLE}
    for name, value in frozen.items():
        torch.testing.assert_close(value, trained[name], rtol=1e-10, atol=1e-14)


def test_a_trained_table_begins_with_the_teachers(tiny: dict[str, Any]) -> None:
    envs = DistillVectorEnv(2, **{**tiny, "student": {**STUDENT, "train_embeddings": True}})
    envs.reset(seed=[0, 1])
    start = envs.problem.student.module.get_parameter(TABLE).clone()
    tables = envs.run.started().params[TABLE].clone()
    assert torch.equal(tables[0], start) and torch.equal(tables[1], start)
    envs.step(np.ones((2, 3), np.int8))
    assert not torch.equal(envs.run.started().params[TABLE], tables)


def test_a_factorised_table_has_a_width_of_its_own(tiny: dict[str, Any]) -> None:
    """The student may be wider than the teacher's embeddings where its own are not."""
    student = {**STUDENT, "hidden_size": 32, "embedding_size": 6}
    module = build_problem(env_config(**{**tiny, "student": student})).student.module
    assert module.get_input_embeddings().weight.shape == (45, 6)


def test_a_tutored_student(tiny_text: dict[str, Any]) -> None:
    env = TutorTokenEnv(**{**tiny_text, "student": STUDENT})
    teacher = env.problem.reference.encoder.module.encoder.get_input_embeddings().weight
    table = env.problem.student.module.get_input_embeddings().weight
    assert torch.equal(table, principal_components(teacher, 8))
    env.reset(seed=0)
    env.step(env.action_space.sample())
    assert TABLE not in env.run.started().params


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"student": {**STUDENT, "hidden_size": 18}}, r"student\.hidden_size=18 is wider .* \(16\).*at most 16.*drawn"),
        ({"student": {**STUDENT, "embedding_size": 20}}, r"student\.embedding_size=20 is wider"),
        ({"student": {"init": "teacher", "num_hidden_layers": 1, "embedding_init": "pca"}}, "only for .*init=fresh"),
        ({"student": {**STUDENT, "embedding_init": "svd"}}, r"embedding_init: 'svd'.*drawn, pca"),
        (
            {
                **{"student": STUDENT, "teacher_source": "online", "teacher_updates": "prokt"},
                **{"decision": "sample_weighting", "features": ["row_student"], "updates_per_step": 1},
                "learning_teacher": {"init": "fresh"},
            },
            r"learning_teacher\.init='fresh'.*'drawn'.*'pretrained'",
        ),
    ],
)
def test_what_cannot_be_reduced_is_refused(options: dict[str, Any], message: str, tiny: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=message):
        build_problem(env_config(**{**tiny, **options}))


def test_teachers_of_different_vocabularies_are_refused(tiny_set: dict[str, Any], tmp_path: Path) -> None:
    """Those of one vocabulary are not: the first one's words are reduced."""
    import shutil

    options = {**tiny_set, "decision": "teacher_weighting", "updates_per_step": 1, "terms": ["soft_label"]}
    problem = build_problem(env_config(**{**options, "student": STUDENT}))
    first = problem.teachers[0].encoder.module.get_input_embeddings().weight
    assert torch.equal(problem.student.module.get_parameter(TABLE), principal_components(first, 8))
    foreign = tmp_path / "foreign"
    shutil.copytree(tiny_set["teachers"][1]["path"], foreign)
    words = {f"t{index}": index for index in range(45)}
    PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="t1")), pad_token="t0", unk_token="t1"
    ).save_pretrained(foreign)
    teachers = [tiny_set["teachers"][0], {"name": "foreign", "path": str(foreign)}]
    with pytest.raises(ValueError, match=r"teacher 'right', and 'foreign' has another vocabulary.*'drawn'"):
        build_problem(env_config(**{**options, "teachers": teachers, "student": STUDENT}))
