"""Tutor-KD as a hand-written PyTorch loop, for teachers and students of the BERT family.

What one joint step of the tutor's environment does, for a batch whose slots and tokens are given: the teacher reads the
masked and the edited text (logits at the slots only), the student is updated once, both rewards are read.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks import common
from kd_env.envs.environments import TutorTokenEnv
from kd_env.mdp.problem import Problem
from kd_env.teachers.sources import autocast

PROJECTION = "projections.hidden_states.shared"
"""Name of the one map from the student's to the teacher's width."""

LOOPS = ("bare", "env")
ATTENTION = "bare_tutor"
WEIGHTS = (25.0, 0.5, 0.5)
"""Of the paper: plausibility, hidden states, attention scores."""
MOVED = {"fp32": 1e-3, "bf16": 0.1}
"""Largest difference of the two students over what the updates moved them. AdamW turns a gradient that is all rounding
into a whole step in either direction, so that this cannot be as small as the difference of losses."""


class Text(NamedTuple):
    """One masked batch: B rows, P slots each."""

    rows: np.ndarray  # [B] int64, train rows
    positions: np.ndarray  # [B, P] int64, places of the slots, all valid
    masked: np.ndarray  # [B, P] int64, what stands there in the masked text


class Taught(NamedTuple):
    """What one update says."""

    losses: list[float]  # plausibility, hidden states, attention scores; without weights
    recognises: np.ndarray  # [B, P], p_T(x | X') - p_T(a | X')
    error: np.ndarray  # [B, P], |m - sigmoid(u)|


class BareTutor:
    """Ordinary Hugging Face models and ``torch.optim.AdamW`` (fused) on the texts of a problem.

    Args:
        problem: with fixed masking, default losses and no warm-up.
        start: parameters of the student, and of the map to the teacher's width where there is one, ``[...]``.

    Raises:
        ValueError: a teacher of another family.
    """

    def __init__(self, problem: Problem, start: Mapping[str, Tensor]) -> None:
        from transformers import BertForMaskedLM, BertForTokenClassification

        family = problem.reader.model.module.config.model_type
        if family != "bert":
            raise ValueError(f"The hand-written loop is for BERT, not for a teacher of the family {family!r}.")
        _register_attention()
        self.problem = problem
        self.teacher: Any = _copy(BertForMaskedLM, problem.reader.model.module, {}).eval()
        own = {name: value for name, value in start.items() if name != PROJECTION}
        self.student: Any = _copy(BertForTokenClassification, problem.student.module, own)
        self.student.train()  # dropout is 0 in the student's configuration
        self.projection = torch.nn.Parameter(start[PROJECTION].clone()) if PROJECTION in start else None
        self.tensors = [*self.student.parameters(), *([] if self.projection is None else [self.projection])]
        given, budget = problem.config.optimizer_config, problem.config.budget
        groups = [
            {"params": [p for p in self.tensors if p.dim() > 1], "weight_decay": given.weight_decay},
            {"params": [p for p in self.tensors if p.dim() <= 1], "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=given.rate, betas=given.betas, eps=given.eps, fused=True)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, lambda update: (budget - update) / budget)
        self.max_norm = given.max_grad_norm or float("inf")

    def params(self) -> dict[str, Tensor]:
        """The student and the map by the environment's names."""
        found = {name: p.detach() for name, p in self.student.named_parameters()}
        return found if self.projection is None else {**found, PROJECTION: self.projection.detach()}

    def step(self, text: Text, tokens: np.ndarray) -> Taught:
        """One update on a text with ``tokens [B, P]`` in its slots."""
        device, dtype, pairs = self.problem.device, self.problem.dtype, self.problem.reference.pairs
        batch = self.problem.train.gather(text.rows)
        places, masked, chosen = (torch.as_tensor(a, device=device) for a in (text.positions, text.masked, tokens))
        original = batch.input_ids.gather(1, places)
        real = batch.attention_mask
        additive = torch.zeros(real.shape, dtype=dtype, device=device).masked_fill(~real, -1e9)[:, None, None]
        edited = batch.input_ids.scatter(1, places, chosen)

        with torch.no_grad():
            said = self._teacher(batch.input_ids.scatter(1, places, masked), additive, ())
            before = self._log_probabilities(said.last_hidden_state, places, original, chosen)
            taught = self._teacher(edited, additive, {other for _, other in pairs})
            after = self._log_probabilities(taught.last_hidden_state, places, original, chosen)
            m = (before[1] - before[0]).clamp(max=0).exp()
            recognises = after[0].exp() - after[1].exp()
            teacher_hidden = {other: taught.hidden_states[other].to(dtype) for _, other in pairs}
            teacher_scores = _take_scores(self.teacher.bert)

        _keep(self.student.bert, {layer for layer, _ in pairs})
        with autocast(device, self.problem.config.precision):
            out = self.student(edited, attention_mask=additive, output_hidden_states=True)
        u, scores = out.logits[..., 0].to(dtype), _take_scores(self.student.bert)
        weight = real.to(dtype)
        labels = torch.ones_like(u).scatter(1, places, m)
        plausibility = (F.binary_cross_entropy_with_logits(u, labels, reduction="none") * weight).sum() / weight.sum()
        count, both = weight.sum(1), weight[:, :, None] * weight[:, None, :]
        hidden, attention = [], []
        for layer, other in pairs:
            own = out.hidden_states[layer].to(dtype)
            own = own if self.projection is None else own @ self.projection.T
            square = (own - teacher_hidden[other]).square().mean(-1)
            hidden.append(((square * weight).sum(1) / count).mean())
            if layer:
                square = (scores[layer] - teacher_scores[other]).square().mean(1)
                attention.append(((square * both).sum((1, 2)) / both.sum((1, 2))).mean())
        parts = (plausibility, torch.stack(hidden).mean(), torch.stack(attention).mean())
        losses = torch.stack(parts)
        loss = (losses * losses.new_tensor(WEIGHTS)).sum()

        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.tensors, self.max_norm)
        self.optimizer.step()
        self.schedule.step()
        error = (m - torch.sigmoid(u.detach().gather(1, places))).abs()
        return Taught(losses.tolist(), recognises.cpu().numpy(), error.cpu().numpy())

    def _teacher(self, ids: Tensor, additive: Tensor, scored: Iterable[int]) -> Any:
        _keep(self.teacher.bert, scored)
        with autocast(self.problem.device, self.problem.config.precision):
            return self.teacher.bert(ids, attention_mask=additive, output_hidden_states=bool(scored))

    def _log_probabilities(self, hidden: Tensor, places: Tensor, *tokens: Tensor) -> list[Tensor]:
        """``log p_T`` of each of ``tokens [B, P]`` at the slots."""
        at_slots = hidden.gather(1, places[..., None].expand(-1, -1, hidden.shape[-1])).to(self.problem.dtype)
        logits = self.teacher.cls(at_slots)
        partition = logits.logsumexp(-1)
        return [logits.gather(2, each[..., None])[..., 0] - partition for each in tokens]


