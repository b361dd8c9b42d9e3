"""Fresh students whose word embeddings have a width of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_models import SIZES, write_encoder

from kd_env import DistillEnv, DistillVectorEnv, build_problem
from kd_env.config.student import StudentConfig
from kd_env.core.types import Signal
from kd_env.decisions.options import env_config
from kd_env.envs.environments import TutorTokenEnv
from kd_env.models.architecture import classifier_kind, token_classifier_kind
from kd_env.models.encoder import Encoder
from kd_env.models.students.fresh import fresh_student

STUDENT = {"hidden_size": 8, "num_attention_heads": 2, "num_hidden_layers": 2, "embedding_size": 4}
TERMS = ["hard_label", "soft_label", "hidden_states", "cls", "attention"]
TIGHT = {"rtol": 1e-9, "atol": 1e-9}


@pytest.fixture(scope="module")
def problem(tiny: dict[str, Any]) -> Any:
    """A BERT teacher of width 16, compared with the student in its embeddings, its blocks and their attention."""
    options = {**tiny, "student": STUDENT, "terms": TERMS, "precision": "fp64", "features": ["progress", "term_losses"]}
    return build_problem(env_config(**options))


def parameters(module: Any) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_a_student_of_a_bert_is_the_librarys_electra(problem: Any) -> None:
    """Logits and states of kd-env's pass are the library's own; state 0 is what the first block reads."""
    from transformers import ElectraForSequenceClassification

    encoder = problem.student
    assert type(encoder.module) is ElectraForSequenceClassification
    assert encoder.module.get_input_embeddings().weight.shape == (45, 4)
    config = type(encoder.module.config).from_dict(encoder.module.config.to_dict())
    own = ElectraForSequenceClassification._from_config(config, attn_implementation="eager").double().eval()
    params = encoder.initial(3)
    own.load_state_dict({**encoder.module.state_dict(), **params})
    batch = problem.feedback.gather(np.arange(8))
    signals = {Signal("hidden_states", layer) for layer in range(3)} | {Signal("attention_scores", 1)}
    with torch.no_grad():
        found = encoder.forward(params, batch, signals)
        out = own(batch.input_ids, batch.attention_mask.long(), batch.token_type_ids, output_hidden_states=True)
        projected = own.electra.embeddings_project(own.electra.embeddings(batch.input_ids, batch.token_type_ids))
    torch.testing.assert_close(found.logits, out.logits, **TIGHT)
    torch.testing.assert_close(found.hidden_states[0], projected, **TIGHT)
    for layer in range(3):
        assert found.hidden_states[layer].shape[-1] == 8
        real = batch.attention_mask
        torch.testing.assert_close(found.hidden_states[layer][real], out.hidden_states[layer][real], **TIGHT)
    assert found.attention_scores[1].shape == (8, 2, batch.input_ids.shape[1], batch.input_ids.shape[1])


def test_stacked_students_equal_singles(problem: Any) -> None:
    """Every term, also in the embeddings and the attention, over an episode."""
    envs, singles = DistillVectorEnv(2, problem=problem), [DistillEnv(problem=problem) for _ in range(2)]
    envs.reset(seed=[5, 6])
    for index, env in enumerate(singles):
        env.reset(seed=5 + index)
    for _ in range(4):
        _, rewards, _, _, info = envs.step(np.ones((2, len(TERMS)), np.int8))
        for index, env in enumerate(singles):
            _, reward, *_, own = env.step(np.ones(len(TERMS), np.int8))
            np.testing.assert_allclose(rewards[index], reward, **TIGHT)
            here = info.get("final_info", info)
            np.testing.assert_allclose(here["raw_losses"][index], own["raw_losses"], rtol=1e-6)
            assert (own["raw_losses"] > 0).all()


def test_frozen_tables_are_shared_and_the_map_learns(tiny: dict[str, Any]) -> None:
    env = DistillEnv(**{**tiny, "student": {**STUDENT, "train_embeddings": False}})
    names = env.problem.student.trainable
    table, mapped = "electra.embeddings.word_embeddings.weight", "electra.embeddings_project.weight"
    assert table not in names and mapped in names
    env.reset(seed=0)
    frozen = env.problem.student.module.get_parameter(table).clone()
    before = env.run.started().params[mapped].clone()
    env.step(np.ones(3, np.int8))
    assert torch.equal(env.problem.student.module.get_parameter(table), frozen)
    assert not torch.equal(env.run.started().params[mapped], before)


@pytest.mark.filterwarnings("ignore:The teacher's loss")
def test_a_saved_student_is_read_by_the_library(tiny: dict[str, Any], tmp_path: Path) -> None:
    """With its labels; and it can be a pre-trained student, or a teacher."""
    from transformers import AutoModelForSequenceClassification

    env = DistillEnv(**{**tiny, "student": STUDENT})
    env.reset(seed=1)
    env.step(np.ones(3, np.int8))
    folder = str(env.save_student(tmp_path / "student"))
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    problem = env.problem
    batch = problem.feedback.gather(np.arange(8))
    params = {name: p[0] for name, p in env.run.started().params.items() if not name.startswith("projections.")}
    with torch.no_grad():
        loaded = model(batch.input_ids, batch.attention_mask.long(), batch.token_type_ids).logits
        torch.testing.assert_close(loaded, problem.student.forward(params, batch, ()).logits, rtol=1e-4, atol=1e-5)
    for other in ({"teacher": folder}, {"student": folder}):
        DistillEnv(**{**tiny, "teacher_check": "none", **other}).reset(seed=0)


@pytest.mark.filterwarnings("ignore:The teacher's loss")
@pytest.mark.parametrize(("kind", "own"), [("Electra", 8), ("Albert", 8)])
def test_families_with_such_embeddings_are_kept(kind: str, own: int, tiny: dict[str, Any], tmp_path: Path) -> None:
    """And their own width, where none is given."""
    folder = write_encoder(tmp_path, kind, tiny)
    for student, expected in ((STUDENT, 4), ({**STUDENT, "embedding_size": None}, own)):
        env = DistillEnv(**{**tiny, "teacher": folder, "teacher_check": "none", "student": student})
        module = env.problem.student.module
        assert type(module).__name__ == f"{kind}ForSequenceClassification"
        assert module.get_input_embeddings().weight.shape == (45, expected)
        env.reset(seed=0)
        assert np.isfinite(env.step(np.ones(3, np.int8))[1])


@pytest.mark.parametrize("kind", ["Roberta", "DistilBert"])
def test_other_families_are_refused(kind: str, tiny: dict[str, Any], tmp_path: Path) -> None:
    """Positions from the padding id on; no segment ids."""
    folder = write_encoder(tmp_path, kind, tiny)
    with pytest.raises(ValueError, match=rf"student\.embedding_size=4 .* {kind}Config has none.*=null"):
        DistillEnv(**{**tiny, "teacher": folder, "student": STUDENT})


def test_only_fresh_students_take_the_option(tiny: dict[str, Any]) -> None:
    for student in ({"init": "teacher", "num_hidden_layers": 1}, {"init": "pretrained", "name_or_path": "folder"}):
        with pytest.raises(ValueError, match=r"student\.embedding_size=4 is only for student\.init=fresh"):
            DistillEnv(**{**tiny, "student": {**student, "embedding_size": 4}})
    with pytest.raises(ValueError, match=r"student\.embedding_size=0 .*at least 1"):
        DistillEnv(**{**tiny, "student": {"embedding_size": 0}})


@pytest.mark.parametrize("head", [classifier_kind, token_classifier_kind])
def test_ids_are_those_of_the_teacher_and_parameters_fall(head: Any) -> None:
    """By the narrower tables, less the map; norms, activation and the start of the weights are the teacher's, too."""
    from transformers import BertConfig

    odd = {"layer_norm_eps": 1e-5, "hidden_act": "relu", "pad_token_id": 3, "type_vocab_size": 3}
    source = BertConfig(**{**SIZES, **odd, "vocab_size": 900, "initializer_range": 0.1})
    plain, narrow = (
        fresh_student(StudentConfig(**{**STUDENT, "embedding_size": width}), source, head, 2) for width in (None, 4)
    )
    for name in (*odd, "vocab_size", "max_position_embeddings", "initializer_range"):
        assert getattr(narrow.config, name) == getattr(source, name)
    assert (narrow.config.attention_probs_dropout_prob, narrow.config.hidden_dropout_prob) == (0.0, 0.0)
    tables = 900 + SIZES["max_position_embeddings"] + 3
    saved = (tables + 2) * (8 - 4) - (4 + 1) * 8  # tables and their norm; the map and its bias
    wide_tables, tables_and_map = (
        parameters(module.base_model) - parameters(module.base_model.encoder) for module in (plain, narrow)
    )
    if head is classifier_kind:  # whose pooler is BERT's, in ELECTRA part of the head
        wide_tables -= parameters(plain.bert.pooler)
    assert wide_tables - tables_and_map == parameters(plain) - parameters(narrow) == saved
    assert parameters(plain.bert.encoder) == parameters(narrow.electra.encoder)
    # Everything of it can be drawn by seed: nothing stays as the library left it.
    encoder = Encoder.build(narrow, train_embeddings=True, fresh="all")
    assert set(encoder.initial(0)) == {name for name, _ in narrow.named_parameters()}


