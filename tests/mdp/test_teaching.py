"""Teachers that learn beside the student: exact influence, identities between the rules, and a state that is whole."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from agents import make_rule
from kd_env import DistillEnv, DistillVectorEnv, build_problem
from kd_env.core import trees
from kd_env.decisions.options import env_config
from kd_env.envs.process import make_problem, with_options
from kd_env.evaluation.judging.contenders import Contender
from kd_env.evaluation.judging.protocol import evaluate_policies
from kd_env.evaluation.reports.report import summarize
from kd_env.evaluation.reports.report_files import to_json
from kd_env.evaluation.reports.words import plain_words
from kd_env.mdp import gradients, passes
from kd_env.mdp.influence import look_ahead
from kd_env.mdp.influence.rows import feedback_choice
from kd_env.mdp.state import TeacherEffect
from kd_env.mdp.teaching import learning_teacher, teacher_gradient
from kd_env.numerics import optim
from kd_env.testing import check_environment

ROWS = 8
RATE = 7e-3
FEATURES = ["progress", "row_student", "row_teacher_losses", "row_teacher_student_agreement"]


def options(tiny: dict[str, Any], **more: Any) -> dict[str, Any]:
    """A learning teacher of two layers, a student of one, all term kinds, in float64."""
    left_out = ("features", "updates_per_step", "learning_rate")
    return {
        **{key: value for key, value in tiny.items() if key not in left_out},
        **{"decision": "sample_weighting", "precision": "fp64", "batch_size": ROWS, "budget": 40},
        **{"teacher_source": "online", "teacher_updates": "prokt", "features": FEATURES},
        "learning_rate": RATE,
        "learning_teacher": {"learning_rate": 1e-3, "train_embeddings": True, "log_every": 1},
        "student": {"init": "teacher", "num_hidden_layers": 1, "train_embeddings": True},
        **more,
    }


@pytest.fixture(scope="module")
def problem(tiny: dict[str, Any]) -> Any:
    return build_problem(env_config(**options(tiny)))


@pytest.fixture(scope="module")
def weighted(tiny: dict[str, Any]) -> Any:
    return build_problem(env_config(**options(tiny, teacher_updates="weighted")))


def lesson(env: Any, weight: float = 1.0, *influence: Any) -> Any:
    return env.decision.lesson(np.full((1, ROWS), weight), *influence)


def after(problem: Any, steps: int, *effect: Any) -> Any:
    """The run after some steps of ProKT and one of ``effect``, if given."""
    env = DistillEnv(problem=problem)
    env.reset(seed=0)
    for _ in range(steps):
        env.step(lesson(env))
    if effect:
        env.step(lesson(env, *effect))
    return env.get_state().run


def same(one: Any, other: Any) -> bool:
    return all(torch.equal(value, other[name]) for name, value in one.items())


def brute_force(problem: Any, state: Any) -> dict[str, Tensor]:
    """``d L_feedback / d t``: automatic differentiation through the virtual step, twice."""
    own_step = problem.config.influence_config
    config, step, rows = problem.config.optimizer_config, int(state.optimizer_steps[0]) + 1, state.next_rows[:, 0]
    rate = own_step.learning_rate or RATE * optim.learning_rate_factor(state.updates, state.budget, config.warmup)[0]
    teacher = {name: p[0].clone().requires_grad_() for name, p in state.teacher.params.items()}
    student = {name: p[0].clone().requires_grad_() for name, p in state.params.items()}
    batch = problem.train.gather(rows)
    single = trees.map_leaves(lambda t: t[0], batch)
    outputs = (
        problem.student.forward(student, single, problem.student_signals, eager=True),
        problem.reference.encoder.forward(teacher, single, problem.teacher_signals, eager=True),
    )
    own, said = (trees.map_leaves(lambda t: t[None], output) for output in outputs)
    table = gradients.loss_table(problem, {name: p[None] for name, p in student.items()}, own, (said,), batch)[0]
    # The running scale is a constant of the student, and follows its teacher.
    fixed = {name: p.detach()[None] for name, p in student.items()}
    raw = gradients.loss_table(problem, fixed, trees.map_leaves(Tensor.detach, own), (said,), batch)[0].mean(-1)
    scale = state.term_scale[0] + (raw - state.term_scale[0]) / min(float(state.term_seen[0]) + 1, 100.0)
    loss = (table / scale.clamp(min=1e-8)[..., None]).sum((0, 1)).mean()
    grads = torch.autograd.grad(loss, list(student.values()), create_graph=True, allow_unused=True)
    norm = torch.cat([grad.flatten() for grad in grads if grad is not None]).norm()
    assert norm > config.max_grad_norm, "clipping is active"
    factor = config.max_grad_norm / (norm + 1e-6) if own_step.clip else 1.0
    grads = [None if grad is None else grad * factor for grad in grads]
    stepped = {}
    for (name, value), grad in zip(student.items(), grads, strict=True):
        if grad is None:
            stepped[name] = value
            continue
        if own_step.optimizer == "sgd":
            stepped[name] = value - rate * grad
            continue
        mean = config.betas[0] * state.exp_avg[name][0] + (1 - config.betas[0]) * grad
        square = config.betas[1] * state.exp_avg_sq[name][0] + (1 - config.betas[1]) * grad**2
        root = torch.where(square > 0, square, torch.ones_like(square)).sqrt() * (square > 0)
        decay = config.weight_decay if value.dim() > 1 else 0.0
        below = root / (1 - config.betas[1] ** step) ** 0.5 + config.eps
        stepped[name] = value * (1 - rate * decay) - rate * mean / (1 - config.betas[0] ** step) / below
    held_out = problem.feedback.gather(feedback_choice(problem, state)[0])
    logits = problem.student.forward(stepped, held_out, frozenset(), eager=True).logits
    found = torch.autograd.grad(F.cross_entropy(logits, held_out.labels), list(teacher.values()), allow_unused=True)
    return {name: grad for name, grad in zip(teacher, found, strict=True) if grad is not None}


def influence_alone(problem: Any, state: Any, target: str = "student_loss") -> teacher_gradient.Lesson:
    """``h`` of one replica, without the auxiliary loss."""
    config = problem.config.optimizer_config
    effect = TeacherEffect(np.zeros((1, ROWS), np.float32), np.ones(1, np.float32), target=target)
    weights = torch.as_tensor(problem.present, dtype=problem.dtype)[None, :, :, None]
    rates = RATE * optim.learning_rate_factor(state.updates, state.budget, config.warmup)
    return teacher_gradient.gradient(problem, state, state.next_rows[:, 0], effect, weights, rates)


@pytest.mark.parametrize(
    "virtual",
    [{"optimizer": "adamw"}, {"optimizer": "sgd"}, {"optimizer": "sgd", "clip": False, "learning_rate": 0.02}],
    ids=["adamw", "sgd", "metadistil_paper"],
)
def test_the_influence_gradient_is_the_exact_hypergradient(virtual: dict[str, Any], problem: Any) -> None:
    """After six updates with AdamW, of three terms over running scales; what a term does not read is zero in both."""
    own = with_options(problem, influence=virtual)
    state = after(own, 6)
    expected, found = brute_force(own, state), influence_alone(own, state).grads
    assert set(expected) <= set(found)
    error = sum(float((found[name][0] - expected.get(name, torch.zeros(()))).square().sum()) for name in found)
    assert error**0.5 < 1e-10 * sum(float(value.square().sum()) for value in expected.values()) ** 0.5


def test_the_released_form_differentiates_the_teachers_own_loss(problem: Any) -> None:
    """Against one backward pass of a cross-entropy with target a (p_S+ - p_S-) / 2R, as derived from the code."""
    state = after(problem, 3)
    rows, teacher = state.next_rows[:, 0], state.teacher
    rates = RATE * optim.learning_rate_factor(state.updates, state.budget, problem.config.optimizer_config.warmup)
    weights = torch.as_tensor(problem.present, dtype=problem.dtype)[None, :, :, None]
    ahead = look_ahead.look_ahead(
        problem, state, rows, feedback_choice(problem, state), learning_rates=rates, weights=weights
    )
    v = ahead.feedback_gradient
    radius = 0.01 / float(sum(value.square().sum() for value in v.values())) ** 0.5
    batch = problem.train.gather(rows)
    probabilities = []
    for sign in (1.0, -1.0):
        moved = {**state.params, **{name: state.params[name] + sign * radius * value for name, value in v.items()}}
        probabilities.append(passes.student_forward(problem, moved, batch, frozenset()).logits.softmax(-1))
    leaves = {name: p.clone().requires_grad_() for name, p in teacher.params.items()}
    said = passes.student_forward(problem, leaves, batch, frozenset(), encoder=problem.reference.encoder).logits
    target = 0.4 * (probabilities[0] - probabilities[1]) / (2 * radius)
    loss = -(target.detach() * said.log_softmax(-1)).sum(-1).mean()
    expected = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
    found = influence_alone(problem, state, "teacher_loss").grads
    for name, grad in zip(leaves, expected, strict=True):
        if grad is not None:
            torch.testing.assert_close(found[name], -rates[0] * grad, rtol=1e-7, atol=1e-14)


def test_without_influence_lgtm_is_prokt_bit_for_bit(problem: Any) -> None:
    """Students, teachers and their moments, also for a replica beside one that has influence."""
    plain, none, some = (
        after(problem, 3, 1.0, 0.0),
        after(problem, 3, 1.0, 0.0, "teacher_loss"),
        after(problem, 3, 1.0, 5.0),
    )
    assert same(plain.params, none.params) and same(plain.teacher.params, none.teacher.params)
    assert same(plain.teacher.exp_avg_sq, none.teacher.exp_avg_sq)
    assert not same(plain.teacher.params, some.teacher.params) and not same(plain.params, some.params)
    ends, held = [], after(problem, 0).teacher.params
    for name, more in (("prokt", {}), ("lgtm", {"influence_coef": 0.0}), ("lgtm", {}), ("frozen_teacher", {})):
        env = DistillVectorEnv(2, problem=problem, autoreset_mode="disabled")
        observation, _ = env.reset(seed=[0, 1])
        rule = make_rule(name, env, seed=0, **more)
        for _ in range(3):
            observation, *_ = env.step(rule.predict(observation)[0])
        ends.append(env.get_state().run)
    assert same(ends[0].params, ends[1].params) and same(ends[0].teacher.params, ends[1].teacher.params)
    assert not same(ends[0].teacher.params, ends[2].teacher.params)
    assert same(ends[3].teacher.params, trees.map_leaves(lambda p: p[:1].repeat(2, *(1,) * (p.dim() - 1)), held))


def test_uniform_weights_are_prokt_bit_for_bit(problem: Any, weighted: Any) -> None:
    """In both modes the plain action is the plain run; in ``weighted`` every row's weight counts in the teacher."""
    runs = {}
    for name, own, action in (
        ("prokt", problem, None),
        ("uniform", problem, np.zeros(ROWS)),
        ("weighted", weighted, np.zeros(ROWS)),
        *((f"row {row}", weighted, np.where(np.arange(ROWS) == row, 0.5, 0.0)) for row in range(ROWS)),
    ):
        env = DistillEnv(problem=own)
        env.reset(seed=3)
        for _ in range(2):
            env.step(lesson(env) if action is None else action)
        runs[name] = env.get_state().run
    for name in ("uniform", "weighted"):
        assert same(runs["prokt"].params, runs[name].params)
        assert same(runs["prokt"].teacher.params, runs[name].teacher.params)
    for row in range(ROWS):
        assert not same(runs["prokt"].teacher.params, runs[f"row {row}"].teacher.params)
        assert runs[f"row {row}"].row_weights[0, 0].tolist() == [1.5 if i == row else 1.0 for i in range(ROWS)]


