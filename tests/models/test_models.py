"""Architectures: those that run give their own logits, and those that would run wrongly are refused with a reason."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kd_env import build_problem
from kd_env.core.types import Batch, Signal
from kd_env.decisions.options import env_config
from kd_env.mdp.problem import Problem
from kd_env.models import encoder, pretrained
from kd_env.models.library import attention
from kd_env.models.library.masks import MaskKind
from kd_env.testing import WORDS

VOCABULARY = 5 + len(WORDS)
SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 40,
}
KINDS: dict[str, dict[str, Any]] = {
    "Bert": SIZES,
    "Roberta": {**SIZES, "type_vocab_size": 1, "pad_token_id": 0},
    "NomicBert": {**SIZES, "pad_token_id": 0},
    "Albert": {**SIZES, "embedding_size": 8},
    "Electra": {**SIZES, "embedding_size": 8},
    "DistilBert": {
        "vocab_size": VOCABULARY,
        "dim": 16,
        "n_layers": 2,
        "n_heads": 2,
        "hidden_dim": 32,
        "max_position_embeddings": 40,
    },
    "GPT2": {
        "vocab_size": VOCABULARY,
        "n_embd": 16,
        "n_layer": 2,
        "n_head": 2,
        "n_positions": 40,
        "pad_token_id": 0,
        "bos_token_id": 2,
        "eos_token_id": 3,
    },
    "ModernBert": {
        **SIZES,
        **{"pad_token_id": 0, "cls_token_id": 2, "sep_token_id": 3, "bos_token_id": 2, "eos_token_id": 3},
        **{"local_attention": 28, "global_attn_every_n_layers": 3},
    },
    "DebertaV2": {**SIZES, "type_vocab_size": 0, "relative_attention": True, "pos_att_type": ["p2c", "c2p"]},
    "OPT": {**SIZES, "ffn_dim": 32, "word_embed_proj_dim": 16, "pad_token_id": 0},
    "Funnel": {
        "vocab_size": VOCABULARY,
        "block_sizes": [1, 1],
        "d_model": 16,
        "n_head": 2,
        "d_head": 8,
        "d_inner": 32,
    },
}


def write_encoder(folder: Path, kind: str, tiny: dict[str, Any], *, num_labels: int = 2, **changes: Any) -> str:
    """A random classifier of an architecture, beside the tiny task's tokenizer."""
    import transformers

    config = getattr(transformers, f"{kind}Config")(**{**KINDS[kind], **changes})
    config.num_labels = num_labels
    with warnings.catch_warnings(), torch.random.fork_rng():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        model = getattr(transformers, f"{kind}ForSequenceClassification")(config)
        for parameter in model.parameters():
            if parameter.dim() > 1:
                torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(Path(tiny["teacher"]) / name, folder)
    return str(folder)


def build(tiny: dict[str, Any], teacher: str, **options: Any) -> Problem:
    own = {
        "teacher": teacher,
        "terms": ["hard_label", "soft_label"],
        "max_length": 40,
        "teacher_check": "none",
        **options,
    }
    return build_problem(env_config(**{**tiny, **own}))


@pytest.mark.parametrize("kind", ["Bert", "Roberta", "Albert", "Electra", "DistilBert"])
def test_logits_are_those_of_the_module_alone(kind: str, tiny: dict[str, Any], tmp_path: Path) -> None:
    """Teacher outputs against a plain call of the library, on padded rows; so for a pre-trained student."""
    from transformers import AutoModelForSequenceClassification

    folder = write_encoder(tmp_path, kind, tiny)
    problem = build(tiny, folder, student=folder)
    batch = problem.feedback.gather(np.arange(32))
    own = AutoModelForSequenceClassification.from_pretrained(folder)
    with torch.no_grad():
        expected = own(input_ids=batch.input_ids, attention_mask=batch.attention_mask.long()).logits
    np.testing.assert_allclose(problem.reference.feedback_logits, expected, rtol=1e-4, atol=1e-5)
    blocks = dict(own.base_model.named_parameters())
    assert problem.student.facts.num_layers == 2  # all layers were kept, ALBERT's shared one too
    for name, parameter in problem.student.module.base_model.named_parameters():
        torch.testing.assert_close(parameter, blocks[name])


