"""Families of models as teachers and students: the table of docs/teachers.md is what the code does, cell by cell."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from kd_env import DistillVectorEnv, build_problem
from kd_env.core.types import Signal
from kd_env.decisions.options import env_config
from kd_env.finetuning.classifier import TeacherConfig, finetune
from kd_env.models.library.padding import settle_padding
from kd_env.models.pretrained import load_encoder, load_tokenizer
from kd_env.testing import WORDS, tiny_task, tiny_tokenizer

# Random teachers are no better than their students.
pytestmark = pytest.mark.filterwarnings("ignore:The teacher's loss")
PAGE = Path(__file__).resolve().parents[2] / "docs" / "teachers.md"
COLUMNS = ("teacher", "cut student", "cut from the last layers", "fresh student", "attention terms")
SIZES: dict[str, Any] = {
    "vocab_size": 5 + len(WORDS),
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 48,
    "pad_token_id": 0,
}
ENDS = {"bos_token_id": 2, "eos_token_id": 3}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "BERT": ("Bert", SIZES),
    "RoBERTa": ("Roberta", {**SIZES, "type_vocab_size": 1, "pad_token_id": 1}),
    "XLM-R": ("XLMRoberta", {**SIZES, "type_vocab_size": 1, "pad_token_id": 1}),
    "DistilBERT": (
        "DistilBert",
        {"vocab_size": 45, "dim": 32, "n_layers": 3, "n_heads": 2, "hidden_dim": 64, "max_position_embeddings": 48},
    ),
    "ELECTRA": ("Electra", {**SIZES, "embedding_size": 16}),
    "ALBERT": ("Albert", {**SIZES, "embedding_size": 16}),
    "MPNet": ("MPNet", {**SIZES, "pad_token_id": 1}),
    "DeBERTa-v2": (
        "DebertaV2",
        {**SIZES, "type_vocab_size": 0, "relative_attention": True, "pos_att_type": ["p2c", "c2p"]}
        | {"position_buckets": 8, "norm_rel_ebd": "layer_norm", "share_att_key": True, "position_biased_input": False},
    ),
    "ModernBERT": (
        "ModernBert",
        {**SIZES, **ENDS, "cls_token_id": 2, "sep_token_id": 3, "local_attention": 8, "global_attn_every_n_layers": 2},
    ),
    "GPT-2": (
        "GPT2",
        {"vocab_size": 45, "n_embd": 32, "n_layer": 3, "n_head": 2, "n_positions": 48, "pad_token_id": 0, **ENDS},
    ),
    "Llama": ("Llama", {**SIZES, **ENDS, "num_key_value_heads": 1}),
    "Mistral": ("Mistral", {**SIZES, **ENDS, "num_key_value_heads": 1, "sliding_window": 4}),
    "OPT": (
        "OPT",
        {name: size for name, size in SIZES.items() if name != "intermediate_size"}
        | {**ENDS, "ffn_dim": 64, "word_embed_proj_dim": 32},
    ),
}
PLAIN = ["hard_label", "soft_label", "hidden_states"]


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return tiny_task(tmp_path_factory.mktemp("families"), rows=80)


def written(folder: Path, kind: str, sizes: dict[str, Any]) -> str:
    """A random classifier whose opinions differ from row to row, and its tokenizer."""
    config = getattr(transformers, f"{kind}Config")(**{**sizes, "num_labels": 2})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = getattr(transformers, f"{kind}ForSequenceClassification")(config)
        for parameter in model.parameters():
            if parameter.dim() > 1:
                torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return str(folder)


def trained(task: dict[str, Any], teacher: str, student: Any, terms: list[str]) -> Any:
    """The problem, after one step of two stacked students that has changed them and is finite."""
    options = {"teacher": teacher, "student": student, "terms": terms, "features": ["progress"], "max_length": 40}
    small = {"feedback_rows": 16, "selection_rows": 16, "evaluation_rows": 16, "teacher_check": "none"}
    problem = build_problem(env_config(**{**task, **options, **small}))
    env = DistillVectorEnv(2, problem=problem)
    env.reset(seed=0)
    _, rewards, _, _, info = env.step(np.ones((2, len(terms)), dtype=np.int8))
    assert np.isfinite(rewards).all() and not info["diverged"].any() and (rewards != 0).all()
    return problem


def table() -> dict[str, dict[str, str]]:
    """Family -> column -> cell, of the page."""
    lines = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    start = next(place for place, line in enumerate(lines) if line.startswith("| family"))
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[start:]]
    assert tuple(rows[0][1:]) == COLUMNS
    end = next((place for place, row in enumerate(rows) if len(row) != len(rows[0])), len(rows))
    return {row[0]: dict(zip(COLUMNS, row[1:], strict=True)) for row in rows[2:end]}


def test_the_table_has_every_family() -> None:
    assert set(table()) == set(FAMILIES)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_table_is_what_the_code_does(family: str, task: dict[str, Any], tmp_path: Path) -> None:
    """``yes``: it trains. ``no: reason``: it is refused with a message that says the reason."""
    kind, sizes = FAMILIES[family]
    teacher = written(tmp_path, kind, sizes)
    cut = {"init": "teacher", "num_hidden_layers": 2}
    runs: dict[str, tuple[Any, list[str]]] = {
        "teacher": ({"init": "pretrained", "name_or_path": task["teacher"]}, PLAIN),
        "cut student": (cut, PLAIN),
        "cut from the last layers": ({**cut, "layers": "last"}, PLAIN),
        "fresh student": ({"hidden_size": 16, "num_hidden_layers": 2}, PLAIN),
        "attention terms": ({**cut, "num_hidden_layers": 3}, ["soft_label", "attention", "minilm"]),
    }
    for column, cell in table()[family].items():
        student, terms = runs[column]
        if cell == "yes":
            trained(task, teacher, student, terms)
            continue
        reason = re.fullmatch(r"no: (.+)", cell)
        assert reason is not None, f"{family}, {column}: {cell!r}"
        with pytest.raises(ValueError, match=re.escape(reason[1].replace("`", ""))):
            trained(task, teacher, student, terms)


@pytest.mark.parametrize("family", ["ALBERT", "GPT-2", "ModernBERT"])
def test_a_cut_student_starts_as_the_first_layers_of_its_teacher(
    family: str, task: dict[str, Any], tmp_path: Path
) -> None:
    """Hidden states of the layers that were kept are the teacher's, to the last number but that of a final norm."""
    kind, sizes = FAMILIES[family]
    problem = trained(task, written(tmp_path, kind, sizes), {"init": "teacher", "num_hidden_layers": 2}, PLAIN)
    batch, layers = problem.feedback.gather(np.arange(8)), [0, 1]
    signals = {Signal("hidden_states", layer) for layer in layers}
    with torch.no_grad():
        student, teacher = (model.forward({}, batch, signals) for model in (problem.student, problem.reference.encoder))
    for layer in layers:
        torch.testing.assert_close(student.hidden_states[layer], teacher.hidden_states[layer], rtol=1e-4, atol=1e-5)


