"""Weighing teachers: every action counts and means what it says, and one teacher is the single-teacher environment."""

from __future__ import annotations

import dataclasses
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces

from kd_env import DistillEnv, DistillVectorEnv, build_problem
from kd_env.decisions.options import env_config
from kd_env.decisions.teacher_weighting.actions import TeacherWeightingActions
from kd_env.testing import check_environment

CASES = [(view, "batch") for view in ("native", "simplex", "subset", "discrete", "box")]
CASES += [(view, "sample") for view in ("native", "simplex", "subset", "box")]
PLAIN = {"term_scale": "none", "weight_normalization": "none"}


@pytest.fixture(scope="module")
def problem(tiny_set: dict[str, Any]) -> Any:
    """Three teachers in float64."""
    config = {**tiny_set, "decision": "teacher_weighting", "precision": "fp64", "updates_per_step": 1}
    return build_problem(env_config(**config))


def model(view: str, *, rows: int | None = None, gate: bool = True) -> TeacherWeightingActions:
    """Actions on three teachers and the terms hard_label, soft_label."""
    present = np.array([[True, True], [False, True], [False, True]])
    weighed = np.array([[False, True]] * 3)
    return TeacherWeightingActions(("a", "b", "c"), weighed, present, view, gate, rows)


# -- actions


@pytest.mark.parametrize(
    ("view", "action", "weights"),
    [
        ("simplex", [0.0, 0.0, 0.0], [1 / 3, 1 / 3, 1 / 3]),
        ("native", [1.0, -1.0, -1.0], np.exp([0.0, -8.0, -8.0]) / np.exp([0.0, -8.0, -8.0]).sum()),
        ("subset", [1, 0, 1], [0.5, 0.0, 0.5]),
        ("subset", [0, 0, 0], [0.0, 0.0, 0.0]),
        ("box", [1.0, -1.0, 0.0, 1.0], [1 / 3, 0.0, 1 / 6]),
        ("discrete", 0, [0.0, 0.0, 0.0]),
        ("discrete", 2, [0.0, 1.0, 0.0]),
        ("discrete", 4, [1 / 3, 1 / 3, 1 / 3]),
    ],
)
def test_weights_of_each_view(view: str, action: Any, weights: Any) -> None:
    """The table of the class: the weighed column has the weights, hard labels keep weight 1 in row 0 only."""
    effect = model(view).decode(np.asarray(action)[None])
    np.testing.assert_allclose(effect.weights[0, :, 1, 0], weights, atol=1e-6)
    np.testing.assert_array_equal(effect.weights[0, :, 0, 0], [1.0, 0.0, 0.0])
    assert effect.update_scale.tolist() == [1.0]


def test_rows_have_weights_of_their_own() -> None:
    """Components are row by row: the second three belong to the second row."""
    chosen = model("subset", rows=2)
    assert chosen.space == spaces.MultiBinary(6)
    effect = chosen.decode(np.array([[1, 0, 0, 0, 1, 1]]))
    assert effect.weights.shape == (1, 3, 2, 2)
    np.testing.assert_array_equal(effect.weights[0, :, 1].T, [[1.0, 0.0, 0.0], [0.0, 0.5, 0.5]])
    assert chosen.action_names[3] == "a[1]"
    gated = model("box", rows=2)
    assert gated.action_names[-1] == "gate" and gated.decode(np.zeros((1, 7))).update_scale.tolist() == [0.5]


@pytest.mark.parametrize(
    ("view", "action", "left"),
    [
        ("box", [1.0, -1.0, 0.0, 1.0], 0.5),
        ("box", [1.0, 1.0, 1.0, 1.0], 0.0),
        ("subset", [1, 0, 1], 0.0),
        ("subset", [0, 0, 0], 1.0),
        ("discrete", 0, 1.0),
    ],
)
def test_a_term_fills_what_the_teachers_leave(view: str, action: Any, left: float) -> None:
    """The weights of the teachers stay as they are."""
    chosen, plain = dataclasses.replace(model(view), fills=0), model(view)
    found, without = (one.decode(np.asarray(action)[None]) for one in (chosen, plain))
    np.testing.assert_allclose(found.weights[0, :, 0, 0], [left, 0.0, 0.0], atol=1e-7)
    np.testing.assert_array_equal(found.weights[:, :, 1], without.weights[:, :, 1])
    np.testing.assert_array_equal(found.update_scale, without.update_scale)