@pytest.mark.parametrize("kind", ["Bert", "Roberta", "Electra"])
def test_the_last_block_goes_on_with_the_first_token_where_no_other_is_read(kind: str) -> None:
    """The same logits, [CLS] and gradients as with all tokens, which reach the block's feed-forward layer no more."""
    import transformers

    attention.register_attention()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = getattr(transformers, f"{kind}ForSequenceClassification")(
            getattr(transformers, f"{kind}Config")(**KINDS[kind], attn_implementation=attention.ATTENTION)
        ).eval()
    template = encoder.Encoder.build(model, train_embeddings=True, fresh="none")
    lengths = torch.tensor([5, 3])
    batch = Batch(
        input_ids=torch.arange(5, 15).reshape(2, 5),
        attention_mask=torch.arange(5) < lengths[:, None],
        token_type_ids=torch.zeros(2, 5, dtype=torch.long),
        labels=torch.zeros(2, dtype=torch.long),
    )
    seen: list[int] = []
    model.base_model.encoder.layer[-1].intermediate.register_forward_hook(
        lambda module, inputs, output: seen.append(output.shape[1])
    )
    results = []
    for signals in ({Signal("cls", 2)}, {Signal("cls", 2), Signal("hidden_states", 2)}):
        params = {name: value.requires_grad_() for name, value in template.initial(0).items()}
        output = template.forward(params, batch, signals)
        loss = output.logits.pow(2).sum() + output.cls[2].pow(3).sum()
        grads = torch.autograd.grad(loss, list(params.values()), allow_unused=True, materialize_grads=True)
        results.append((output.logits, output.cls[2], *grads))
    assert seen == [1, 5]
    torch.testing.assert_close(*results, rtol=1e-5, atol=1e-6)
    model.train()  # dropout would draw other numbers for one token
    template.forward(template.initial(0), batch, ())
    assert seen == [1, 5, 5]


def test_weights_that_the_library_cuts_from_larger_tensors_are_saved(tiny: dict[str, Any], tmp_path: Path) -> None:
    """NomicBERT's queries, keys and values lie in one tensor, which no file of the library's may hold."""
    from safetensors.torch import save_model

    model = pretrained.load_encoder(write_encoder(tmp_path / "nomic", "NomicBert", tiny))
    save_model(model, str(tmp_path / "saved.safetensors"))


