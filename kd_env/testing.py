"""A tiny task that is made in a second, and conformance checks: for our tests and for those who extend kd-env."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

WORDS = tuple(f"w{index}" for index in range(40))


def tiny_task(folder: str | Path, *, rows: int = 240, regression: bool = False, seed: int = 0) -> dict[str, Any]:
    """Write a custom task with a random teacher that is right about it, and return the environment options for it.

    Rows are random words (3 to 12 of 40); the labels are what the teacher (BERT, 2 layers, hidden 16) says. A step of
    the environment takes a few milliseconds.

    Args:
        folder: an empty or new folder; gets ``data/`` and ``teacher/``.
        rows: train rows; the dev split has half as many.
        regression: labels are the teacher's scores, cut to [-2, 2].
        seed: of the rows and of the teacher.
    """
    folder = Path(folder)
    tokenizer = tiny_tokenizer()
    teacher = _random_bert(len(tokenizer), 1 if regression else 2, seed=seed)
    rng = np.random.default_rng(seed)
    texts: list[str] = []
    while len(texts) < rows + rows // 2:
        text = " ".join(rng.choice(WORDS, size=int(rng.integers(3, 13))))
        if text not in texts:
            texts.append(text)
    encoded = tokenizer(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        logits = teacher(**encoded).logits
        # Halfway between the classes, so that both are there in equal numbers and the teacher is right.
        shift = (
            logits.mean(0) if regression else torch.stack([(logits[:, 0] - logits[:, 1]).median(), torch.tensor(0.0)])
        )
        factor = 1.0 / float(logits.std()) if regression else 8.0
        teacher.classifier.bias.copy_(teacher.classifier.bias - shift)
        for parameter in (teacher.classifier.weight, teacher.classifier.bias):
            parameter.mul_(factor)
        logits = teacher(**encoded).logits
    labels = (logits[:, 0].clamp(-2, 2) if regression else logits.argmax(-1)).tolist()
    data = folder / "data"
    data.mkdir(parents=True, exist_ok=True)
    for split, part in (("train", range(rows)), ("validation", range(rows, len(texts)))):
        lines = [json.dumps({"text": texts[i], "label": labels[i]}) for i in part]
        (data / f"{split}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    teacher.save_pretrained(folder / "teacher")
    tokenizer.save_pretrained(folder / "teacher")
    columns: dict[str, Any] = {
        "text": ["text"],
        "label": "label",
        "kind": "regression" if regression else "classification",
    }
    if regression:
        columns["label_range"] = [-2.0, 2.0]
    features = ["progress", "remaining_budget", "learning_rate", "term_losses", "term_losses_normalized", "gap"]
    return {
        "task": "custom",
        "data_dir": str(data),
        "columns": columns,
        "teacher": str(folder / "teacher"),
        "student": {"hidden_size": 8, "num_attention_heads": 2},
        "terms": ["hard_label", "soft_label", "hidden_states"],
        "features": [*features, "feedback_metric", "previous_action"] if regression else [*features, "student_entropy"],
        "feedback_rows": 32,
        "selection_rows": 32,
        "evaluation_rows": 32,
        "batch_size": 4,
        "budget": 8,
        "updates_per_step": 2,
        "learning_rate": 0.01,
    }


def tiny_tokenizer() -> Any:
    """One token a word of :data:`WORDS`, and the special tokens of BERT."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    core = Tokenizer(models.WordLevel({token: i for i, token in enumerate([*specials, *WORDS])}, unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    core.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {
        "pad_token": "[PAD]",
        "unk_token": "[UNK]",
        "cls_token": "[CLS]",
        "sep_token": "[SEP]",
        "mask_token": "[MASK]",
    }
    return PreTrainedTokenizerFast(tokenizer_object=core, **names)