def test_the_teachers_update_is_pytorchs(problem: Any) -> None:
    """ProKT against an ordinary loop of AdamW on a cross-entropy and a divergence, with clipping."""
    before, end = after(problem, 0), after(problem, 2)
    module = problem.reference.encoder
    teacher = {name: p[0].clone().requires_grad_() for name, p in before.teacher.params.items()}
    decayed = [p for p in teacher.values() if p.dim() > 1]
    plain = [p for p in teacher.values() if p.dim() <= 1]
    groups = [{"params": decayed, "weight_decay": 0.01}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-3)
    state = before
    for step in range(2):
        state = after(problem, step)
        batch = trees.map_leaves(lambda t: t[0], problem.train.gather(state.next_rows[:, 0]))
        student = {name: p[0] for name, p in state.params.items()}
        guess = problem.student.forward(student, batch, frozenset()).logits.log_softmax(-1)
        said = module.forward(teacher, batch, frozenset()).logits
        soft = F.kl_div(said.log_softmax(-1), guess, reduction="batchmean", log_target=True)
        loss = 0.4 * soft + 0.6 * F.cross_entropy(said, batch.labels)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(list(teacher.values()), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * optim.learning_rate_factor(state.updates, state.budget, 0.1)[0]
        optimizer.step()
        assert loss.item() == pytest.approx(after(problem, step + 1).teacher.loss[0], rel=1e-9)
    for name, value in teacher.items():
        torch.testing.assert_close(end.teacher.params[name][0], value.detach(), rtol=1e-6, atol=1e-9)


def test_the_student_learns_from_the_updated_teacher(problem: Any) -> None:
    """Teacher first, then student; and neither's gradient reaches the other."""
    state = after(problem, 2)
    weights = torch.as_tensor(problem.present, dtype=problem.dtype)[None, :, :, None]
    ready = trees.copy(state)
    teacher, _ = learning_teacher.teach(
        problem,
        ready,
        state.next_rows[:, 0],
        None,
        student_weights=weights,
        active=np.ones(1, bool),
        factor=optim.learning_rate_factor(state.updates, state.budget, 0.1),
        # That of the update: a pass for logits alone is rounded otherwise.
        forward_pass=passes.student_pass(problem, ready.params, problem.train.gather(state.next_rows[:, 0])),
    )
    assert same(ready.params, state.params) and not same(teacher.params, state.teacher.params)
    held = {name: p.clone() for name, p in teacher.params.items()}
    found = gradients.gradients(
        problem,
        state.params,
        problem.objective.batch(problem, state, state.next_rows[:, 0]),
        weights,
        state.term_scale,
        state.term_seen,
        teacher=teacher,
        differentiate=True,
    )
    assert same(teacher.params, held) and not any(p.requires_grad for p in teacher.params.values())
    optim.clip_(found.grads, optim.gradient_norm(found.grads), 1.0)
    moments = (trees.copy(state.exp_avg), trees.copy(state.exp_avg_sq))
    params = trees.copy(state.params)
    optim.adamw_(
        params,
        found.grads,
        *moments,
        steps=state.optimizer_steps,
        learning_rates=RATE * optim.learning_rate_factor(state.updates, state.budget, 0.1),
        apply=np.ones(1, bool),
        non_finite=torch.zeros(1),
        config=problem.config.optimizer_config,
    )
    assert same(after(problem, 3).params, params)


def test_metadistil_moves_by_the_influence_alone(problem: Any) -> None:
    """And a teacher to which nothing is said stays as it is, with its moments and its number of updates."""
    start, moved, idle = after(problem, 2), after(problem, 2, 0.0, 1.0), after(problem, 2, 0.0, 0.0)
    assert not same(start.teacher.params, moved.teacher.params) and moved.teacher.influence_ratio[0] == 0.0
    assert same(start.teacher.params, idle.teacher.params) and same(start.teacher.exp_avg, idle.teacher.exp_avg)
    assert idle.teacher.optimizer_steps[0] == 2 and moved.teacher.optimizer_steps[0] == 3
    assert not same(start.params, idle.params)
    small, large = after(problem, 2, 1.0, 1e-3), after(problem, 2, 1.0, 1e-3, "student_loss", True)
    assert small.teacher.influence_ratio[0] == large.teacher.influence_ratio[0] > 0
    assert not same(small.teacher.params, large.teacher.params)


def test_the_influence_lowers_the_loss_that_it_is_about(problem: Any) -> None:
    """A small step of the teacher along minus h lowers the feedback loss of the student's next update."""
    state = after(problem, 6)
    weights = torch.as_tensor(problem.present, dtype=problem.dtype)[None, :, :, None]
    rates = RATE * optim.learning_rate_factor(state.updates, state.budget, 0.1)
    h = influence_alone(problem, state).grads
    norm = float(optim.gradient_norm(h)[0])
    losses = []
    for size in (0.0, 1e-5, -1e-5):
        moved = {n: p - size / norm * h[n] if n in h else p for n, p in state.teacher.params.items()}
        other = state._replace(teacher=state.teacher._replace(params=moved))
        ahead = look_ahead.look_ahead(
            problem,
            other,
            state.next_rows[:, 0],
            feedback_choice(problem, state),
            learning_rates=rates,
            weights=weights,
        )
        losses.append(float(ahead.feedback_loss[0]))
    assert losses[1] < losses[0] < losses[2]
    assert losses[2] - losses[1] == pytest.approx(2e-5 * norm, rel=1e-4)


@pytest.mark.parametrize("updates", ["prokt", "weighted"])
def test_conformance_with_a_learning_teacher(updates: str, tiny: dict[str, Any]) -> None:
    """Both checkers, determinism, fork and exact restore; the teacher is part of the state."""
    env = gym.make("kd_env/SampleWeighting-v0", **options(tiny, teacher_updates=updates, precision="fp32", budget=8))
    check_environment(env, steps=10)


def test_restore_brings_the_teacher_back(problem: Any) -> None:
    """Exactly, after virtual steps too; and replicas are what single environments are."""
    env = DistillEnv(problem=problem)
    env.reset(seed=5)
    env.step(lesson(env, 1.0, 1.0))
    saved = env.get_state()
    ends = []
    for _ in range(2):
        env.set_state(saved)
        for _ in range(3):
            observation, *_ = env.step(lesson(env, 1.0, 1.0))
        ends.append((observation, env.get_state().run))
    assert same(ends[0][1].teacher.params, ends[1][1].teacher.params) and (ends[0][0] == ends[1][0]).all()
    assert same(ends[0][1].teacher.exp_avg, ends[1][1].teacher.exp_avg)
    many = DistillVectorEnv(3, problem=problem, autoreset_mode="disabled")
    many.reset(seed=[4, 5, 6])
    for _ in range(4):
        effect = many.decision.lesson(np.ones((3, ROWS)), 1.0)
        observations, *_, info = many.step(effect)
    np.testing.assert_allclose(observations[1], ends[0][0], rtol=1e-6, atol=1e-7)
    assert info["teacher_influence_ratio"].shape == (3,) and (info["teacher_influence_ratio"] > 0).all()
    table = problem.feedback
    single = env.predict_teacher(table)
    np.testing.assert_allclose(many.predict_teacher(table)[1], single[0], rtol=1e-9, atol=1e-9)


def test_features_and_scores_read_the_teacher_as_it_is(tiny: dict[str, Any]) -> None:
    """Not as it was loaded."""
    own = build_problem(env_config(**options(tiny, action_view="box", score="teacher_loss")))
    env = DistillEnv(problem=own)
    env.reset(seed=0)
    for _ in range(3):
        observation, *_ = env.step(lesson(env))
    state, place = env.get_state().run, env.observation_layout["row_teacher_losses"]
    rows = state.next_rows[:, 0]
    batch = own.train.gather(rows)
    logits = passes.student_forward(
        own, state.teacher.params, batch, frozenset(), encoder=own.reference.encoder
    ).logits[0]
    expected = F.cross_entropy(logits, batch.labels[0], reduction="none").log1p()
    np.testing.assert_allclose(observation[place.slice], expected.numpy(), rtol=1e-5)
    frozen = own.reference.encoder.forward({}, trees.map_leaves(lambda t: t[0], batch), frozenset()).logits
    assert not torch.allclose(frozen, logits, rtol=1e-3)


def test_a_head_or_a_whole_teacher_is_drawn_by_seed(tiny: dict[str, Any]) -> None:
    """Another seed, another head; the encoder of a pre-trained one stays, and blocks can be left out."""
    more = {"num_hidden_layers": 1, "learning_rate": 1e-3}
    starts = {}
    for init in ("pretrained", "fresh", "finetuned"):
        own = build_problem(env_config(**options(tiny, learning_teacher={"init": init, **more})))
        assert own.reference.encoder.facts.num_layers == 1
        env = DistillVectorEnv(2, problem=own, autoreset_mode="disabled")
        env.reset(seed=[0, 1])
        starts[init] = env.get_state().run.teacher.params
        assert not any("word_embeddings" in name for name in starts[init])
    for init, params in starts.items():
        differs = {name for name, p in params.items() if not torch.equal(p[0], p[1])}
        head = {name for name in params if name.startswith("classifier") and name.endswith("weight")}
        assert (differs == set()) if init == "finetuned" else head <= differs
        assert (differs == head) or init != "pretrained"


def test_a_cut_teacher_keeps_its_own_head_and_blocks(tiny: dict[str, Any]) -> None:
    """One that was fine-tuned: every tensor of the cut is the folder's, none drawn anew."""
    whole, cut = (
        build_problem(env_config(**options(tiny, learning_teacher={"num_hidden_layers": layers})))
        for layers in (None, 1)
    )
    before = whole.reference.encoder.module.state_dict()
    after_cut = cut.reference.encoder.module.state_dict()
    assert set(after_cut) < set(before) and all(torch.equal(value, before[name]) for name, value in after_cut.items())


def test_the_control_does_not_hear_of_the_teacher(tiny: dict[str, Any]) -> None:
    """The student agrees with itself, in every feature that looks at a teacher."""
    names = ["agreement", "teacher_entropy", "student_entropy", "row_teacher_losses", "row_student"]
    plain = options(tiny, teacher_updates="none", learning_teacher={}, teacher_source="student", features=names)
    env = DistillEnv(**{**plain, "terms": ["soft_label"], "term_scale": "none"})
    observation, _ = env.reset(seed=0)
    for _ in range(2):
        parts = {name: observation[place.slice] for name, place in env.observation_layout.items()}
        assert parts["agreement"] == 1.0
        rows = parts["row_student"].reshape(ROWS, 3)
        np.testing.assert_allclose(parts["row_teacher_losses"], rows[:, 0], rtol=1e-6)
        np.testing.assert_allclose(parts["teacher_entropy"], rows[:, 1].mean(), rtol=1e-6)
        observation, *_ = env.step(np.zeros(ROWS))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"teacher_source": "cached"}, "teacher_source='cached'.*Set teacher_source='online'"),
        ({"teacher_updates": "sometimes"}, "none, prokt, weighted"),
        ({"decision": "knowledge_selection", "teacher_updates": "weighted"}, "decision='knowledge_selection'"),
        ({"gap": "divergence"}, "gap='labels'"),
        ({"learning_teacher": {"soft_weight": 1.5}}, "soft_weight"),
        ({"learning_teacher": {"init": "trained"}}, "pretrained"),
        (
            {"learning_teacher": {"dropout": 1.0}},
            r"dropout=1.0 must be a finite number in \[0.0, 0.9\]",
        ),
        ({"learning_teacher": {"max_grad_norm": 0}}, "learning_teacher.max_grad_norm=0 would .*null .* no clipping"),
        ({"learning_teacher": {"zero_head": True}}, "would throw the head of a fine-tuned teacher away"),
        ({"terms": [{"name": "hard_label", "weight": 0.5}]}, "would do nothing with term_scale='running'"),
        ({"learning_teacher": {"rate": 1.0}}, "Unknown learning_teacher option 'rate'"),
        ({"influence": {"rows": 33}}, "evaluation_rows"),
        ({"feedback_rows": 5}, "only 5 are evaluated"),
        ({"teacher_updates": "none", "learning_teacher": {"soft_weight": 0.5}}, "teacher_updates='none'"),
    ],
)
def test_what_does_not_fit_is_refused(change: dict[str, Any], message: str, tiny: dict[str, Any]) -> None:
    """With the value and the remedy, before a step is made."""
    with pytest.raises(ValueError, match=message):
        build_problem(env_config(**options(tiny, **change)))