def test_every_row_is_filled_by_itself() -> None:
    chosen = dataclasses.replace(model("box", rows=2), fills=0)
    effect = chosen.effect([[[0.2, 0.1, 0.3], [0.9, 0.0, 0.0]]])
    np.testing.assert_allclose(effect.weights[0, 0, 0], [0.4, 0.1], atol=1e-7)
    assert (effect.weights[0, 1:, 0] == 0).all()
    over = chosen.effect([[[2.0, 1.0, 0.0], [1.0, 0.0, 0.0]]])  # a rule may give more than 1: nothing is left
    np.testing.assert_array_equal(over.weights[0, 0, 0], [0.0, 0.0])
    weights = np.array([[0.3, 0.0, 0.1], [0.0, 0.2, 0.3]])
    raw = chosen.encode(weights)
    np.testing.assert_allclose(chosen.decode(raw[None]).weights[0, 0, 0], 1 - weights.sum(-1), atol=1e-6)


@pytest.mark.parametrize("rows", [None, 2])
@pytest.mark.parametrize("view", ["simplex", "subset", "box"])
def test_encode_is_the_inverse_of_decode(view: str, rows: int | None) -> None:
    """For weights that the view can express."""
    chosen = model(view, rows=rows)
    row = {"simplex": [0.7, 0.2, 0.1], "subset": [0.5, 0.0, 0.5], "box": [0.3, 0.0, 0.1]}[view]
    weights = np.array(row) if rows is None else np.array([row, row[::-1]])
    raw = chosen.encode(weights)
    assert chosen.space.contains(raw)
    found = chosen.decode(raw[None]).weights[0, :, 1]
    np.testing.assert_allclose(found.T.squeeze(), weights, atol=1e-6)


@pytest.mark.parametrize(
    ("view", "weights", "message"),
    [
        ("simplex", [0.5, -0.1, 0.6], "A teacher weight is -0.1"),
        ("simplex", [0.5, float("nan"), 0.6], "A teacher weight is nan"),
        ("simplex", [0.0, 0.0, 0.0], "sum to zero"),
        ("simplex", {"d": 1.0}, "Unknown teacher 'd'"),
        ("simplex", [1.0, 1.0], r"shape \(2,\)"),
        ("subset", [0.7, 0.3, 0.0], "shares the weight equally"),
        ("discrete", [0.5, 0.5, 0.0], "each teacher alone"),
        ("box", [0.5, 0.0, 0.0], "from 0 to 1/T"),
    ],
)
def test_weights_that_cannot_be_are_refused(view: str, weights: Any, message: str) -> None:
    """Negative, NaN, sum zero, unknown teachers, and what a view cannot say."""
    with pytest.raises(ValueError, match=message):
        model(view).encode(weights)


def test_effects_are_checked() -> None:
    """What a rule says itself goes through the same checks."""
    for weights, message in (
        ([[1.0, float("inf"), 0.0]], "inf"),
        ([[1.0, 1.0]], "shape"),
        (0.5, "shape"),
        ([[-1.0, 1.0, 1.0]], "-1.0"),
    ):
        with pytest.raises(ValueError, match=message):
            model("simplex").effect(weights)
    np.testing.assert_array_equal(model("simplex").effect([[2.0, 0.0, 7.0]]).weights[0, :, 1, 0], [2.0, 0.0, 7.0])


# -- environments


@pytest.mark.parametrize(("view", "weighting"), CASES)
def test_conformance(view: str, weighting: str, tiny_set: dict[str, Any]) -> None:
    """Both checkers, finite observations inside their space, exact restore."""
    options = {**tiny_set, "updates_per_step": 1, "action_view": view, "weighting": weighting}
    check_environment(gym.make("kd_env/TeacherWeighting-v0", **options), steps=10)


def test_without_arguments_it_is_the_embedded_set() -> None:
    """Three packaged teachers, offline; here on few of its rows."""
    env = gym.make("kd_env/TeacherWeighting-v0", budget=4, max_train_rows=64, selection_rows=32)
    assert env.unwrapped.teacher_names == ("full", "narrow", "shallow")
    env.reset(seed=0)
    assert np.isfinite(env.step(env.action_space.sample())[1])