def tiny_teachers(folder: str | Path, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of :func:`tiny_task` with three teachers: its own (``right``) and two random ones of other sizes.

    Args:
        folder: an empty or new folder; gets ``deep`` (3 layers) and ``wide`` (hidden 24).
        options: from :func:`tiny_task`, a classification task.
    """
    from kd_env.models.pretrained import load_tokenizer

    tokenizer = load_tokenizer(str(options["teacher"]))
    teachers = [{"name": "right", "path": str(options["teacher"])}]
    for place, (name, sizes) in enumerate((("deep", (3, 16)), ("wide", (1, 24))), start=1):
        module = _random_bert(len(tokenizer), 2, seed=place, layers=sizes[0], hidden=sizes[1])
        path = Path(folder) / name
        module.save_pretrained(path)
        tokenizer.save_pretrained(path)
        teachers.append({"name": name, "path": str(path)})
    found = {key: value for key, value in options.items() if key not in ("teacher", "features")}
    terms = ["hard_label", "soft_label", "hidden_states"]
    return {**found, "teachers": teachers, "teacher_check": "none", "terms": terms}


def tiny_text(folder: str | Path, *, rows: int = 240, seed: int = 0) -> dict[str, Any]:
    """The options of the tutor's environment for a tiny text: random words, and a random masked language model.

    Args:
        folder: an empty or new folder; gets ``text/`` and ``masked_lm/`` (BERT, 2 layers, hidden 16).
        rows: texts.
        seed: of the texts and of the model.
    """
    from transformers import BertConfig, BertForMaskedLM

    folder, rng = Path(folder), np.random.default_rng(seed)
    texts = {" ".join(rng.choice(WORDS, size=int(rng.integers(4, 13)))) for _ in range(rows)}
    (folder / "text").mkdir(parents=True)
    (folder / "text" / "lines.txt").write_text("\n".join(sorted(texts)) + "\n", encoding="utf-8")
    tokenizer = tiny_tokenizer()
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=32,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    module = _drawn(BertForMaskedLM, config, seed)
    module.save_pretrained(folder / "masked_lm")
    tokenizer.save_pretrained(folder / "masked_lm")
    return {
        "text": str(folder / "text"),
        "teacher": str(folder / "masked_lm"),
        "student": {"hidden_size": 8, "num_attention_heads": 2},
        "feedback_rows": 24,
        "selection_rows": 24,
        "evaluation_rows": 24,
        "slots": 2,
        "num_candidates": 4,
        "batch_size": 4,
        "budget": 4,
        "optimizer": {"learning_rate": 0.01},
    }


def _random_bert(vocabulary: int, labels: int, *, seed: int, layers: int = 2, hidden: int = 16) -> Any:
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=2,
        intermediate_size=2 * hidden,
        max_position_embeddings=32,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    config.num_labels = labels
    config.problem_type = "regression" if labels == 1 else "single_label_classification"
    return _drawn(BertForSequenceClassification, config, seed)


def _drawn(kind: type, config: Any, seed: int) -> Any:
    """A model with large random weights, so that its opinions differ from row to row."""
    from kd_env.models.architecture import new_encoder

    module = new_encoder(kind, config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if "LayerNorm" not in name and name.endswith("weight"):
                parameter.normal_(0.0, 0.3, generator=generator)
    return module


def check_environment(env: Any, *, steps: int = 20, seed: int = 0) -> None:
    """Gymnasium's and SB3's checkers without a warning, and the promises of kd-env on top.

    Raises:
        AssertionError: an observation outside its space or not finite, an ``info`` value that is no fresh NumPy or
        plain
            value, or a step that does not repeat after ``set_state``.
    """
    from gymnasium.utils.env_checker import check_env

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(env.unwrapped, skip_render_check=True)
        try:
            from stable_baselines3.common.env_checker import check_env as check_sb3
        except ImportError:
            pass
        else:
            check_sb3(env.unwrapped)
    inner = env.unwrapped
    inner.action_space.seed(seed)
    observation, info = inner.reset(seed=seed)
    for _ in range(steps):
        assert inner.observation_space.contains(observation), "observation outside its space"
        parts = observation if isinstance(observation, dict) else {"observation": observation}
        assert all(np.isfinite(part).all() for part in parts.values()), "observation is not finite"
        for name, value in info.items():
            assert isinstance(value, bool | int | float | str | np.ndarray), (
                f"info[{name!r}] is a {type(value).__name__}"
            )
        action = inner.action_space.sample()
        saved = inner.get_state()
        observation, reward, terminated, truncated, info = inner.step(action)
        inner.set_state(saved)
        again = inner.step(action)
        repeated = again[0] if isinstance(again[0], dict) else {"observation": again[0]}
        parts = observation if isinstance(observation, dict) else {"observation": observation}
        same = all(np.array_equal(part, repeated[name]) for name, part in parts.items())
        assert same and again[1] == reward, "a restored step does not repeat"
        if terminated or truncated:
            observation, info = inner.reset()
