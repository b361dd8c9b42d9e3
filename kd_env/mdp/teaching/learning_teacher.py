"""The update of a teacher that learns beside its student, along the gradient of :mod:`.teacher_gradient`."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from torch import Tensor

from kd_env.config.optimizer import OptimizerConfig
from kd_env.core.trees import upload
from kd_env.mdp import passes
from kd_env.mdp.problem import Problem
from kd_env.mdp.state import DistillState, TeacherEffect, TeacherState
from kd_env.mdp.teaching.teacher_gradient import gradient
from kd_env.numerics import optim


def begin(problem: Problem, seeds: list[int]) -> TeacherState:
    """The teachers at the start of an episode, a function of the seeds where the head is drawn anew."""
    encoder, count = problem.reference.encoder, len(seeds)
    initial_params = [encoder.initial(seed) for seed in seeds]
    params = {name: torch.stack([values[name] for values in initial_params]) for name in encoder.trainable}
    return TeacherState(
        params=params,
        exp_avg={name: torch.zeros_like(p) for name, p in params.items()},
        exp_avg_sq={name: torch.zeros_like(p) for name, p in params.items()},
        optimizer_steps=np.zeros(count, np.int64),
        loss=np.zeros(count),
        influence_ratio=np.zeros(count, np.float32),
        influence_cosine=np.zeros(count, np.float32),
    )


def teach(
    problem: Problem,
    state: DistillState,
    rows: np.ndarray,
    effect: TeacherEffect | None,
    *,
    student_weights: Tensor,
    active: np.ndarray,
    factor: np.ndarray,
    forward_pass: passes.StudentPass | None = None,
    dropout_seed: int = 0,
) -> tuple[TeacherState, Tensor]:
    """One update of the teachers, in place; the new state, and where loss or gradient were not finite ``[N]``.

    A teacher whose rows all have weight 0 and whose influence is 0 stays as it is.

    Args:
        problem: the problem.
        state: of N replicas before their students' update.
        rows: ``[N, B]`` train rows of that update.
        effect: weights of the rows and factor of the influence; None: every row alike, without influence.
        student_weights: ``[N, T, K, 1 or B]``, of the student's update on these rows.
        active: ``[N]`` bool, replicas that have budget left.
        factor: ``[N]`` of the students' learning rates in this update, the schedule times the action's scale.
        forward_pass: the students' pass on the rows, where it was made already; its graph is kept.
        dropout_seed: of the teacher's dropout; single replicas only.
    """
    teacher = state.teacher
    assert teacher is not None
    if effect is None:
        effect = TeacherEffect(np.ones(rows.shape, np.float32), np.zeros(len(rows), np.float32))
    options, student_config = problem.config.learning_teacher_config, problem.config.optimizer_config
    rates = student_config.rate * factor
    lesson = gradient(problem, state, rows, effect, student_weights, rates, forward_pass, dropout_seed)
    moves = active & ((effect.weights != 0).any(-1) | (effect.influence != 0)) & bool(lesson.grads)
    keep = upload(moves, problem.device)
    teacher_config: OptimizerConfig = dataclasses.replace(
        student_config,
        learning_rate=options.learning_rate,
        weight_decay=options.weight_decay,
        max_grad_norm=options.max_grad_norm,
        warmup=options.warmup,
    )
    broken = ~torch.isfinite(lesson.weighted)
    if lesson.grads:
        norm = optim.gradient_norm(lesson.grads)
        broken = broken | (~torch.isfinite(norm) & keep)
        optim.clip_(lesson.grads, norm, teacher_config.max_grad_norm)
        optim.adamw_(
            teacher.params,
            lesson.grads,
            teacher.exp_avg,
            teacher.exp_avg_sq,
            steps=teacher.optimizer_steps,
            learning_rates=teacher_config.rate
            * optim.learning_rate_factor(state.updates, state.budget, teacher_config.warmup),
            apply=moves,
            non_finite=broken.float(),
            config=teacher_config,
        )
    after = teacher._replace(
        optimizer_steps=teacher.optimizer_steps + moves,
        loss=np.where(active, lesson.loss.double().cpu().numpy(), teacher.loss),
        influence_ratio=np.where(active, lesson.ratio, teacher.influence_ratio),
        influence_cosine=np.where(active, lesson.cosine, teacher.influence_cosine),
    )
    return after, broken & upload(active, problem.device)
