"""An online teacher and its student as a hand-written PyTorch loop, for the BERT family: ProKT without an environment.

The teacher makes an update on ``a KL(p_S || p_T) + (1 - a) CE(y, p_T)``, reads the batch again, and the student makes
one on ``CE(y, p_S) + tau^2 KL(p_T || p_S)``. One forward pass of the student serves both losses, since the student does
not change in between.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks import common
from kd_env import DistillEnv
from kd_env.config.optimizer import OptimizerConfig
from kd_env.models.encoder import Encoder
from kd_env.numerics import optim
from kd_env.teachers.sources import autocast

TEMPERATURE = 2.0
TERMS: tuple[Any, ...] = ("hard_label", {"name": "soft_label", "temperature": TEMPERATURE})
MOVED = {"fp32": 1e-2, "bf16": 0.2}
"""Largest difference of two models over what the updates moved them. AdamW turns a gradient that is all rounding, as
that of the keys' biases, into a whole step in either direction: this cannot be as small as the difference of losses."""

Params = Mapping[str, Tensor]


class Learner:
    """One Hugging Face model under ``torch.optim.AdamW`` (fused), with clipping and a linear schedule.

    Args:
        encoder: whose weights and configuration are taken over; what it does not train is frozen here too.
        start: parameters that differ from the encoder's own, ``[...]``.
        own: learning rate, weight decay and clipping.
        shared: betas and eps.
        budget: updates of the schedule, which has no warm-up.
        precision: of the forward passes, ``fp32`` or ``bf16``.
    """

    def __init__(
        self, encoder: Encoder, start: Params, own: Any, shared: OptimizerConfig, budget: int, precision: str
    ) -> None:
        from transformers import BertForSequenceClassification

        module = encoder.module
        # A configuration of its own: setting the attention would set that of the environment's model too.
        self.model: Any = BertForSequenceClassification(copy.deepcopy(module.config))
        self.model.to(module.device, module.dtype)
        self.model.load_state_dict({**module.state_dict(), **start})
        self.model.set_attn_implementation("sdpa")
        self.model.eval()  # no dropout, as in the environment
        self.named = {name: p for name, p in self.model.named_parameters() if name in encoder.trainable}
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(name in self.named)
        self.tensors, self.precision = list(self.named.values()), precision
        groups = [
            {"params": [p for p in self.tensors if p.dim() > 1], "weight_decay": own.weight_decay},
            {"params": [p for p in self.tensors if p.dim() <= 1], "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=own.learning_rate, betas=shared.betas, eps=shared.eps, fused=True)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, lambda update: (budget - update) / budget)
        self.max_norm = own.max_grad_norm or float("inf")

    def logits(self, batch: Any) -> Tensor:
        """``[B, C]``."""
        with autocast(batch.input_ids.device, self.precision):
            out = self.model(
                input_ids=batch.input_ids,
                attention_mask=batch.attention_mask.long(),
                token_type_ids=batch.token_type_ids,
            )
        found: Tensor = out.logits.to(self.model.dtype)
        return found

    def update(self, loss: Tensor) -> None:
        """One update."""
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.tensors, self.max_norm)
        self.optimizer.step()
        self.schedule.step()


class BarePair:
    """A teacher and a student from the state that an environment is in after its reset.

    Args:
        env: on :data:`TERMS` with ``term_scale=none``, a teacher that learns and no warm-up.
    """

    def __init__(self, env: DistillEnv) -> None:
        problem, state = env.problem, env.run.started()
        assert state.teacher is not None
        config, shared = problem.config, problem.config.optimizer_config
        end, precision = config.budget, config.precision
        self.problem = problem
        self.teacher = Learner(
            problem.reference.encoder,
            first(state.teacher.params),
            config.learning_teacher_config,
            shared,
            end,
            precision,
        )
        self.student = Learner(problem.student, first(state.params), shared, shared, end, precision)

    def step(self, rows: np.ndarray) -> list[float]:
        """One update of each on train rows ``[B]``; the loss of the teacher and that of the student."""
        batch = self.problem.train.gather(rows)
        share = self.problem.config.learning_teacher_config.soft_weight
        said, guess = self.teacher.logits(batch), self.student.logits(batch)
        near = divergence(guess.detach(), said)
        taught = share * near + (1.0 - share) * F.cross_entropy(said, batch.labels)
        self.teacher.update(taught)
        with torch.no_grad():
            said = self.teacher.logits(batch)
        soft = TEMPERATURE**2 * divergence(said / TEMPERATURE, guess / TEMPERATURE)
        learnt = F.cross_entropy(guess, batch.labels) + soft
        self.student.update(learnt)
        found: list[float] = torch.stack([taught.detach(), learnt.detach()]).tolist()
        return found


def divergence(target: Tensor, other: Tensor) -> Tensor:
    """Mean ``KL(p_target || p_other)`` of logits ``[B, C]``, in nats."""
    return F.kl_div(other.log_softmax(-1), target.log_softmax(-1), reduction="batchmean", log_target=True)


def first(params: Params) -> dict[str, Tensor]:
    """Parameters ``[...]`` of a single environment's model, a copy."""
    return {name: value[0].clone() for name, value in params.items()}


def agree(env: DistillEnv, pair: BarePair, step: Callable[[], Mapping[str, Any]], count: int) -> float:
    """Let both do the same updates; the largest relative difference of losses.

    Args:
        env: at the start of an episode.
        pair: of that environment.
        step: one ProKT step of it, which gives its ``info``.
        count: of updates.

    Raises:
        AssertionError: losses, teachers or students differ by more than :data:`MOVED` and the tolerance of losses.
    """
    precision, before = env.problem.config.precision, _models(env)
    losses: dict[str, list[float]] = {"plain": [], "env": []}
    for _ in range(count):
        losses["plain"] += pair.step(env.run.started().next_rows[0, 0])
        info = step()
        losses["env"] += [info["teacher_loss"], float(info["raw_losses"].sum())]
    worst = common.require_equal("influence_step", losses, common.TOLERANCE[precision])
    after = _models(env)
    for name, learner in (("teachers", pair.teacher), ("students", pair.student)):
        mine = {key: value.detach()[None] for key, value in learner.named.items()}
        moved, apart = _distance(after[name], before[name]), _distance(after[name], mine)
        if not apart <= MOVED[precision] * moved:
            raise AssertionError(
                f"influence_step: after {count} updates the {name} are {apart:.1e} apart, and were moved by "
                f"{moved:.1e} (allowed {MOVED[precision]:.0%}): the loops do not do the same work."
            )
    return worst


def _models(env: DistillEnv) -> dict[str, dict[str, Tensor]]:
    state = env.run.started()
    assert state.teacher is not None
    both: Sequence[tuple[str, Params]] = (("teachers", state.teacher.params), ("students", state.params))
    return {name: {key: value.clone() for key, value in params.items()} for name, params in both}


def _distance(a: Params, b: Params) -> float:
    return float(optim.gradient_norm({name: a[name] - b[name] for name in a}))