def test_bad_lessons_are_refused(problem: Any, tiny: dict[str, Any]) -> None:
    """Weights, factors and targets; and everything where the teacher is frozen."""
    env = DistillEnv(problem=problem)
    env.reset(seed=0)
    for arguments, message in (
        ((-1.0, 0.0), "-1.0"),
        ((float("nan"), 0.0), "nan"),
        ((1.0, -1.0), "influence=-1.0"),
        ((1.0, float("nan")), "influence=nan"),
        ((1.0, 1.0, "student"), "student_loss"),
        ((0.0, 1.0, "student_loss", True), "matched=True"),
    ):
        with pytest.raises(ValueError, match=message):
            env.step(lesson(env, *arguments))
    plain = options(tiny, teacher_updates="none", learning_teacher={})
    frozen = DistillEnv(**plain)
    with pytest.raises(ValueError, match="does not learn"):
        lesson(frozen)
    with pytest.raises(ValueError, match="is frozen"):
        frozen.reset(seed=0)
        frozen.predict_teacher(frozen.problem.feedback)
    for rule, more in (("prokt", {}), ("metadistil", {}), ("lgtm", {"influence_coef": 2.0})):
        with pytest.raises(ValueError, match="teacher_updates='none'"):
            make_rule(rule, frozen, seed=0, **more)
    for rule, more in (("metadistil", {"influence_coef": 0.0}), ("lgtm", {"influence_target": "both"})):
        with pytest.raises(ValueError, match=r"influence_coef|student_loss"):
            make_rule(rule, env, seed=0, **more)


