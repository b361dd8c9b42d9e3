"""The influence of samples: brute force through the virtual step, the real update, and finite differences."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.stats import spearmanr
from torch import Tensor

from kd_env import DistillEnv, build_problem
from kd_env.core import trees
from kd_env.decisions.options import env_config
from kd_env.mdp import gradients, passes
from kd_env.mdp.influence import derivatives, look_ahead, samples, virtual_step
from kd_env.numerics import optim

ROWS, FEEDBACK = 8, np.arange(16)
RATE = np.array([7e-3])


class Case(NamedTuple):
    """Students in the middle of a run, and the rows of their next update."""

    problem: Any
    students: Any
    rows: np.ndarray

    @property
    def rates(self) -> np.ndarray:
        return np.full(len(self.rows), RATE[0])


def make_case(problem: Any, *, steps: int, seed: int = 0) -> Case:
    env = DistillEnv(problem=problem)
    env.reset(seed=seed)
    for _ in range(steps):
        env.step(env.decision.encode(dict.fromkeys(env.term_names, 1.0)))
    students = env.get_state().run
    assert students.optimizer_steps[0] == 2 * steps
    return Case(problem, students, students.next_rows[:, 0])


@pytest.fixture(scope="module")
def problem(tiny: dict[str, Any]) -> Any:
    """A BERT with one layer, trained embeddings and projections; hard and soft labels and hidden states."""
    return build_problem(env_config(**{**tiny, "precision": "fp64", "batch_size": ROWS, "budget": 40}))


@pytest.fixture(scope="module")
def opinionated(tiny: dict[str, Any]) -> list[Case]:
    """Students with large weights, after six updates: the gradients of a fresh one nearly lie on one line."""
    student = {"init": "teacher", "num_hidden_layers": 1, "train_embeddings": True}
    config = {**tiny, "precision": "fp64", "batch_size": ROWS, "budget": 40, "student": student}
    problem = build_problem(env_config(**config))
    return [make_case(problem, steps=3, seed=seed) for seed in range(3)]


@pytest.fixture(scope="module")
def trained(problem: Any) -> Case:
    """After six real updates with AdamW."""
    return make_case(problem, steps=3)


def clipped(grads: Sequence[Tensor | None], config: Any) -> list[Tensor | None]:
    """One student's gradients as PyTorch clips them; the norm is of all of them, and differentiable."""
    if config.max_grad_norm is None:
        return list(grads)
    norm = torch.cat([grad.flatten() for grad in grads if grad is not None]).norm()
    factor = (config.max_grad_norm / (norm + 1e-6)).clamp(max=1.0)
    return [None if grad is None else factor * grad for grad in grads]


