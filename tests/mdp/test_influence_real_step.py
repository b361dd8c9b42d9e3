"""Influence against central differences of the step that is really made: its clipping, moments, scales and schedule."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from cli.settings.compose import compose
from cli.settings.read import read_settings
from kd_env import DistillEnv, build_problem
from kd_env.core import trees
from kd_env.decisions.options import env_config
from kd_env.envs.process import with_options
from kd_env.mdp import gradients, passes, transition
from kd_env.mdp.influence import look_ahead
from kd_env.mdp.influence.rows import feedback_choice, row_influence
from kd_env.mdp.state import TeacherEffect
from kd_env.mdp.teaching import teacher_gradient
from kd_env.numerics import optim

UPDATES = (1, 3, 6, 10)
"""Updates made before the one that is looked at."""
LIMITS = {"as configured": 2.0, "unclipped": None}
CHANGE = 2.0**-15
"""Of a weight, which is exact in float32."""


@pytest.fixture(scope="module")
def noisy(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The settings of ``experiment=noisy_samples`` in float64, with fewer rows of everything."""
    cache = tmp_path_factory.mktemp("cache")
    found = read_settings(compose("config", ["experiment=noisy_samples", f"cache_dir={cache}", "progress=false"])).env
    changes = {"precision": "fp64", "evaluate_every": 0, "features": ["progress"], "influence": {"optimizer": "adamw"}}
    rows = {"batch_size": 8, "max_train_rows": 64, "feedback_rows": 16, "selection_rows": 16, "evaluation_rows": 16}
    problem = build_problem(env_config(**{**found.to_dict(), **changes, **rows}))
    assert problem.config.optimizer_config.max_grad_norm == LIMITS["as configured"]
    return problem


def visited(problem: Any, steps: tuple[int, ...]) -> dict[int, Any]:
    """The run of one replica after so many plain steps."""
    env, found = DistillEnv(problem=problem), {}
    env.reset(seed=0)
    for step in range(max(steps) + 1):
        if step in steps:
            found[step] = env.get_state().run
        env.step(env.decision.effect(np.ones((1, env.batch_size))))
    return found


def losses_after(problem: Any, state: Any, after: dict[str, Tensor], rows: np.ndarray) -> np.ndarray:
    """Loss of each of ``after`` on the feedback rows of the step, ``[N]``."""
    batch = problem.feedback.gather(rows)
    logits = passes.student_forward(problem, after, batch, frozenset(), shared_batch=True).logits
    labels = batch.labels.expand(logits.shape[:2])
    return F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none").view(labels.shape).mean(-1).numpy()


def real_step(problem: Any, state: Any, weights: np.ndarray) -> dict[str, Tensor]:
    """The environment's own step from N copies of one state, with weights ``[N, B]`` of the rows."""
    env = DistillEnv(problem=problem)
    stacked = trees.copy(trees.take(state, [0] * len(weights)))
    params: dict[str, Tensor] = transition.transition(problem, stacked, env.decision.effect(weights)).params
    return params


def sgd_step(problem: Any, state: Any, weights: np.ndarray) -> dict[str, Tensor]:
    """The same with SGD in the place of AdamW."""
    config, count = problem.config.optimizer_config, len(weights)
    stacked = trees.take(state, [0] * count)
    table = torch.as_tensor(problem.present[None, :, :, None] * weights[:, None, None, :])
    rows = np.repeat(state.next_rows[:, 0], count, axis=0)
    scales = (stacked.term_scale, stacked.term_seen)
    batch = problem.objective.batch(problem, stacked, rows)
    found = gradients.gradients(problem, stacked.params, batch, table, *scales, teacher=None, differentiate=True)
    optim.clip_(found.grads, optim.gradient_norm(found.grads), config.max_grad_norm)
    rate = float((config.rate * optim.learning_rate_factor(state.updates, state.budget, config.warmup))[0])
    return {n: p - rate * found.grads[n] if n in found.grads else p for n, p in stacked.params.items()}


def differences(problem: Any, state: Any, step: Callable[[Any, Any, np.ndarray], dict[str, Tensor]]) -> np.ndarray:
    """``-d L / d w`` ``[B]`` by central differences of a step."""
    count = state.next_rows.shape[-1]
    weights = 1.0 + CHANGE * np.concatenate([np.eye(count), -np.eye(count)])
    loss = losses_after(problem, state, step(problem, state, weights), feedback_choice(problem, state)[0])
    return -(loss[:count] - loss[count:]) / (2 * CHANGE)


def agree(found: np.ndarray, real: np.ndarray) -> None:
    """The same direction and the same length."""
    lengths = np.linalg.norm(found), np.linalg.norm(real)
    print(f"cosine {found @ real / np.prod(lengths):.8f}, lengths {lengths[0] / lengths[1]:.6f}")
    assert found @ real / np.prod(lengths) > 0.9999
    assert lengths[0] == pytest.approx(lengths[1], rel=1e-3)


@pytest.mark.parametrize("limit", LIMITS)
def test_row_influence_is_the_derivative_of_the_real_step(limit: str, noisy: Any) -> None:
    """AdamW: of ``dynamics.transition`` itself. SGD: of the same step with SGD in the optimiser's place."""
    problem = with_options(noisy, optimizer={"max_grad_norm": LIMITS[limit]})
    plain = with_options(problem, influence={"optimizer": "sgd"})
    for steps, state in visited(problem, UPDATES).items():
        norm = float(optim.gradient_norm(look_ahead.loss_gradient(problem, state, state.next_rows[:, 0])[0])[0])
        print(f"\n{limit}, after {steps} updates, norm {norm:.2f}")
        assert norm > 2.0, "clipping is active where there is any"
        agree(row_influence(problem, state)[0], differences(problem, state, real_step))
        agree(row_influence(plain, state)[0], differences(plain, state, sgd_step))