def test_dropout_is_in_the_teachers_own_loss_alone(problem: Any, tiny: dict[str, Any]) -> None:
    """Drawn by seed and update; neither what the student hears nor the influence knows of it; replicas are refused."""
    given = {"learning_rate": 1e-3, "train_embeddings": True, "log_every": 1, "dropout": 0.3}
    own = build_problem(env_config(**options(tiny, learning_teacher=given)))
    generator = torch.get_rng_state()
    state = after(problem, 2)

    def next_teacher(each: Any, seed: int) -> dict[str, Tensor]:
        env = DistillEnv(problem=each)
        env.reset(seed=0)
        begun = env.get_state()
        env.set_state(begun._replace(run=state._replace(seeds=np.array([seed]))))
        env.step(lesson(env))
        params: dict[str, Tensor] = env.get_state().run.teacher.params
        return params

    assert same(next_teacher(own, 0), next_teacher(own, 0))
    assert not same(next_teacher(own, 0), next_teacher(own, 1))
    assert not same(next_teacher(own, 0), next_teacher(problem, 0))
    assert same(next_teacher(problem, 0), next_teacher(problem, 1))
    for target in ("student_loss", "teacher_loss"):
        found, expected = (influence_alone(each, state, target).grads for each in (own, problem))
        assert set(found) == set(expected)
        assert all(torch.allclose(found[name], value, rtol=1e-9, atol=1e-14) for name, value in expected.items())
    # From a teacher that stays the student learns the same.
    assert same(after(own, 0, 0.0, 0.0).params, after(problem, 0, 0.0, 0.0).params)
    assert torch.equal(generator, torch.get_rng_state()) and not own.reference.encoder.module.training
    with pytest.raises(ValueError, match=r"learning_teacher\.dropout=0\.3 needs single environments.*dropout=0 or"):
        DistillVectorEnv(2, problem=own)
    contenders = {"prokt": Contender(lambda env: make_rule("prokt", env, seed=0))}
    judged = evaluate_policies(with_options(own, budget=2), contenders, [7, 8]).policies["prokt"]
    assert judged.taught is not None, "students beside such teachers are judged one after the other"