def _moved(problem: Any, view: str, weighting: str, action: np.ndarray, fills: str | None = None) -> np.ndarray:
    env = DistillEnv(problem=problem, action_view=view, weighting=weighting, features=["gap"], fills=fills, **PLAIN)
    env.reset(seed=3)
    env.step(action)
    return np.concatenate([p.flatten().numpy() for p in env.run.started().params.values()])


FILLED = [("box", "batch"), ("box", "sample"), ("subset", "sample"), ("discrete", "batch")]


@pytest.mark.parametrize(
    ("view", "weighting", "fills"),
    [*((*case, None) for case in CASES), *((*case, "hard_label") for case in FILLED)],
)
def test_every_component_of_the_action_changes_the_student(
    view: str, weighting: str, fills: str | None, problem: Any
) -> None:
    """One component at a time; in the discrete view every choice differs from every other."""
    options = {"action_view": view, "weighting": weighting, "features": ["gap"], "fills": fills}
    env = DistillEnv(problem=problem, **options, **PLAIN)
    space = env.action_space
    if isinstance(space, spaces.Discrete):
        ends = [_moved(problem, view, weighting, np.asarray(choice), fills) for choice in range(int(space.n))]
        assert len({end.tobytes() for end in ends}) == int(space.n)
        return
    base = np.ones(space.shape, space.dtype) if view == "subset" else np.full(space.shape, 0.2, space.dtype)
    before = _moved(problem, view, weighting, base, fills)
    for component in range(int(space.shape[0])):
        other = base.copy()
        other[component] = 0 if view == "subset" else 0.9
        change = np.abs(_moved(problem, view, weighting, other, fills) - before).max()
        assert change > 1e-9, f"component {component} ({env.action_names[component]}) changes nothing"


def test_one_teacher_is_the_single_teacher_environment_bit_for_bit(tiny: dict[str, Any]) -> None:
    """Weight 1 on the only teacher is knowledge selection with every term."""
    shared = {**tiny, "features": ["gap", "previous_action"], "updates_per_step": 1}
    ones = DistillEnv(**shared)
    one = DistillEnv(**shared, decision="teacher_weighting")
    for env in (ones, one):
        env.reset(seed=1)
    for _ in range(8):
        expected = ones.step(np.ones(3, np.int8))
        found = one.step(np.zeros(1, np.float32))
        np.testing.assert_array_equal(found[0], expected[0])
        assert found[1] == expected[1]
    for name, value in ones.run.started().params.items():
        assert torch.equal(value, one.run.started().params[name]), name


@pytest.mark.filterwarnings("ignore:The teacher's loss")
def test_all_weight_on_one_of_three_is_that_teacher_alone(tiny_set: dict[str, Any], tiny: dict[str, Any]) -> None:
    """The others' entries are computed, and weigh nothing."""
    shared = {**tiny, **PLAIN, "precision": "fp64", "terms": ["hard_label", "soft_label"], "features": ["gap"]}
    shared["teacher_check"] = "none"
    shared.pop("teacher")
    options = {"teachers": tiny_set["teachers"], "decision": "teacher_weighting", "action_view": "discrete"}
    three = DistillEnv(**shared, **options)
    for place, teacher in enumerate(tiny_set["teachers"]):
        alone = DistillEnv(**shared, teacher=teacher["path"])
        for env, action in ((alone, np.ones(2, np.int8)), (three, np.asarray(1 + place))):
            env.reset(seed=5)
            for _ in range(4):
                env.step(action)
        for name, value in alone.run.started().params.items():
            torch.testing.assert_close(three.run.started().params[name], value, rtol=1e-9, atol=1e-12)


def test_teachers_that_leave_everything_are_hard_labels_alone(problem: Any) -> None:
    """The lowest box action is a run on labels, the highest one on the plain average of the teachers."""
    shared = {"action_view": "box", "features": ["gap"], "gate": False, **PLAIN}
    filled = DistillEnv(problem=problem, fills="hard_label", weighs=["soft_label", "hidden_states"], **shared)
    only = DistillEnv(problem=problem, decision="knowledge_selection", features=["gap"], **PLAIN)
    for env in (filled, only):
        env.reset(seed=2)
        env.step(-np.ones(3, np.float32) if env is filled else env.decision.encode({"hard_label": 1.0}))
    for name, value in only.run.started().params.items():
        torch.testing.assert_close(filled.run.started().params[name], value, rtol=1e-9, atol=1e-12)
    info = filled.step(np.ones(3, np.float32))[4]
    np.testing.assert_array_equal(info["weights"][0], 0.0)  # hard labels