def brute_force(case: Case, optimizer: str, *, weights: Tensor | None = None, labels: Tensor | None = None) -> Tensor:
    """``-d L_feedback / d w`` of one student ``[B]``: automatic differentiation through the virtual step, twice."""
    problem, state = case.problem, case.students
    config, step = problem.config.optimizer_config, int(state.optimizer_steps[0]) + 1
    student = {name: p[0].clone().requires_grad_() for name, p in state.params.items()}
    sample_weights = torch.ones(case.rows.shape[1], dtype=torch.float64, requires_grad=True)

    batch = problem.train.gather(case.rows)
    single = trees.map_leaves(lambda t: t[0], batch)
    output = problem.student.forward(student, single, problem.student_signals, eager=True)
    output = trees.map_leaves(lambda t: t[None], output)
    taught = tuple(teacher.source.signals(case.rows, batch, output) for teacher in problem.teachers)
    stacked = {name: p[None] for name, p in student.items()}
    table = gradients.loss_table(problem, stacked, output, taught, batch)[0]
    present = torch.as_tensor(problem.present)[..., None]
    seen = float(state.term_seen[0]) + 1
    of_teachers = torch.where(present[..., 0], table.detach().mean(-1), 0.0).sum(0) / present[..., 0].sum(0)
    scale = state.term_scale[0] + (of_teachers - state.term_scale[0]) / seen
    scale = scale if problem.config.term_scale == "running" else torch.ones_like(scale)
    factor = torch.ones_like(table) if weights is None else weights[0].expand_as(table)
    losses = (factor * torch.where(present, table / scale[..., None].clamp(min=1e-8), 0.0)).sum((0, 1))
    loss = (sample_weights * losses).mean()
    grads = clipped(torch.autograd.grad(loss, list(student.values()), create_graph=True, allow_unused=True), config)

    after = dict(student)
    for (name, value), grad in zip(student.items(), grads, strict=True):
        if grad is None:
            continue
        if optimizer == "sgd":
            after[name] = value - RATE[0] * grad
            continue
        decay = config.weight_decay if value.dim() > 1 else 0.0
        mean = config.betas[0] * state.exp_avg[name][0] + (1 - config.betas[0]) * grad
        square = config.betas[1] * state.exp_avg_sq[name][0] + (1 - config.betas[1]) * grad**2
        corrected = square / (1 - config.betas[1] ** step)
        # Rows of the embeddings that were never shown: no gradient goes through a root of 0.
        root = torch.where(corrected > 0, corrected, 1.0).sqrt() * (corrected > 0)
        moved = mean / (1 - config.betas[0] ** step) / (root + config.eps)
        after[name] = value * (1 - RATE[0] * decay) - RATE[0] * moved

    feedback = problem.feedback.gather(FEEDBACK)
    gold = feedback.labels if labels is None else labels
    logits = problem.student.forward(after, feedback, frozenset(), eager=True).logits
    if problem.label_width is None:
        reached = F.cross_entropy(logits, gold)
    else:
        reached = (((logits[:, 0] - gold) / problem.label_width) ** 2).mean()
    return -torch.autograd.grad(reached, sample_weights)[0]


def exact(case: Case, optimizer: str = "adamw", **options: Any) -> Tensor:
    return samples.sample_influence(
        case.problem, case.students, case.rows, FEEDBACK, learning_rates=case.rates, optimizer=optimizer, **options
    )


def error(found: Tensor, wanted: Tensor) -> float:
    """Relative, of the whole vector."""
    return float((found - wanted).norm() / wanted.norm())


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_equals_autograd_through_the_virtual_step(optimizer: str, trained: Case) -> None:
    found, wanted = exact(trained, optimizer), brute_force(trained, optimizer)
    print(f"\n{optimizer}: relative error {error(found[0], wanted):.1e}")
    assert found.shape == trained.rows.shape and error(found[0], wanted) < 1e-8
    assert (wanted > 0).any() and (wanted < 0).any()


@pytest.mark.parametrize("shape", ["entries", "rows"])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_fixed_weights_of_the_entries_count(optimizer: str, shape: str, trained: Case) -> None:
    generator = torch.Generator().manual_seed(0)
    size = (1, *trained.problem.present.shape, 1 if shape == "entries" else ROWS)
    weights = torch.rand(size, generator=generator, dtype=torch.float64)
    weights[..., 1, :] = 0.0  # without soft labels
    found = exact(trained, optimizer, weights=weights)
    assert error(found[0], brute_force(trained, optimizer, weights=weights)) < 1e-8
    assert error(found, exact(trained, optimizer)) > 0.1


@pytest.mark.parametrize(
    ("terms", "options"),
    [
        (["hidden_states"], {}),  # nothing reads the classifier in training, nothing the projections in the feedback
        (["relation", "attention", "minilm"], {}),
        (["soft_label"], {"term_scale": "none"}),
        (["hard_label"], {"student": {"hidden_size": 8, "num_attention_heads": 2, "train_embeddings": False}}),
    ],
    ids=["hidden_states", "attentions", "soft_label", "frozen_embeddings"],
)
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_every_kind_of_term(
    terms: list[str], options: dict[str, Any], optimizer: str, built: dict[str, Case], tiny: dict[str, Any]
) -> None:
    key = str((terms, options))
    if key not in built:
        config = {**tiny, "precision": "fp64", "terms": terms, "batch_size": ROWS, "budget": 40, **options}
        built[key] = make_case(build_problem(env_config(**config)), steps=3)
    assert error(exact(built[key], optimizer)[0], brute_force(built[key], optimizer)) < 1e-8