@pytest.mark.parametrize("kind", ["GPT2", "ModernBert", "DebertaV2"])
def test_masks_that_are_not_a_familys_own_are_refused(
    kind: str, tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A causal mask, a sliding window longer than any row here, and a mask of zeros and ones, where BERT's is given."""
    monkeypatch.setattr(encoder, "mask_kind", lambda config: MaskKind(False, None, (), False))
    folder = write_encoder(tmp_path, kind, tiny)
    with pytest.raises(ValueError, match=r"The teacher .* gives other logits in kd-env's forward pass than on its own"):
        build(tiny, folder, student={"init": "pretrained", "name_or_path": folder})
    if kind == "ModernBert":  # rows are shorter than half the window: it changes nothing
        build(tiny, folder, student={"init": "pretrained", "name_or_path": folder}, max_length=14)


def test_a_mask_that_no_family_is_known_to_take_is_refused(tiny: dict[str, Any], tmp_path: Path) -> None:
    """OPT counts its positions from the mask."""
    folder = write_encoder(tmp_path, "OPT", tiny)
    with pytest.raises(ValueError, match=r"The teacher .*OPT.* cannot be run on an attention mask that is made for it"):
        build(tiny, folder, student=tiny["teacher"])


@pytest.mark.parametrize(
    ("kind", "student", "message"),
    [
        ("Funnel", {}, "does not take student.intermediate_size=32"),
        ("Funnel", {"init": "teacher", "num_hidden_layers": 1}, "cannot be given other sizes .*init=pretrained"),
        ("Funnel", {"init": "pretrained"}, "The teacher .* cannot be run"),
        ("ModernBert", {"init": "teacher", "num_hidden_layers": 1, "layers": "last"}, "first block .*student.layers"),
        ("GPT2", {}, r"does not take student\.intermediate_size=32"),
    ],
)
def test_students_that_cannot_be_made(
    kind: str, student: dict[str, Any], message: str, tiny: dict[str, Any], tmp_path: Path
) -> None:
    """Each with the way out."""
    folder = write_encoder(tmp_path, kind, tiny)
    if student.get("init") == "pretrained":
        student = {**student, "name_or_path": folder}
    elif not student:
        student = {"hidden_size": 8}
    with pytest.raises(ValueError, match=message):
        build(tiny, folder, student=student)


def test_sizes_of_a_fresh_distilbert(tiny: dict[str, Any], tmp_path: Path) -> None:
    """Its configuration has names of its own for all of them."""
    folder = write_encoder(tmp_path, "DistilBert", tiny)
    sizes = {"hidden_size": 12, "num_attention_heads": 3, "intermediate_size": 11, "num_hidden_layers": 3}
    student = build(tiny, folder, student=sizes).student
    assert student.facts[:3] == (3, 12, 3)
    assert student.module.distilbert.transformer.layer[2].ffn.lin1.weight.shape == (11, 12)


def test_an_ignored_size_is_refused(tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the configuration says is compared with what was built."""
    folder = write_encoder(tmp_path, "DistilBert", tiny)
    # Not where DistilBERT keeps its width.
    monkeypatch.setattr("kd_env.models.architecture._INTERMEDIATE", ("dropout",))
    with pytest.raises(ValueError, match=r"does not take student\.intermediate_size=11"):
        build(tiny, folder, student={"hidden_size": 8, "intermediate_size": 11})


def test_usable_positions(tiny: dict[str, Any], tmp_path: Path) -> None:
    """RoBERTa counts from the padding index on; the longest row has 14 tokens."""
    for kind, changes, expected in (
        ("Bert", {}, 40),
        ("DistilBert", {}, 40),
        ("Roberta", {"pad_token_id": 0}, 39),
        ("Roberta", {"pad_token_id": 1}, 38),
    ):
        folder = write_encoder(tmp_path / f"{kind}{expected}", kind, tiny, **changes)
        module = pretrained.load_encoder(folder)
        assert encoder.usable_positions(module) == expected
        ids = torch.full((1, expected + 1), 7)
        with torch.no_grad():
            module(input_ids=ids[:, :-1])
            with pytest.raises((IndexError, RuntimeError)):
                module(input_ids=ids)
    short = write_encoder(tmp_path / "short", "Roberta", tiny, max_position_embeddings=14, pad_token_id=1)
    with pytest.raises(ValueError, match="A row has 14 tokens, the student 12 positions; set max_length=12"):
        build(tiny, short)
    assert int(build(tiny, short, max_length=12).train.lengths.max()) == 12


def test_a_pretrained_student_with_another_head(tiny: dict[str, Any], tmp_path: Path) -> None:
    """Its head is new in any case; a pooler may be missing, as in masked language models."""
    from safetensors.torch import load_file, save_file

    folder = write_encoder(tmp_path, "Bert", tiny, num_labels=3)
    problem = build(tiny, tiny["teacher"], student=folder)
    assert problem.student.facts.num_labels == 2
    tensors = load_file(tmp_path / "model.safetensors")
    name = "bert.encoder.layer.1.output.dense.weight"
    torch.testing.assert_close(problem.student.module.get_parameter(name), tensors[name])
    left = {key: value for key, value in tensors.items() if "pooler" not in key and "classifier" not in key}
    save_file(left, tmp_path / "model.safetensors", metadata={"format": "pt"})
    build(tiny, tiny["teacher"], student=folder)
    with pytest.raises(ValueError, match=r"no bert\.pooler.*that has a classifier head"):
        build(tiny, folder)  # the same as a teacher would speak noise
    left.pop(name)
    save_file(left, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=rf"not those of a BertForSequenceClassification.*no {name}"):
        build(tiny, tiny["teacher"], student=folder)
    save_file({**left, name: torch.zeros(3, 4)}, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=rf"{name} \(3, 4\) instead of \(16, 32\)"):
        build(tiny, tiny["teacher"], student=folder)


@pytest.mark.parametrize("damage", ["truncated", "garbled", "empty"])
def test_damaged_weights(damage: str, tiny: dict[str, Any], tmp_path: Path) -> None:
    """As after a download that broke off."""
    folder = tmp_path / "student"
    shutil.copytree(tiny["teacher"], folder)
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    path.write_bytes({"truncated": whole[: len(whole) // 2], "garbled": b"\xff" * 64, "empty": b""}[damage])
    with pytest.raises(ValueError, match=r"weights of .*student' are damaged"):
        build(tiny, tiny["teacher"], student=str(folder))