def test_heads_that_begin_at_zero(tiny: dict[str, Any]) -> None:
    """Of teacher and student: nothing is said at first, whatever the seed, and both learn."""
    given = {"init": "pretrained", "zero_head": True, "learning_rate": 1e-3}
    student = {"init": "teacher", "num_hidden_layers": 1, "zero_head": True}
    env = DistillEnv(**options(tiny, learning_teacher=given, student=student))
    table = env.problem.feedback
    for seed in (0, 1):
        env.reset(seed=seed)
        assert not env.predict(table).any() and not env.predict_teacher(table).any()
    for _ in range(3):
        env.step(lesson(env, 1.0, 1.0))
    assert env.predict(table).any() and env.predict_teacher(table).any()


def test_terms_beside_a_learning_teacher(tiny: dict[str, Any]) -> None:
    """Where terms are chosen the teacher may learn too, before each of the updates of a step (mutual learning)."""
    env = DistillEnv(**options(tiny, decision="knowledge_selection", updates_per_step=2, features=["agreement"]))
    env.reset(seed=0)
    *_, info = env.step(np.ones(3, np.int8))
    state = env.get_state().run
    assert state.teacher.optimizer_steps.tolist() == [2] and info["teacher_loss"] > 0


def test_terms_that_hear_little_of_the_teacher(tiny: dict[str, Any]) -> None:
    """Labels alone: no influence, so that LGTM is ProKT. Hidden states alone: the two forms reach other tensors."""
    ends = []
    for coef in (0.0, 1.0):
        env = DistillEnv(**options(tiny, terms=["hard_label"]))
        env.reset(seed=0)
        for _ in range(2):
            *_, info = env.step(lesson(env, 1.0, coef))
        assert info["teacher_influence_ratio"] == 0.0
        ends.append(env.get_state().run.teacher.params)
    assert same(*ends)
    logged = {"learning_rate": 1e-3, "train_embeddings": True, "log_every": 1, "log_cosine": True}
    for target in ("student_loss", "teacher_loss"):
        env = DistillEnv(**options(tiny, terms=["hidden_states"], learning_teacher=logged))
        env.reset(seed=0)
        *_, info = env.step(lesson(env, 1.0, 1.0, target))
        assert info["teacher_influence_ratio"] > 0 and 0 < abs(info["teacher_influence_cosine"]) < 1