def test_the_empty_subset_is_hard_labels_only(problem: Any) -> None:
    """The terms that are not weighed train alone; without any the update is skipped."""
    weights = {"hard_label": 1.0}
    only = DistillEnv(problem=problem, decision="knowledge_selection", features=["gap"], **PLAIN)
    none = DistillEnv(
        problem=problem, action_view="subset", features=["gap"], weighs=["soft_label", "hidden_states"], **PLAIN
    )
    only.reset(seed=2), none.reset(seed=2)
    for _ in range(3):
        only.step(only.decision.encode(weights))
        info = none.step(np.zeros(3, np.int8))[4]
        assert not info["skipped"]
    for name, value in only.run.started().params.items():
        torch.testing.assert_close(none.run.started().params[name], value, rtol=1e-9, atol=1e-12)


def test_the_loss_table_by_hand(problem: Any) -> None:
    """Each teacher's entries against its own module; hard labels stand in row 0 only."""
    env = DistillEnv(problem=problem, features=["gap"], **PLAIN)
    assert env.problem.entry_names == (
        *("hard_label", "soft_label@right", "hidden_states@right"),
        *("soft_label@deep", "hidden_states@deep", "soft_label@wide", "hidden_states@wide"),
    )
    env.reset(seed=0)
    state = env.run.started()
    batch = problem.train.gather(state.next_rows[0, 0])
    params = {name: p[0].clone() for name, p in state.params.items()}
    student = problem.student.forward(params, batch, problem.student_signals)
    expected = [torch.nn.functional.cross_entropy(student.logits, batch.labels)]
    for teacher in problem.teachers:
        with torch.no_grad():
            out = teacher.encoder.module(
                input_ids=batch.input_ids, attention_mask=batch.attention_mask.long(), output_hidden_states=True
            )
        t, s = torch.log_softmax(out.logits / 2, -1), torch.log_softmax(student.logits / 2, -1)
        expected.append(4 * (t.exp() * (t - s)).sum(-1).mean())
        layers = []
        for own, other in teacher.pairs:
            mapped = student.hidden_states[own]
            weight = params.get(f"projections.hidden_states@{teacher.name}.layer_{own}")
            assert weight is not None, "the student is narrower than every teacher"
            distance = (mapped @ weight.T - out.hidden_states[other]).square().mean(-1)
            mask = batch.attention_mask
            layers.append((distance * mask).sum(-1) / mask.sum(-1))
        expected.append(torch.stack(layers).mean(0).mean())
    info = env.step(np.zeros(3, np.float32))[4]
    np.testing.assert_allclose(info["raw_losses"], [float(value) for value in expected], rtol=1e-5)


@pytest.mark.parametrize(("view", "weighting"), [("simplex", "batch"), ("subset", "sample"), ("box", "sample")])
def test_vector_equals_singles(view: str, weighting: str, problem: Any) -> None:
    """Three stacked students against three single ones, across their ends."""
    options = {"action_view": view, "weighting": weighting, "budget": 4}
    of_rows = ["row_student", "row_geometry"] if weighting == "sample" else []
    features = ["gap", "student_on_batch", "teacher_losses", *of_rows]
    envs = DistillVectorEnv(3, problem=problem, features=features, **options)
    singles = [DistillEnv(problem=problem, features=features, **options) for _ in range(3)]
    observation, _ = envs.reset(seed=10)
    own = [env.reset(seed=10 + place)[0] for place, env in enumerate(singles)]
    envs.action_space.seed(0)
    for _ in range(6):
        np.testing.assert_allclose(observation, np.stack(own), rtol=1e-5, atol=1e-6)
        actions = envs.action_space.sample()
        observation, reward, terminated, _, info = envs.step(actions)
        for place, env in enumerate(singles):
            own[place], single, ended, _, single_info = env.step(actions[place])
            np.testing.assert_allclose(reward[place], single, rtol=1e-9, atol=1e-12)
            assert ended == terminated[place]
            if ended:
                own[place] = env.reset()[0]
            elif weighting == "sample":
                np.testing.assert_allclose(info["row_weights"][place], single_info["row_weights"], rtol=1e-6)
                np.testing.assert_array_equal(info["rows"][place], single_info["rows"])