@pytest.fixture(scope="module")
def built() -> Iterator[dict[str, Case]]:
    """Cases by what they were built of; one serves both optimisers."""
    yield {}


def test_regression_and_several_teachers(tiny_regression: dict[str, Any], tiny_set: dict[str, Any]) -> None:
    for options in (tiny_regression, tiny_set):
        config = {**options, "precision": "fp64", "batch_size": ROWS, "budget": 40}
        case = make_case(build_problem(env_config(**config)), steps=3)
        assert error(exact(case)[0], brute_force(case, "adamw")) < 1e-8


def test_at_step_0_the_direction_is_that_of_sgd(problem: Any) -> None:
    case = make_case(problem, steps=0)
    assert torch.equal(exact(case, "adamw"), exact(case, "sgd"))
    assert error(exact(case, "adamw")[0], brute_force(case, "sgd")) < 1e-8


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("shared", [True, False])
def test_stacked_students_equal_single_ones(shared: bool, optimizer: str, problem: Any, trained: Case) -> None:
    """One of them has not made a step, and their learning rates differ."""
    cases = [trained, make_case(problem, steps=0, seed=1), make_case(problem, steps=4, seed=2)]
    students = trees.map_leaves(
        lambda *leaves: torch.cat(leaves) if isinstance(leaves[0], Tensor) else np.concatenate(leaves),
        *(case.students for case in cases),
    )
    rows, rates = np.concatenate([case.rows for case in cases]), np.array([7e-3, 1e-3, 2e-3])
    feedback = [FEEDBACK] * 3 if shared else [FEEDBACK, FEEDBACK[::-1] + 8, FEEDBACK + 16]
    together = samples.sample_influence(
        problem,
        students,
        rows,
        FEEDBACK if shared else np.stack(feedback),
        learning_rates=rates,
        optimizer=optimizer,
    )
    for index, case in enumerate(cases):
        alone = samples.sample_influence(
            problem,
            case.students,
            case.rows,
            feedback[index],
            learning_rates=rates[index : index + 1],
            optimizer=optimizer,
        )
        torch.testing.assert_close(together[index], alone[0], rtol=1e-9, atol=1e-15)


def real_losses(case: Case, change: float) -> np.ndarray:
    """Feedback loss after B real updates; in the i-th of them row i has the weight 1 + change."""
    problem, count = case.problem, case.rows.shape[1]
    students = trees.take(case.students, [0] * count)
    weights = torch.ones(count, *problem.present.shape, count, dtype=torch.float64)
    weights += change * torch.eye(count, dtype=torch.float64)[:, None, None, :]
    found = gradients.gradients(
        problem,
        students.params,
        problem.objective.batch(problem, students, np.repeat(case.rows, count, axis=0)),
        weights,
        students.term_scale,
        students.term_seen,
        teacher=None,
        differentiate=True,
    )
    optim.clip_(found.grads, optim.gradient_norm(found.grads), problem.config.optimizer_config.max_grad_norm)
    optim.adamw_(
        students.params,
        found.grads,
        students.exp_avg,
        students.exp_avg_sq,
        steps=students.optimizer_steps,
        learning_rates=np.full(count, RATE[0]),
        apply=np.ones(count, bool),
        non_finite=torch.zeros(count),
        config=problem.config.optimizer_config,
    )
    logits = passes.predict(problem, students.params, problem.feedback)[:, FEEDBACK]
    labels = torch.as_tensor(problem.feedback.labels[FEEDBACK])
    return np.array([float(F.cross_entropy(torch.as_tensor(row), labels)) for row in logits])