def test_one_backward_pass_does_for_both_gradients(problem: Any, tiny: dict[str, Any]) -> None:
    """Where the ratio is not measured d + c h is found at once; the ratio stands until it is measured again."""
    seldom = {"learning_rate": 1e-3, "train_embeddings": True, "log_every": 4}
    other = build_problem(env_config(**options(tiny, learning_teacher=seldom)))
    ratios = {}
    for name, own in (("always", problem), ("seldom", other)):
        env = DistillEnv(problem=own)
        env.reset(seed=0)
        ratios[name] = [env.step(lesson(env, 1.0, 1.0))[4]["teacher_influence_ratio"] for _ in range(6)]
        ratios[f"{name} ends"] = env.get_state().run.teacher.params
    for place in range(6):
        assert ratios["seldom"][place] == pytest.approx(ratios["always"][place - place % 4], rel=1e-6)
    for parameter, value in ratios["always ends"].items():
        torch.testing.assert_close(ratios["seldom ends"][parameter], value, rtol=1e-6, atol=1e-9)


def test_teacher_and_student_share_no_tensor(problem: Any) -> None:
    """What is cut from the teacher is copied; a problem that is put together otherwise is refused."""
    own = problem.assets
    with pytest.raises(ValueError, match="are one tensor"):
        make_problem(own._replace(student=own.reference_teacher.encoder), problem.config)


