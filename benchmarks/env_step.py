"""One environment step against a hand-written PyTorch loop that does the same update.

    python benchmarks/env_step.py [--layers 2 --hidden 128 --vocab 30522 --batch 32 --length 64 --steps 20]

Both train the same student from the same start on the same batches with cached teacher outputs (hard and soft labels,
hidden states, FSP relations; AdamW fused, clipping, linear schedule). The losses are asserted to agree before
anything is timed; the rounds are interleaved, and the ratio is that of the medians. Costs of feedback evaluation and
of the next-batch features are stated apart.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from kd_env import DistillEnv, EnvConfig, build_problem
from kd_env.models import new_encoder
from kd_env.problem import Problem

TERMS = [
    "hard_label",
    {"name": "soft_label", "temperature": 2.0},
    {"name": "hidden_states", "distance": "mse"},
    "relation",
]


def write_task(folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """A synthetic task of full-length rows with a random 4-layer teacher."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

    vocabulary = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "[MASK]": 4}
    vocabulary.update({f"w{index}": index for index in range(5, args.vocab)})
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    core.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {
        "pad_token": "[PAD]",
        "unk_token": "[UNK]",
        "cls_token": "[CLS]",
        "sep_token": "[SEP]",
        "mask_token": "[MASK]",
    }
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, **names)
    config = BertConfig(
        vocab_size=args.vocab,
        hidden_size=args.teacher_hidden,
        num_hidden_layers=4,
        num_attention_heads=max(1, args.teacher_hidden // 64),
        intermediate_size=4 * args.teacher_hidden,
        max_position_embeddings=128,
    )
    teacher = new_encoder(BertForSequenceClassification, config)
    teacher.save_pretrained(folder / "teacher")
    tokenizer.save_pretrained(folder / "teacher")
    rng = np.random.default_rng(0)
    for split in ("train", "validation"):
        rows = rng.integers(5, args.vocab, size=(600, args.length))
        lines = [
            json.dumps({"text": " ".join(f"w{token}" for token in row), "label": index % 2})
            for index, row in enumerate(rows)
        ]
        (folder / f"{split}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return {
        "task": "custom",
        "data_dir": str(folder),
        "columns": {"text": ["text"], "label": "label", "kind": "classification"},
        "teacher": str(folder / "teacher"),
        "student": {
            "num_hidden_layers": args.layers,
            "hidden_size": args.hidden,
            "num_attention_heads": max(1, args.hidden // 64),
        },
        "terms": TERMS,
        "term_scale": "none",
        "features": ["progress", "remaining_budget", "learning_rate", "term_losses", "gap", "previous_action"],
        "evaluate_every": 0,
        "feedback_rows": 128,
        "selection_rows": 16,
        "batch_size": args.batch,
        "max_length": args.length,
        "budget": 100_000,
        "updates_per_step": args.updates_per_step,
        "learning_rate": 1e-4,
        "gap": "divergence",
    }


def bare_loop(problem: Problem, env: DistillEnv, args: argparse.Namespace) -> Callable[[np.ndarray], list[float]]:
    """The same update with an ordinary module and optimiser, for ``rows [U, B]``; returns the losses."""
    from transformers import BertForSequenceClassification

    config = problem.config.optimizer_config
    start = {name: p[0].clone() for name, p in env.run.started().params.items()}
    model = BertForSequenceClassification(problem.student.module.config)
    model.load_state_dict({**problem.student.module.state_dict(), **{n: start[n] for n in problem.student.trainable}})
    model.set_attn_implementation(args.attention)
    model.train()  # dropout is 0 in the student's configuration
    maps = {name: torch.nn.Parameter(value) for name, value in start.items() if name.startswith("projections.")}
    tensors = [*model.parameters(), *maps.values()]
    groups = [
        {"params": [p for p in tensors if p.dim() > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in tensors if p.dim() <= 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=config.learning_rate, betas=config.betas, eps=config.eps, fused=True)
    warmup = round(config.warmup * problem.config.budget)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda u: (u + 1) / warmup)

    def project(name: str, layer: int, hidden: torch.Tensor) -> torch.Tensor:
        weight = maps.get(f"projections.{name}.layer_{layer}")
        return hidden if weight is None else hidden @ weight.T

    def fsp(a: torch.Tensor, b: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return torch.einsum("bsh,bsk->bhk", a * mask, b) / mask.sum(1, keepdim=True)

    def update(rows: np.ndarray) -> list[float]:
        values = []
        for batch_rows in rows:
            batch = problem.train.gather(batch_rows)
            teacher = problem.teacher.signals(batch_rows, batch)
            out = model(
                input_ids=batch.input_ids,
                attention_mask=batch.attention_mask.long(),
                token_type_ids=batch.token_type_ids,
                output_hidden_states=True,
            )
            mask = batch.attention_mask[..., None].float()
            hard = F.cross_entropy(out.logits, batch.labels)
            soft = 4.0 * F.kl_div(
                F.log_softmax(out.logits / 2, -1),
                F.log_softmax(teacher.logits / 2, -1),
                log_target=True,
                reduction="batchmean",
            )
            hidden, relation = [], []
            pairs = problem.assets.pairs
            for s, t in pairs:
                error = (project("hidden_states", s, out.hidden_states[s]) - teacher.hidden_states[t]) ** 2
                hidden.append(((error.mean(-1) * mask[..., 0]).sum(1) / mask[..., 0].sum(1)).mean())
            for (s1, t1), (s2, t2) in pairwise(pairs):
                left, right = (
                    project("relation", s1, out.hidden_states[s1]),
                    project("relation", s2, out.hidden_states[s2]),
                )
                mine = fsp(left, right, mask)
                relation.append(((mine - fsp(teacher.hidden_states[t1], teacher.hidden_states[t2], mask)) ** 2).mean())
            loss = hard + soft + torch.stack(hidden).mean() + torch.stack(relation).mean()
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(tensors, config.max_grad_norm or float("inf"))
            optimizer.step()
            schedule.step()
            values.append(float(loss.detach()))
        return values

    return update


def timed(call: Callable[[], Any]) -> float:
    """Seconds of one call."""
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in {
        "layers": 2,
        "hidden": 128,
        "teacher-hidden": 128,
        "vocab": 30522,
        "batch": 32,
        "length": 64,
        "steps": 30,
        "updates-per-step": 2,
        "threads": 2,
    }.items():
        parser.add_argument(f"--{name}", type=int, default=value, help=f"default {value}")
    parser.add_argument("--attention", default="sdpa", choices=["sdpa", "eager"], help="attention of the bare loop")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as folder:
        options = write_task(Path(folder), args)
        problem = build_problem(EnvConfig.from_kwargs(**options))
        env = DistillEnv(problem=problem)
        env.reset(seed=0)
        bare = bare_loop(problem, env, args)
        ones = np.ones(len(problem.term_names), dtype=np.int8)
        worst = 0.0
        for _ in range(3):
            rows = env.run.started().next_rows[0]
            reference = float(np.mean(bare(rows)))
            info = env.step(ones)[4]
            worst = max(worst, abs(float(info["raw_losses"].sum()) / reference - 1.0))
        assert worst < 1e-3, f"the loops differ: {worst:.2e}"
        print(f"largest relative difference of the losses over 3 steps: {worst:.1e}")
        times: dict[str, list[float]] = {"bare": [], "env": []}
        for _ in range(args.steps):
            rows = env.run.started().next_rows[0]
            times["bare"].append(timed(lambda rows=rows: bare(rows)))  # type: ignore[misc]
            times["env"].append(timed(lambda: env.step(ones)))
        bare_s, env_s = statistics.median(times["bare"]), statistics.median(times["env"])
        print(f"bare loop {bare_s * 1e3:.2f} ms, env step {env_s * 1e3:.2f} ms, ratio {env_s / bare_s:.3f}")
        each = DistillEnv(problem=problem.with_options(evaluate_every=1))
        each.reset(seed=0)
        evaluated = statistics.median(timed(lambda: each.step(ones)) for _ in range(max(5, args.steps // 3)))
        print(f"with feedback evaluation of {len(problem.feedback)} rows at every step: {evaluated * 1e3:.2f} ms")
        cls = DistillEnv(**{**options, "features": [*options["features"], "teacher_cls", "student_cls"]})
        cls.reset(seed=0)
        featured = statistics.median(timed(lambda: cls.step(ones)) for _ in range(max(5, args.steps // 3)))
        print(f"with the [CLS] features of the next batch: {featured * 1e3:.2f} ms")


if __name__ == "__main__":
    main()