@pytest.mark.parametrize("change", [1e-3, 0.1])
def test_predicts_what_a_larger_weight_does_to_the_real_update(
    change: float, trained: Case, opinionated: list[Case]
) -> None:
    """The real optimiser, B times for each student, with one row a little heavier each time."""
    for case in (trained, *opinionated):
        found = exact(case)[0].numpy()
        drop = real_losses(case, 0.0) - real_losses(case, change)
        correlation = spearmanr(found, drop).statistic
        print(f"\nweight + {change}: rank correlation {correlation:.3f}, same sign {np.mean(found * drop > 0):.2f}")
        assert correlation > 0.9
        clear = np.abs(found) > 0.1 * np.abs(found).max()
        np.testing.assert_array_equal(found[clear] > 0, drop[clear] > 0)
        if change < 0.01:
            np.testing.assert_allclose(drop / change, found, rtol=0.05, atol=0.01 * np.abs(found).max())


def test_the_gradient_is_that_of_the_real_update(trained: Case) -> None:
    state = trained.students
    weights = torch.ones(1, *trained.problem.present.shape, 1, dtype=torch.float64)
    real = gradients.gradients(
        trained.problem,
        state.params,
        trained.problem.objective.batch(trained.problem, state, trained.rows),
        weights,
        state.term_scale,
        state.term_seen,
        teacher=None,
        differentiate=True,
    )
    grads, losses, _ = look_ahead.loss_gradient(trained.problem, state, trained.rows)
    assert set(grads) == set(real.grads)
    for name, grad in grads.items():
        torch.testing.assert_close(grad, real.grads[name], rtol=1e-12, atol=1e-15)
    torch.testing.assert_close(losses({}).mean(-1), real.loss)


def test_the_virtual_step_is_the_real_optimisers(trained: Case) -> None:
    config = trained.problem.config.optimizer_config
    grads, again = (look_ahead.loss_gradient(trained.problem, trained.students, trained.rows)[0] for _ in range(2))
    step = virtual_step.virtual_step(trained.students, again, learning_rates=RATE, optimizer="adamw", config=config)
    real = trees.copy(trained.students)
    grads = {name: grad.contiguous() for name, grad in grads.items()}
    norm = optim.gradient_norm(grads)
    assert norm > config.max_grad_norm
    optim.clip_(grads, norm, config.max_grad_norm)
    optim.adamw_(
        real.params,
        grads,
        real.exp_avg,
        real.exp_avg_sq,
        steps=real.optimizer_steps,
        learning_rates=RATE,
        apply=np.ones(1, bool),
        non_finite=torch.zeros(1),
        config=config,
    )
    for name, value in step.params.items():
        torch.testing.assert_close(value, real.params[name], rtol=1e-10, atol=1e-13)


def test_finite_differences_agree_to_first_order(trained: Case) -> None:
    """The error of central differences falls with the square of the radius; 0.01 is what the released code takes."""
    ahead = look_ahead.look_ahead(
        trained.problem, trained.students, trained.rows, FEEDBACK, learning_rates=RATE, optimizer="sgd", clip=False
    )
    params = trained.students.params
    along = derivatives.directional_losses(ahead.losses, params, ahead.feedback_gradient)
    far, near = (
        derivatives.finite_difference_influence(ahead.losses, params, ahead.feedback_gradient, radius=radius)
        for radius in (0.04, 0.01)
    )
    print(f"\nfinite differences: relative errors {error(far, along):.1e} and {error(near, along):.1e}")
    assert error(near, along) < 1e-3
    assert 10 < error(far, along) / error(near, along) < 22
    torch.testing.assert_close(along * RATE[0] / ROWS, exact(trained, "sgd", clip=False), rtol=1e-10, atol=0)
    nothing = {name: torch.zeros_like(v) for name, v in ahead.feedback_gradient.items()}
    assert (derivatives.finite_difference_influence(ahead.losses, params, nothing) == 0).all()


def test_without_the_optimiser_the_direction_is_another(opinionated: list[Case]) -> None:
    """Why v is pulled back: the product with the plain feedback gradient is not the derivative for AdamW."""
    agreements = []
    for case in opinionated:
        ahead = look_ahead.look_ahead(case.problem, case.students, case.rows, FEEDBACK, learning_rates=RATE)
        plain = derivatives.directional_losses(ahead.losses, case.students.params, ahead.feedback_gradient)
        found = samples.influence_of(ahead, case.students.params)
        assert torch.equal(found, exact(case)) and error(found[0], brute_force(case, "adamw")) < 1e-8
        agreements.append(float(derivatives.cosine(plain, found)[0]))
    print(f"\ncosines without the pull-back {np.round(agreements, 3)}")
    assert min(agreements) < 0.95