def test_an_autoreset_draws_a_new_teacher(tiny: dict[str, Any]) -> None:
    """Replica by replica: the second episode of each is the one that a single environment has."""
    more = {"learning_teacher": {"init": "pretrained", "learning_rate": 1e-3}, "budget": 3}
    own = build_problem(env_config(**options(tiny, **more)))
    many = DistillVectorEnv(2, problem=own)
    many.reset(seed=[1, 2])
    for _ in range(2):
        many.step(many.decision.lesson(np.ones((2, ROWS)), 1.0))
    many.step(many.decision.lesson(np.ones((2, ROWS)), 1.0))
    for _ in range(2):
        observations, *_ = many.step(many.decision.lesson(np.ones((2, ROWS)), 1.0))
    env = DistillEnv(problem=own)
    for replica, seed in enumerate((1, 2)):
        env.reset(seed=seed)
        env.reset()
        for _ in range(2):
            observation, *_ = env.step(lesson(env, 1.0, 1.0))
        np.testing.assert_allclose(observations[replica], observation, rtol=1e-6, atol=1e-7)
        table = own.feedback
        np.testing.assert_allclose(many.predict_teacher(table)[replica], env.predict_teacher(table)[0], rtol=1e-9)


def test_reports_tell_what_became_of_the_teachers(problem: Any) -> None:
    """Their metric at the end of each episode, and what was said of them at every step."""
    short = with_options(problem, budget=3)
    contenders = {
        name: Contender(lambda env, name=name: make_rule(name, env, seed=0)) for name in ("prokt", "lgtm", "metadistil")
    }
    report = summarize(evaluate_policies(short, contenders, [7, 8]))
    assert report.measure == "loss" and report.evaluation.teacher == {}
    assert "its teacher's accuracy (validation)" in report.header and "learned beside each student" in plain_words(
        report
    )
    found = report.evaluation.policies
    for name, result in found.items():
        ratios = result.taught.over_time["teacher_influence_ratio"]
        assert ratios.shape == (3, 2) and (ratios > 0).all() == (name == "lgtm")
    env = DistillEnv(problem=short)
    for place, seed in enumerate((7, 8)):
        env.reset(seed=seed)
        for _ in range(3):
            env.step(lesson(env, 1.0, 1.0))
        guesses = env.predict_teacher(short.selection)[0].argmax(-1)
        expected = (guesses == short.selection.labels).mean()
        assert found["lgtm"].taught.metrics["selection"]["accuracy"][place] == pytest.approx(expected)
    assert "teacher_over_time" in to_json(report)["policies"][1]["seeds"]