def test_a_tutored_student(tiny_text: dict[str, Any], tmp_path: Path) -> None:
    """Stacked as single, with hidden states from the embeddings on and attention; then a start of fine-tuning."""
    from transformers import AutoModelForSequenceClassification, ElectraForTokenClassification

    options = {**tiny_text, "student": STUDENT, "precision": "fp64"}
    problem = build_problem(env_config(decision="tutor_token", **options))
    assert type(problem.student.module) is ElectraForTokenClassification
    assert problem.term_names == ("plausibility", "hidden_states", "attention")
    assert problem.reference.pairs[0] == (0, 0)
    envs, single = DistillVectorEnv(2, problem=problem), TutorTokenEnv(problem=problem)
    envs.reset(seed=[4, 5])
    single.reset(seed=5)
    envs.action_space.seed(0)
    for _ in range(3):
        actions = envs.action_space.sample()
        info, own = envs.step(actions)[4], single.step(actions[1])[4]
        for name in ("loss", "losses", "student_error"):
            np.testing.assert_allclose(info[name][1], own[name], **TIGHT)
    folder = single.save_student(tmp_path / "student")
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    for name, p in single.run.started().params.items():
        if name.startswith("electra."):
            torch.testing.assert_close(model.get_parameter(name).double(), p[0], rtol=1e-6, atol=1e-6)


def test_a_tutored_student_starts_a_fine_tuning(
    tiny: dict[str, Any], tiny_text: dict[str, Any], tmp_path: Path
) -> None:
    from kd_env.data.loading import get_task
    from kd_env.finetuning.config import TeacherConfig
    from kd_env.finetuning.model import start_classifier

    env = TutorTokenEnv(**{**tiny_text, "student": STUDENT})
    env.reset(seed=0)
    folder = str(env.save_student(tmp_path / "student"))
    data = {name: tiny[name] for name in ("task", "columns", "data_dir")}
    config = TeacherConfig(name_or_path=folder, output=str(tmp_path / "out"), **data)
    model = start_classifier(config, get_task(tiny["task"], tiny["columns"], tiny["data_dir"]), 0).model
    assert type(model).__name__ == "ElectraForSequenceClassification"
    table = env.run.started().params["electra.embeddings.word_embeddings.weight"][0]
    torch.testing.assert_close(model.get_input_embeddings().weight, table)