def test_cosine_ignores_scale() -> None:
    values = torch.tensor([[1.0, -2.0, 0.5], [3.0, 4.0, 0.0], [0.0, 0.0, 0.0]])
    others = torch.tensor([[1.0, -2.0, 0.5], [4.0, -3.0, 1.0], [1.0, 0.0, 0.0]])
    found = derivatives.cosine(1e-25 * values, others)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, torch.tensor([1.0, 0.0, 0.0]))


def test_given_labels_and_given_signals(trained: Case) -> None:
    """Other feedback labels (the control) and teachers' outputs from elsewhere are taken as they are."""
    labels = 1 - torch.as_tensor(trained.problem.feedback.labels[FEEDBACK])
    found = exact(trained, feedback_labels=labels)
    assert error(found[0], brute_force(trained, "adamw", labels=labels)) < 1e-8
    assert float(derivatives.cosine(found, exact(trained))[0]) < 0.5
    batch = trained.problem.train.gather(trained.rows)
    taught = tuple(teacher.source.signals(trained.rows, batch, None) for teacher in trained.problem.teachers)
    assert torch.equal(exact(trained, teacher_outputs=taught), exact(trained))
    other = tuple(output._replace(logits=-output.logits) for output in taught)
    assert error(exact(trained, teacher_outputs=other), exact(trained)) > 0.1


@pytest.mark.parametrize("steps", [0, 3])
def test_nothing_is_touched(steps: int, problem: Any) -> None:
    case = make_case(problem, steps=steps)
    before = trees.copy(case.students)
    frozen = {name: value.clone() for name, value in problem.student.module.state_dict().items()}
    generator = torch.get_rng_state()
    exact(case, "adamw")
    for name in ("params", "exp_avg", "exp_avg_sq"):
        left: Mapping[str, Tensor] = getattr(case.students, name)
        assert all(torch.equal(value, left[key]) for key, value in getattr(before, name).items())
        assert all(not value.requires_grad and value.grad is None for value in left.values())
    assert torch.equal(before.term_scale, case.students.term_scale)
    assert torch.equal(before.term_seen, case.students.term_seen)
    np.testing.assert_array_equal(before.optimizer_steps, case.students.optimizer_steps)
    assert all(torch.equal(value, frozen[name]) for name, value in problem.student.module.state_dict().items())
    assert torch.equal(generator, torch.get_rng_state())


def test_single_precision(tiny: dict[str, Any], trained: Case) -> None:
    """Rows of the embeddings that were never shown have moments of 0, and second moments underflow."""
    small = build_problem(env_config(**{**tiny, "batch_size": ROWS, "budget": 40}))
    students = trees.map_leaves(lambda t: t.float() if isinstance(t, Tensor) else t, trained.students)
    found = exact(Case(small, students, trained.rows))
    assert found.dtype == torch.float32
    assert error(found.double(), exact(trained)) < 1e-3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"optimizer": "adam"}, "Unknown virtual optimizer 'adam'. Did you mean 'adamw'"),
        ({"rows": np.arange(4)}, r"rows has the shape \(4,\)"),
        ({"feedback_rows": np.arange(0)}, "with at least one row"),
        ({"feedback_rows": np.arange(4).reshape(2, 2)}, r"feedback_rows has the shape \(2, 2\); for 1 students give"),
        ({"learning_rates": np.ones(2)}, r"learning_rates has the shape \(2,\); for 1 students give \(1,\)"),
        ({"feedback_labels": torch.zeros(3)}, r"feedback_labels has the shape \(3,\).*as feedback_rows"),
    ],
)
def test_bad_input_is_named(options: dict[str, Any], message: str, trained: Case) -> None:
    given = {"rows": trained.rows, "feedback_rows": FEEDBACK, "learning_rates": RATE, **options}
    with pytest.raises(ValueError, match=message):
        samples.sample_influence(trained.problem, trained.students, **given)
