"""Features: what they say, where they stand, and that they stay inside their bounds."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

from kd_env import DistillEnv, DistillVectorEnv
from kd_env.mdp.observations.layout import FEATURES

LABEL_FEATURES = [name for name in FEATURES if not FEATURES[name].text_only]


def part(env: Any, observation: np.ndarray, name: str) -> np.ndarray:
    """One feature of an observation."""
    return observation[..., env.observation_layout[name].slice]


def test_layout_covers_the_observation(tiny: dict[str, Any]) -> None:
    """All features, one after the other, with their own bounds; those of rows where actions address rows."""
    rows = {"decision": "teacher_weighting", "weighting": "sample", "terms": ["hard_label", "soft_label"]}
    env = DistillEnv(**{**tiny, **rows, "features": list(LABEL_FEATURES), "updates_per_step": 1})
    stop = 0
    for name, place in env.observation_layout.items():
        assert place.start == stop and place.stop - place.start == int(np.prod(place.shape)), name
        stop = place.stop
        assert (env.observation_space.low[place.slice] == np.float32(place.low)).all()
    assert env.observation_space.shape == (stop,)
    assert set(env.observation_layout) == set(LABEL_FEATURES)


def test_values_against_their_definitions(tiny: dict[str, Any]) -> None:
    """Each feature computed by hand after two steps."""
    features = [name for name in LABEL_FEATURES if name != "gradient_cosines" and not FEATURES[name].per_row]
    env = DistillEnv(**{**tiny, "features": features, "budget": 10}, action_view="box")
    env.reset(seed=0)
    env.step(env.decision.encode({"hard_label": 1.0}))
    observation, _, _, _, info = env.step(env.decision.encode({"hard_label": 0.5, "soft_label": 1.0}, gate=0.5))
    problem, state = env.problem, env.run.started()
    logits = env.predict(problem.feedback)[0].astype(np.float64)
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    expected: dict[str, Any] = {
        "progress": 0.4,
        "remaining_budget": 0.6,
        "learning_rate": 6 / 9,
        "term_losses": np.log1p(info["raw_losses"]),
        "term_losses_normalized": info["scaled_losses"],
        "gap": (info["loss"] - problem.teacher_loss) / state.gap_scale[0],
        "student_entropy": (-(p * np.log(p)).sum(-1) / np.log(2)).mean(),
        "agreement": (logits.argmax(-1) == problem.reference.feedback_logits.argmax(-1)).mean(),
        "feedback_metric": (logits.argmax(-1) == problem.feedback.labels).mean(),
        "previous_action": [0.5, 1.0, 0.0, 0.5],
    }
    rows = state.next_rows[0]
    teacher = torch.softmax(torch.as_tensor(problem.reference.train_logits[rows.ravel()]).double(), -1).numpy()
    expected["teacher_entropy"] = (-(teacher * np.log(np.maximum(teacher, 1e-300))).sum(-1) / np.log(2)).mean()
    batch = problem.train.gather(rows[0])
    with torch.no_grad():
        hidden = problem.reference.encoder.module(
            input_ids=batch.input_ids, attention_mask=batch.attention_mask.long(), output_hidden_states=True
        ).hidden_states[-1]
    q = torch.softmax(torch.as_tensor(env.predict(problem.train)[0][rows[0]]).double(), -1).numpy()
    expected["margin"] = np.abs(q[:, 0] - q[:, 1]).mean()
    expected["confidence"] = q.max(-1).mean()
    expected["length"] = (problem.train.lengths[rows[0]] / problem.train.lengths.max()).mean()
    expected["seen"] = 0.0  # 16 rows of one epoch
    expected["teacher_cls"] = hidden[:, 0].mean(0).numpy()
    for name, value in expected.items():
        np.testing.assert_allclose(part(env, observation, name), value, rtol=1e-4, atol=1e-5, err_msg=name)
    assert part(env, observation, "student_cls").shape == (8,)


def test_cls_describes_the_batch_that_the_next_action_is_applied_to(tiny: dict[str, Any]) -> None:
    """It changes from step to step although the student does not (the empty action)."""
    envs = DistillVectorEnv(2, **{**tiny, "features": ["teacher_cls", "student_cls"]})
    observation, _ = envs.reset(seed=0)
    seen = [observation]
    for _ in range(3):
        seen.append(envs.step(np.zeros((2, 3), np.int8))[0])
    for first, second in pairwise(seen):
        assert (np.abs(first - second) > 1e-6).any(axis=1).all()
    assert not np.array_equal(seen[0][0], seen[0][1]), "replicas have batches of their own"


def test_gradient_cosines_against_separate_backward_passes(tiny: dict[str, Any]) -> None:
    """Of the last batch before the update; identical terms have cosine 1."""
    terms = ["hard_label", {"name": "hard_label", "as": "again"}, "soft_label"]
    env = DistillEnv(**{**tiny, "features": ["gradient_cosines"], "terms": terms, "updates_per_step": 1})
    observation, _ = env.reset(seed=0)
    assert (observation == 0).all()
    problem, state = env.problem, env.run.started()
    batch = problem.train.gather(state.next_rows[0, 0])
    leaves = {name: p[0].clone().requires_grad_() for name, p in state.params.items()}
    logits = problem.student.forward(leaves, batch, ()).logits
    teacher = problem.reference.source.signals(state.next_rows[0, 0], batch, None).logits
    hard = torch.nn.functional.cross_entropy(logits, batch.labels)
    soft = torch.nn.functional.kl_div(
        torch.log_softmax(logits / 2, -1), torch.log_softmax(teacher / 2, -1), log_target=True, reduction="batchmean"
    )
    gradients = []
    for loss in (hard, soft):
        found = torch.autograd.grad(loss, list(leaves.values()), retain_graph=True, allow_unused=True)
        gradients.append(torch.cat([g.flatten() for g in found if g is not None]))
    expected = float(torch.nn.functional.cosine_similarity(gradients[0], gradients[1], dim=0))
    observation = env.step(np.ones(3, np.int8))[0]
    np.testing.assert_allclose(observation, [1.0, expected, expected], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("view", ["native", "box"])
def test_bounds_hold_at_the_end_and_after_divergence(view: str, tiny: dict[str, Any]) -> None:
    """A learning rate that blows up: every observation, the final one too, is finite and inside."""
    features = [name for name in LABEL_FEATURES if not FEATURES[name].per_row]
    wild = {"features": features, "learning_rate": 1e4, "optimizer": {"max_grad_norm": None}}
    envs = DistillVectorEnv(3, **{**tiny, **wild}, action_view=view)
    envs.action_space.seed(0)
    observation, _ = envs.reset(seed=0)
    for _ in range(12):
        assert np.isfinite(observation).all() and envs.observation_space.contains(observation)
        observation, rewards, ended, _, info = envs.step(envs.action_space.sample())
        assert np.isfinite(rewards).all()
        for index in np.flatnonzero(ended):
            assert envs.single_observation_space.contains(info["final_obs"][index])


def test_geometry_beside_a_teacher_that_learns(tiny: dict[str, Any]) -> None:
    """Its mean over a label is that of the batch, of each replica by itself."""
    learning = {"teacher_updates": "prokt", "teacher_source": "online", "decision": "sample_weighting"}
    learning |= {"updates_per_step": 1, "weighting": "sample"}
    envs = DistillVectorEnv(2, **{**tiny, **learning, "features": ["row_geometry"], "batch_size": 8})
    envs.reset(seed=0)
    observations, *_ = envs.step(envs.decision.lesson(np.ones((2, envs.batch_size), np.float32)))
    problem, state = envs.problem, envs.run.started()
    place, classes = envs.observation_layout["row_geometry"], problem.task.num_labels
    said, own = (
        torch.softmax(torch.as_tensor(logits).double(), -1).numpy()
        for logits in (envs.predict_teacher(problem.train), envs.predict(problem.train))
    )
    for replica, observation in enumerate(observations):
        rows = state.next_rows[replica, 0]
        labels, found = problem.train.labels[rows], observation[place.slice].reshape(place.shape)
        assert set(labels.tolist()) == {0, 1}
        for row, label, sides in zip(rows, labels, found, strict=True):
            gold, mean = np.eye(classes)[label], said[replica, rows[labels == label]].mean(0)
            teacher, student = said[replica, row], own[replica, row]
            expected = [student - gold, teacher - gold, student - teacher, mean - gold, student - mean]
            np.testing.assert_allclose(sides, np.concatenate(expected), atol=1e-5)