def test_padding_does_not_reach_any_teacher(tiny_set: dict[str, Any]) -> None:
    """Stacked students pad to the longest replica; a student alone takes the same path."""
    options = {**tiny_set, "decision": "teacher_weighting", "precision": "fp64", "features": ["gap"]}
    problem = build_problem(env_config(**options))
    shortest, longest = int(problem.train.lengths.argmin()), int(problem.train.lengths.argmax())
    rows, two = np.array([[shortest]]), np.array([[shortest, longest]])
    short, both = problem.train.gather(rows), problem.train.gather(two)
    for teacher in problem.teachers:
        alone = teacher.source.signals(rows, short, None).hidden_states  # type: ignore[arg-type]
        padded = teacher.source.signals(two, both, None).hidden_states  # type: ignore[arg-type]
        for layer, value in alone.items():
            length = value.shape[-2]
            torch.testing.assert_close(padded[layer][:, :1, :length], value)
            assert (padded[layer][:, 0, length:] == 0).all()


def test_rows_and_weights_in_info_are_those_of_the_action(problem: Any) -> None:
    """The rows that the observation described, with the weights that the action gave them."""
    env = DistillEnv(problem=problem, action_view="subset", weighting="sample", features=["row_teacher_losses"])
    env.reset(seed=0)
    rows = env.run.started().next_rows[0, 0].copy()
    action = env.action_space.sample()
    info = env.step(action)[4]
    np.testing.assert_array_equal(info["rows"], rows)
    chosen = action.reshape(-1, 3).T.astype(float)
    expected = np.divide(chosen, chosen.sum(0), out=np.zeros_like(chosen), where=chosen.sum(0) > 0)
    np.testing.assert_allclose(info["row_weights"], expected, rtol=1e-6)


def test_geometry_by_hand(problem: Any) -> None:
    """The sides of every triangle, row by row, from the student's and the teachers' probabilities."""
    env = DistillEnv(problem=problem, action_view="box", weighting="sample", features=["row_geometry", "geometry"])
    observation, _ = env.reset(seed=4)
    place = env.observation_layout["row_geometry"]
    labels, rows, classes = problem.train.labels, env.run.started().next_rows[0, 0], problem.task.num_labels
    assert place.shape == (len(rows), classes * (1 + 4 * 3)) and (place.low, place.high) == (-1.0, 1.0)
    found = observation[place.slice].reshape(place.shape)
    student = torch.softmax(torch.as_tensor(env.predict(problem.train))[0, rows].double(), -1).numpy()
    said = [torch.softmax(torch.as_tensor(t.train_logits).double(), -1).numpy() for t in problem.teachers]
    for place_of_row, row in enumerate(rows):
        gold, own = np.eye(classes)[labels[row]], student[place_of_row]
        expected = [own - gold]
        for teacher in said:
            mean = np.mean([teacher[other] for other in range(len(labels)) if labels[other] == labels[row]], axis=0)
            expected += [teacher[row] - gold, own - teacher[row], mean - gold, own - mean]
        np.testing.assert_allclose(found[place_of_row], np.concatenate(expected), atol=1e-5)
    batch = observation[env.observation_layout["geometry"].slice]
    np.testing.assert_allclose(batch, found.mean(0), atol=1e-6)