def test_groups_of_shared_layers_are_no_list_of_blocks(task: dict[str, Any], tmp_path: Path) -> None:
    """An ALBERT of 3 layers in 2 groups: which group a layer reads depends on how many there are."""
    folder = written(tmp_path, "Albert", {**FAMILIES["ALBERT"][1], "num_hidden_layers": 4, "num_hidden_groups": 2})
    with pytest.raises(ValueError, match="does not have one list of 4 blocks"):
        trained(task, folder, {"init": "teacher", "num_hidden_layers": 2}, PLAIN)


@pytest.mark.parametrize("family", ["GPT-2", "Llama"])
def test_a_decoder_says_what_the_library_says_and_its_cls_is_its_last_token(
    family: str, task: dict[str, Any], tmp_path: Path
) -> None:
    kind, sizes = FAMILIES[family]
    folder = written(tmp_path, kind, sizes)
    problem = trained(task, folder, task["teacher"], ["hard_label", "soft_label"])
    batch = problem.feedback.gather(np.arange(8))
    library = transformers.AutoModelForSequenceClassification.from_pretrained(folder)
    ours = problem.reference.encoder.forward({}, batch, {Signal("cls", 3)})
    with torch.no_grad():
        theirs = library(batch.input_ids, attention_mask=batch.attention_mask.long(), output_hidden_states=True)
    torch.testing.assert_close(ours.logits, theirs.logits, rtol=1e-4, atol=1e-5)
    last = batch.attention_mask.sum(1) - 1
    assert len(set(last.tolist())) > 1, "rows are padded"
    torch.testing.assert_close(ours.cls[3], theirs.hidden_states[3][torch.arange(8), last], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("model_id", "tokenizer_token", "expected"),
    [(None, None, 3), (None, "[PAD]", 0), (3, None, 3), (0, "[PAD]", 0)],
)
def test_a_decoder_and_its_tokenizer_get_one_padding_token(
    model_id: int | None, tokenizer_token: str | None, expected: int, tmp_path: Path
) -> None:
    """The one that is there, else the end of text; the id is written where it was missing."""
    sizes = {**FAMILIES["GPT-2"][1], "pad_token_id": model_id}
    folder = written(tmp_path, "GPT2", sizes)
    model, tokenizer = load_encoder(folder), load_tokenizer(folder)
    tokenizer.pad_token, tokenizer.eos_token = tokenizer_token, "[SEP]"
    settle_padding(tokenizer, model, folder)
    assert model.config.pad_token_id == tokenizer.pad_token_id == expected


def test_padding_tokens_that_contradict_each_other_or_are_not_there(tmp_path: Path) -> None:
    folder = written(tmp_path, "GPT2", {**FAMILIES["GPT-2"][1], "pad_token_id": 7})
    model, tokenizer = load_encoder(folder), load_tokenizer(folder)
    with pytest.raises(ValueError, match=r"pads with the id 0 \('\[PAD\]'\), .* not pad_token_id=7 of its config.json"):
        settle_padding(tokenizer, model, folder)
    model.config.pad_token_id = tokenizer.pad_token = None
    with pytest.raises(ValueError, match="is a decoder without a padding token, and its tokenizer has no end of text"):
        settle_padding(tokenizer, model, folder)


def test_a_decoder_is_fine_tuned_and_teaches(task: dict[str, Any], tmp_path: Path) -> None:
    """Neither model nor tokenizer has a padding token; both have it in what is written."""
    source = Path(written(tmp_path / "gpt2", "GPT2", {**FAMILIES["GPT-2"][1], "pad_token_id": None}))
    tokenizer = load_tokenizer(str(source))
    tokenizer.pad_token, tokenizer.eos_token = None, "[SEP]"
    tokenizer.save_pretrained(source)
    options = {name: task[name] for name in ("task", "data_dir", "columns")}
    config = TeacherConfig.from_kwargs(
        **options,
        **{"name_or_path": str(source), "output": str(tmp_path / "teacher"), "epochs": 1, "show_progress": False},
        **{"feedback_rows": 16, "selection_rows": 16, "max_length": 40},
    )
    folder = finetune(config)
    assert load_encoder(str(folder)).config.pad_token_id == load_tokenizer(str(folder)).pad_token_id == 3
    trained(task, str(folder), task["teacher"], ["hard_label", "soft_label"])
