"""Make the packaged teachers and tokenizers of the embedded tasks: ``python scripts/make_toy_teachers.py``.

A teacher is a small BERT trained on the ``teacher`` rows of its task, which are apart from every split. The last 1,000
of them are held out of training and fit one temperature (Guo et al. 2017), which is folded into the classifier.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy
from tqdm import tqdm
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from kd_env.data.loading import get_task
from kd_env.data.tasks import Rows
from kd_env.data.toy import teacher_folder, toy_rows, vocabulary
from kd_files.manifest import write_manifest

SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
MAX_POSITIONS = 40
HELD_OUT = 1000


def main() -> None:
    """Train, measure on validation once, and save."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--task", choices=("toy", "toy_pair"), nargs="+", default=["toy", "toy_pair"])
    parser.add_argument("--out", type=Path, default=None, help="folder of the task folders; None: the package")
    parser.add_argument("--member", default=None, help="name behind the task's, for another teacher of its set")
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--hidden-size", type=int, default=64)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=9)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--dropout", type=float, default=0.05)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    for name in options.task:
        folder = teacher_folder(name) if options.out is None else options.out / name
        if options.member is not None:
            folder = folder.with_name(f"{folder.name}-{options.member}")
        make(name, folder, options)


def make(name: str, folder: Path, options: argparse.Namespace) -> None:
    """Train the teacher of one task and write its folder."""
    started = time.perf_counter()
    torch.manual_seed(options.seed)  # dropout and initial weights have no generator of their own in transformers
    random.seed(options.seed)
    tokenizer = build_tokenizer(name)
    rows = toy_rows(name, "teacher")
    ids, mask, types = encode(tokenizer, rows)
    labels = torch.as_tensor(rows.labels)
    task = get_task(name)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=options.hidden_size,
        num_hidden_layers=options.layers,
        num_attention_heads=options.heads,
        intermediate_size=4 * options.hidden_size,
        max_position_embeddings=MAX_POSITIONS,
        hidden_dropout_prob=options.dropout,
        attention_probs_dropout_prob=options.dropout,
        pad_token_id=0,
        id2label=dict(enumerate(task.labels)),
        label2id={label: index for index, label in enumerate(task.labels)},
    )
    model = BertForSequenceClassification(config)
    fit = len(labels) - HELD_OUT
    train(model, (ids[:fit], mask[:fit], types[:fit]), labels[:fit], name, options)
    model.eval()
    temperature = fit_temperature(predict(model, ids[fit:], mask[fit:], types[fit:]), labels[fit:])
    with torch.no_grad():
        model.classifier.weight.div_(temperature)
        model.classifier.bias.div_(temperature)
    dev = toy_rows(name, "validation")
    logits, gold = predict(model, *encode(tokenizer, dev)), torch.as_tensor(dev.labels)
    accuracy = float((logits.argmax(-1) == gold).float().mean())
    loss = float(cross_entropy(logits, gold))
    facts = {
        "trained_on": "rows apart from every split",
        "task": name,
        "dev accuracy": round(accuracy, 4),
        "dev loss": round(loss, 4),
        "temperature folded into the classifier": round(temperature, 4),
        "seed": options.seed,
        "command": "python scripts/make_toy_teachers.py " + " ".join(sys.argv[1:]),
        "versions": {"torch": torch.__version__.split("+")[0]},
    }
    save(folder, tokenizer, model, facts)
    seconds = time.perf_counter() - started
    print(f"{name}: dev accuracy {accuracy:.4f}, dev loss {loss:.4f}, {seconds:.0f} s -> {folder}")


def build_tokenizer(name: str) -> PreTrainedTokenizerFast:
    """One token a word, with BERT's special tokens and pair encoding."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    words = {word: place for place, word in enumerate((*SPECIALS, *vocabulary(name)))}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", words["[CLS]"]), ("[SEP]", words["[SEP]"])],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=MAX_POSITIONS,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


def encode(tokenizer: PreTrainedTokenizerFast, rows: Rows) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Token ids, mask and token types, each ``[rows, S]``."""
    found = tokenizer(rows.first, rows.second, padding=True, return_tensors="pt")
    return found["input_ids"], found["attention_mask"], found["token_type_ids"]


def train(
    model: BertForSequenceClassification,
    inputs: tuple[torch.Tensor, ...],
    labels: torch.Tensor,
    name: str,
    options: argparse.Namespace,
) -> None:
    """AdamW with weight decay, one-cycle learning rate and label smoothing of 6%.

    Without the smoothing the soft labels are all but hard, and teach a student no more than labels do.
    """
    rng = np.random.default_rng(options.seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=options.learning_rate, weight_decay=0.05)
    batches = len(labels) // options.batch_size
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=options.learning_rate, total_steps=options.epochs * batches, pct_start=0.1
    )
    model.train()
    with tqdm(total=options.epochs * batches, desc=name, unit="update") as bar:
        for _ in range(options.epochs):
            order = rng.permutation(len(labels))
            for start in range(0, batches * options.batch_size, options.batch_size):
                chosen = torch.as_tensor(order[start : start + options.batch_size])
                ids, mask, types = (field[chosen] for field in inputs)
                logits = model(input_ids=ids, attention_mask=mask, token_type_ids=types).logits
                loss = cross_entropy(logits, labels[chosen], label_smoothing=0.06)
                optimizer.zero_grad()
                torch.autograd.backward(loss)
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                schedule.step()
                bar.update()
                if bar.n % 50 == 0:
                    bar.set_postfix(loss=f"{loss.item():.3f}")


def predict(
    model: BertForSequenceClassification, ids: torch.Tensor, mask: torch.Tensor, types: torch.Tensor
) -> torch.Tensor:
    """Logits ``[rows, C]``."""
    with torch.no_grad():
        return torch.cat(
            [
                model(input_ids=i, attention_mask=m, token_type_ids=t).logits
                for i, m, t in zip(ids.split(256), mask.split(256), types.split(256), strict=True)
            ]
        )


def fit_temperature(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """The divisor of the logits, at least 1, with the least cross-entropy on a fine grid.

    It never sharpens: where every held-out row is right, any sharpening lowers the loss and the soft labels go hard.
    """
    grid = np.exp(np.linspace(0.0, np.log(8.0), 500))
    return float(min(grid, key=lambda t: float(cross_entropy(logits / float(t), labels))))


def save(
    folder: Path, tokenizer: PreTrainedTokenizerFast, model: BertForSequenceClassification, facts: dict[str, Any]
) -> None:
    """Write everything aside, then move it in place file by file."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as aside:
        model.save_pretrained(aside)
        tokenizer.save_pretrained(aside)
        (Path(aside) / "kd_env_teacher.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
        write_manifest(Path(aside))
        for path in sorted(Path(aside).iterdir()):
            path.chmod(0o644)  # weights are written for the owner alone, but the package is for everybody
            os.replace(path, folder / path.name)


if __name__ == "__main__":
    main()