def test_features_by_hand(problem: Any) -> None:
    """Losses, entropies, confidence and agreement of the next batch, row by row and as means."""
    names = ["losses", "entropies", "confidences", "student_agreement", "agreement"]
    features = [f"row_teacher_{name}" for name in names] + [f"teacher_{name}" for name in names]
    features += ["row_student", "student_on_batch", "teacher_representations"]
    wide = build_problem(
        env_config(
            **{k: v for k, v in problem.config.to_dict().items() if k != "learning_rate"}
            | {"features": features, "weighting": "sample"}
        )
    )
    env = DistillEnv(problem=wide, budget=8)
    env.reset(seed=0)
    observation = env.step(np.zeros(env.action_space.shape, np.float32))[0]

    def value(name: str) -> np.ndarray:
        place = env.observation_layout[name]
        return observation[place.slice].reshape(place.shape)

    rows = env.run.started().next_rows[0, 0]
    labels = wide.train.labels[rows]
    student = env.predict(wide.train)[0][rows]
    logits = np.stack([teacher.train_logits[rows] for teacher in wide.teachers], axis=1).astype(np.float64)  # [B, T, C]
    p = torch.softmax(torch.as_tensor(logits), -1).numpy()
    gold = np.take_along_axis(p, labels[:, None, None], -1)[..., 0]
    guess = logits.argmax(-1)
    expected = {
        "losses": np.log1p(-np.log(gold)),
        "entropies": -(p * np.log(p)).sum(-1) / np.log(2),
        "confidences": gold,
        "student_agreement": guess == student.argmax(-1)[:, None],
        "agreement": np.stack([(np.delete(guess, t, 1) == guess[:, [t]]).mean(1) for t in range(3)], axis=1),
    }
    for name, wanted in expected.items():
        np.testing.assert_allclose(value(f"row_teacher_{name}"), wanted, rtol=1e-4, atol=1e-6, err_msg=name)
        np.testing.assert_allclose(value(f"teacher_{name}"), np.mean(wanted, 0), rtol=1e-4, atol=1e-6, err_msg=name)
    q = torch.softmax(torch.as_tensor(student).double(), -1).numpy()
    own = q[np.arange(len(rows)), labels]
    facts = np.stack([np.log1p(-np.log(own)), -(q * np.log(q)).sum(-1) / np.log(2), own], -1)
    np.testing.assert_allclose(value("row_student"), facts, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(value("student_on_batch"), facts.mean(0), rtol=1e-4, atol=1e-6)
    assert value("teacher_representations").shape == (16 + 16 + 24,)


def test_rl_kd_rewards_belong_to_the_action_that_caused_them(problem: Any) -> None:
    """The updated student on the rows of its own step: neither the student before the update, nor the next rows."""
    for reward in ("rl_kd_label", "rl_kd_distill", "rl_kd_accuracy"):
        env = DistillEnv(problem=problem, action_view="subset", weighting="sample", features=["gap"], reward=reward)
        env.reset(seed=6)
        rows = env.run.started().next_rows[0, 0].copy()
        before = env.predict(problem.train)[0][rows]
        action = np.zeros((4, 3), np.int8)
        action[:, 1], action[0, 2] = 1, 1
        action[3] = 0
        _, value, _, _, info = env.step(action.ravel())
        after = env.predict(problem.train)[0][rows]
        found = [_rl_kd(problem, reward, logits, rows, action, info["feedback_metric"]) for logits in (before, after)]
        np.testing.assert_allclose(value, found[1], rtol=1e-7)
        assert abs(found[0] - found[1]) > 1e-5, "the update changed nothing"


def _rl_kd(problem: Any, reward: str, logits: np.ndarray, rows: np.ndarray, action: np.ndarray, metric: float) -> float:
    log_s = torch.log_softmax(torch.as_tensor(logits).double(), -1).numpy()
    label = -np.mean([log_s[b, problem.train.labels[row]] for b, row in enumerate(rows)])
    distill = 0.0
    for b, row in enumerate(rows):
        for t, teacher in enumerate(problem.teachers):
            if action[b, t]:
                log_t = torch.log_softmax(torch.as_tensor(teacher.train_logits[row]).double(), -1).numpy()
                distill += (np.exp(log_t) * (log_t - log_s[b])).sum() / action[b].sum() / len(rows)
    return {
        "rl_kd_label": -label,
        "rl_kd_distill": -label - distill,
        "rl_kd_accuracy": (metric - label - distill) / 2,
    }[reward]


def test_a_student_that_is_its_own_teacher_is_not_told_of_others(problem: Any) -> None:
    """The control has nothing of the teachers, not even in the reward."""
    options = {**problem.config.to_dict(), "teacher_source": "student", "features": ["gap"], "terms": ["soft_label"]}
    own = build_problem(env_config(**options))
    values = []
    for reward in ("rl_kd_label", "rl_kd_distill"):
        env = DistillEnv(problem=own, reward=reward)
        env.reset(seed=1)
        values.append(env.step(np.zeros(3, np.float32))[1])
    assert values[0] == values[1] != 0.0


def test_rl_kd_reads_the_last_batch_that_was_trained(problem: Any) -> None:
    """Where the budget ends within a step, the batches behind it train nothing and earn nothing."""
    env = DistillEnv(problem=problem, updates_per_step=2, budget=3, features=["gap"], reward="rl_kd_label")
    env.reset(seed=2)
    for place in (1, 0):
        rows = env.run.started().next_rows[0, place].copy()
        value = env.step(np.zeros(3, np.float32))[1]
        label = torch.nn.functional.cross_entropy(
            torch.as_tensor(env.predict(problem.train)[0][rows]), torch.as_tensor(problem.train.labels[rows])
        )
        assert value == pytest.approx(-float(label), rel=1e-6)


# -- bad input


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"teachers": "twice"}, "Two teachers are named 'right'"),
        ({"teachers": []}, "teachers is empty"),
        ({"teachers": [{"name": "a"}]}, "a mapping with the texts name and path"),
        ({"teacher": "x"}, "are both given"),
        ({"weighting": "sample", "updates_per_step": 2}, "does not fit weighting='sample'"),
        ({"weighting": "sample", "action_view": "discrete", "updates_per_step": 1}, "chooses for a whole batch"),
        ({"weighs": ["hard_label"]}, "has no teacher to be weighed"),
        ({"weighs": ["soft"]}, "Did you mean 'soft_label'"),
        ({"fills": "hard_label"}, "fills='hard_label'.*view 'native'.*always sum to 1.*action_view='box'"),
        ({"fills": "hard_label", "action_view": "simplex"}, "view 'simplex'.*or leave fills out"),
        ({"fills": "hard_labl", "action_view": "box"}, "Did you mean 'hard_label'"),
        ({"fills": "soft_label", "action_view": "box"}, r"reads a teacher; name a term without one \(hard_label\)"),
        (
            {"fills": "soft_label", "action_view": "box", "terms": ["soft_label"]},
            r"none is among the terms: add hard_label",
        ),
        ({"decision": "knowledge_selection", "fills": "hard_label"}, "only for decision='teacher_weighting'"),
        ({"action_view": "simplx"}, "Did you mean 'simplex'"),
        ({"features": ["row_student"]}, "set weighting='sample'"),
        ({"decision": "knowledge_selection", "weighs": ["cls"]}, "only for decision='teacher_weighting'"),
        ({"decision": "teacher"}, "Did you mean 'teacher_weighting'"),
    ],
)
def test_bad_options_are_refused(change: dict[str, Any], message: str, tiny_set: dict[str, Any]) -> None:
    """With the value and the remedy, before any work."""
    if change.get("teachers") == "twice":
        change = {"teachers": [tiny_set["teachers"][0], tiny_set["teachers"][0]]}
    options = {**tiny_set, "decision": "teacher_weighting", **change}
    with pytest.raises(ValueError, match=message):
        DistillEnv(**options)


