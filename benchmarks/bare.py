"""A hand-written PyTorch loop that does what one environment step does, for students of the BERT family."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from kd_env.core.types import ModelOutput
from kd_env.mdp.problem import Problem
from kd_env.teachers.sources import autocast, cast


def bare_loop(problem: Problem, start: Mapping[str, Tensor], attention: str) -> Callable[[np.ndarray], list[float]]:
    """The update of the terms ``common.TERMS`` with an ordinary module and optimiser, for rows ``[U, B]``.

    AdamW (fused), clipping, linear warm-up; the teacher's outputs come from the problem, cached. The losses are read
    from the device once a call, as an environment does.

    Args:
        problem: with ``term_scale=none``.
        start: parameters of the student and of the terms' projections, ``[...]``.
        attention: ``sdpa`` or ``eager``, the student's attention.

    Returns:
        A function from rows to the losses of the U updates.
    """
    from transformers import BertForSequenceClassification

    config = problem.config.optimizer_config
    # A configuration of its own: setting the attention would set that of the environment's student too.
    own_config = copy.deepcopy(problem.student.module.config)
    model: Any = BertForSequenceClassification(own_config)
    model.to(problem.device, problem.dtype)
    own = {name: start[name] for name in problem.student.trainable}
    model.load_state_dict({**problem.student.module.state_dict(), **own})
    model.set_attn_implementation(attention)
    model.train()  # dropout is 0 in the student's configuration
    maps = {name: torch.nn.Parameter(value.clone()) for name, value in start.items() if name.startswith("projections.")}
    tensors = [*model.parameters(), *maps.values()]
    groups = [
        {"params": [p for p in tensors if p.dim() > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in tensors if p.dim() <= 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=config.learning_rate, betas=config.betas, eps=config.eps, fused=True)
    warmup = max(1, round(config.warmup * problem.config.budget))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda update: min(1.0, (update + 1) / warmup))
    pairs = problem.reference.pairs

    def projected(term: str, hidden: Mapping[int, Tensor]) -> dict[int, Tensor]:
        weights = {layer: maps.get(f"projections.{term}.layer_{layer}") for layer, _ in pairs}
        return {layer: hidden[layer] if w is None else hidden[layer] @ w.T for layer, w in weights.items()}

    def fsp(a: Tensor, b: Tensor, mask: Tensor) -> Tensor:
        return torch.einsum("bsh,bsk->bhk", a * mask, b) / mask.sum(1, keepdim=True)

    def update(rows: np.ndarray) -> list[float]:
        values = []
        for batch_rows in rows:
            batch = problem.train.gather(batch_rows)
            with autocast(problem.device, problem.config.precision):
                out = model(
                    input_ids=batch.input_ids,
                    attention_mask=batch.attention_mask.long(),
                    token_type_ids=batch.token_type_ids,
                    output_hidden_states=True,
                )
            student = cast(
                ModelOutput(out.logits, {}, dict(enumerate(out.hidden_states)), {}, {}, {}, {}), problem.dtype
            )
            teacher = problem.reference.source.signals(batch_rows, batch, student)
            mask = batch.attention_mask[..., None].to(problem.dtype)
            hard = F.cross_entropy(student.logits, batch.labels)
            soft = 4.0 * F.kl_div(
                F.log_softmax(student.logits / 2, -1),
                F.log_softmax(teacher.logits / 2, -1),
                log_target=True,
                reduction="batchmean",
            )
            near = projected("hidden_states", student.hidden_states)
            hidden = []
            for s, t in pairs:
                error = (near[s] - teacher.hidden_states[t]).square()
                hidden.append(((error.mean(-1) * mask[..., 0]).sum(1) / mask[..., 0].sum(1)).mean())
            flow = projected("relation", student.hidden_states)
            relation = []
            for (s1, t1), (s2, t2) in pairwise(pairs):
                theirs = fsp(teacher.hidden_states[t1], teacher.hidden_states[t2], mask)
                relation.append((fsp(flow[s1], flow[s2], mask) - theirs).square().mean())
            loss = hard + soft + torch.stack(hidden).mean() + torch.stack(relation).mean()
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(tensors, config.max_grad_norm or float("inf"))
            optimizer.step()
            schedule.step()
            values.append(loss.detach())
        found: list[float] = torch.stack(values).tolist()
        return found

    return update