def test_rows_of_a_clipped_step_compete(noisy: Any) -> None:
    """A common factor of all weights changes no clipped step, so that the influences sum to 0; else it does."""
    sums, state = {}, visited(noisy, (3,))[3]
    for limit, most in LIMITS.items():
        found = row_influence(with_options(noisy, optimizer={"max_grad_norm": most}), state)[0]
        sums[limit] = abs(found.sum()) / np.abs(found).sum()
    assert sums["as configured"] < 1e-5 < 0.05 < sums["unclipped"]


def test_a_student_without_an_update_is_looked_at_by_sgd(noisy: Any) -> None:
    """Adam's first update is a sign of the gradient: its own derivative is rounding, so that of SGD stands for it."""
    state = visited(noisy, (0,))[0]
    assert np.array_equal(
        row_influence(noisy, state), row_influence(with_options(noisy, influence={"optimizer": "sgd"}), state)
    )
    agree(row_influence(noisy, state)[0], differences(noisy, state, sgd_step))


# -- the teacher's gradient


@pytest.fixture(scope="module")
def taught(tiny: dict[str, Any]) -> Any:
    """A teacher that learns; hard and soft labels and hidden states over running scales, which follow the teacher."""
    left_out = ("features", "updates_per_step", "learning_rate")
    options = {
        **{key: value for key, value in tiny.items() if key not in left_out},
        **{"decision": "sample_weighting", "precision": "fp64", "batch_size": 8, "budget": 40},
        **{"teacher_source": "online", "teacher_updates": "prokt", "features": ["progress"]},
        **{"learning_rate": 7e-3, "learning_teacher": {"train_embeddings": True, "learning_rate": 1e-3}},
        "student": {"init": "teacher", "num_hidden_layers": 1, "train_embeddings": True},
    }
    return build_problem(env_config(**options))


@pytest.mark.parametrize("limit", [0.5, None])
def test_the_teachers_gradient_is_the_derivative_of_the_real_step(limit: float | None, taught: Any) -> None:
    """Along random directions of the teacher, which stays where it is while its student makes the step."""
    problem = with_options(taught, optimizer={"max_grad_norm": limit})
    for steps, state in visited(problem, UPDATES).items():
        rates = optim.learning_rate_factor(state.updates, state.budget, problem.config.optimizer_config.warmup)
        weights = torch.as_tensor(problem.present, dtype=problem.dtype)[None, :, :, None]
        effect = TeacherEffect(np.zeros((1, 8), np.float32), np.ones(1, np.float32))
        own = problem.config.optimizer_config.rate * rates
        h = teacher_gradient.gradient(problem, state, state.next_rows[:, 0], effect, weights, own).grads
        drawn = torch.Generator().manual_seed(0)
        lines = {
            name: torch.randn(16, *p.shape[1:], generator=drawn, dtype=p.dtype)
            for name, p in state.teacher.params.items()
        }
        found = sum((h[name] * line).flatten(1).sum(-1) for name, line in lines.items() if name in h)
        stacked = trees.copy(trees.take(state, [0] * 32))
        size = 1e-6
        for name, line in lines.items():
            stacked.teacher.params[name].add_(size * torch.cat([line, -line]))
        after = transition.transition(
            problem, stacked, DistillEnv(problem=problem).decision.lesson(np.zeros((32, 8)), 0.0)
        )
        loss = losses_after(problem, state, after.params, feedback_choice(problem, state)[0])
        print(f"\nclipped at {limit}, after {steps} updates")
        agree(found.numpy(), (loss[:16] - loss[16:]) / (2 * size))


def test_clipping_is_pulled_back_over_all_tensors() -> None:
    """Against automatic differentiation; a tensor without a cotangent gets one, a replica that is not clipped keeps its
    own, and one whose gradient is 0 is left alone.
    """
    drawn = torch.Generator().manual_seed(0)
    shapes = {"a": (4, 3), "b": (2,), "c": (5,)}
    grads = {n: torch.randn(3, *s, generator=drawn, dtype=torch.float64) for n, s in shapes.items()}
    scale = torch.tensor([1.0, 1e-3, 0.0], dtype=torch.float64)
    leaves = {n: (g * scale.view(-1, *(1,) * (g.dim() - 1))).requires_grad_() for n, g in grads.items()}
    cotangents = {n: torch.randn(leaves[n].shape, generator=drawn, dtype=torch.float64) for n in ("a", "b")}
    norm = optim.gradient_norm(leaves)
    factor = (0.7 / (norm + 1e-6)).clamp(max=1.0)
    clipped = {n: leaf * factor.view(-1, *(1,) * (leaf.dim() - 1)) for n, leaf in leaves.items()}
    wanted = torch.autograd.grad(sum((clipped[n] * u).sum() for n, u in cotangents.items()), list(leaves.values()))
    held = {n: g.detach() for n, g in clipped.items()}
    with torch.no_grad():
        found = optim.clip_pull_back_({n: u.clone() for n, u in cotangents.items()}, held, norm.detach(), 0.7)
    for name, expected in zip(leaves, wanted, strict=True):
        torch.testing.assert_close(found[name][:2], expected[:2], rtol=1e-10, atol=1e-14)
        torch.testing.assert_close(found[name][1:], cotangents.get(name, torch.zeros_like(found[name]))[1:])
    assert optim.clip_pull_back_({}, held, norm.detach(), 0.7) == {}