def test_teachers_of_other_labels_are_named_with_both_lists(tiny_set: dict[str, Any], tmp_path: Any) -> None:
    """A teacher of three classes among teachers of two."""
    from kd_env.models.pretrained import load_tokenizer
    from kd_env.testing import _random_bert

    _random_bert(45, 3, seed=0).save_pretrained(tmp_path / "three")
    load_tokenizer(tiny_set["teachers"][0]["path"]).save_pretrained(tmp_path / "three")
    teachers = [*tiny_set["teachers"], str(tmp_path / "three")]
    with pytest.raises(ValueError, match=r"three' has 3 labels \(LABEL_0, LABEL_1, LABEL_2\), the task 'custom' has 2"):
        DistillEnv(**{**tiny_set, "teachers": teachers, "decision": "teacher_weighting"})


def test_a_term_without_a_teacher_is_not_weighed_by_a_single_one_either(tiny: dict[str, Any]) -> None:
    """One teacher: the table alone does not show that the term has none."""
    options = {**tiny, "decision": "teacher_weighting", "weighs": ["hard_label"], "features": ["gap"]}
    with pytest.raises(ValueError, match="has no teacher to be weighed"):
        DistillEnv(**options)


def test_methods_of_the_other_decision_are_refused(problem: Any, tiny: dict[str, Any]) -> None:
    """Rules that were made for the other environment get a clear message."""
    with pytest.raises(ValueError, match="Unknown teacher 'soft_label'"):
        DistillEnv(problem=problem).decision.encode({"soft_label": 1.0})
    with pytest.raises(ValueError, match="'knowledge_selection' say every effect"):
        DistillEnv(**tiny).decision.effect([[1.0]])