def _copy(kind: Any, module: Any, values: Mapping[str, Tensor]) -> Any:
    """A model of its own, with the weights of ``module`` but for ``values``."""
    config = copy.deepcopy(module.config)
    config._attn_implementation = ATTENTION
    model = kind(config).to(module.device, module.dtype)
    model.load_state_dict({**module.state_dict(), **values})
    return model


def _register_attention() -> None:
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import eager_mask

    AttentionInterface.register(ATTENTION, _attention)
    AttentionMaskInterface.register(ATTENTION, eager_mask)


def _attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor, *_: Any, **__: Any
) -> tuple[Tensor, None]:
    """PyTorch's own attention; plain products, whose scores are kept, in blocks that :func:`_keep` names."""
    if not module.keeps:
        return F.scaled_dot_product_attention(query, key, value, mask).transpose(1, 2).contiguous(), None
    module.scores = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
    return ((module.scores + mask).softmax(-1) @ value).transpose(1, 2).contiguous(), None


def _keep(bert: Any, layers: Iterable[int]) -> None:
    """The blocks, from 1, whose attention scores are kept in the next pass."""
    for place, block in enumerate(bert.encoder.layer, start=1):
        block.attention.self.keeps = place in layers


def _take_scores(bert: Any) -> dict[int, Tensor]:
    found = {}
    for place, block in enumerate(bert.encoder.layer, start=1):
        if block.attention.self.keeps:
            found[place] = block.attention.self.scores.float()
            del block.attention.self.scores  # else it would live until the next step
    return found


# -- beside the environment --------------------------------------------------------------------------------------------


def start(problem: Problem) -> tuple[TutorTokenEnv, BareTutor]:
    """The environment and the loop, with the same student."""
    env = TutorTokenEnv(problem=problem)
    env.reset(seed=0)
    return env, BareTutor(problem, _student(env))


def next_text(env: TutorTokenEnv) -> Text:
    """The masked batch that the environment's next step fills."""
    state = env.run.started()
    kept = state.decision_state
    return Text(state.next_rows[0, 0], kept.positions[0], kept.masked[0])


def agree(env: TutorTokenEnv, bare: BareTutor, texts: Sequence[np.ndarray], precision: str) -> float:
    """Let both do the same updates; the largest relative difference of losses.

    Args:
        env: at the start of an episode.
        bare: with the same student.
        texts: tokens ``[B, P]`` of each update.
        precision: of the options; sets the tolerances.

    Raises:
        AssertionError: losses, rewards or students differ by more.
    """
    before = {name: value.clone() for name, value in _student(env).items()}
    losses: dict[str, list[float]] = {loop: [] for loop in LOOPS}
    rewards: dict[str, list[float]] = {loop: [] for loop in LOOPS}
    for tokens in texts:
        mine = bare.step(next_text(env), tokens)
        _, reward, _, _, info = env.step(tokens.ravel())
        losses["bare"] += mine.losses
        losses["env"] += info["losses"].tolist()
        rewards["bare"].append(float((mine.recognises + mine.error).mean()))
        rewards["env"].append(reward)
    tolerance = common.TOLERANCE[precision]
    common.require_equal("tutor_step, rewards", rewards, tolerance)
    worst = common.require_equal("tutor_step", losses, tolerance)
    after, other = _student(env), bare.params()
    moved, apart = _distance(after, before), _distance(after, other)
    if not apart <= MOVED[precision] * moved:
        raise AssertionError(
            f"tutor_step: after {len(texts)} updates the students are {apart:.1e} apart, and were moved by "
            f"{moved:.1e} (allowed {MOVED[precision]:.0%}): the loops do not do the same work."
        )
    return worst


def _student(env: TutorTokenEnv) -> dict[str, Tensor]:
    return {name: value[0] for name, value in env.run.started().params.items()}


def _distance(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> float:
    return float(torch.stack([(a[name] - b[name]).double().square().sum() for name in a]).sum().sqrt())
