"""The evaluation protocol against one student at a time, and what happens to those that diverge."""

from __future__ import annotations

import json
import shutil
from typing import Any

import numpy as np
import pytest
import torch

from kd_env import DistillEnv, DistillVectorEnv, build_problem
from kd_env.core import metrics
from kd_env.data.loading import get_task, load_dev
from kd_env.decisions.options import env_config
from kd_env.envs.process import with_options
from kd_env.evaluation.judging.contenders import Contender
from kd_env.evaluation.judging.dev import check_dev, check_dev_lengths
from kd_env.evaluation.judging.protocol import evaluate_policies
from kd_env.evaluation.judging.results import SELECTION
from kd_env.evaluation.reports.report import summarize
from kd_env.evaluation.reports.report_files import to_json
from kd_env.numerics.losses import log_softmax

SEEDS = (100, 103, 107)


class Cycle:
    """Takes the terms in turn; knows its step from the episode starts alone."""

    def __init__(self, env: Any, first: int = 0, break_at: tuple[int, int] | None = None) -> None:
        self.env, self.first, self.break_at = env, first, break_at

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = False
    ) -> Any:
        steps = np.where(episode_start, 0, 0 if state is None else state)
        if self.break_at is not None and state is not None and steps.max() == self.break_at[1]:
            broken = self.env.get_state()
            with torch.no_grad():
                broken.run.params["classifier.weight"][self.break_at[0]] = float("nan")
            self.env.set_state(broken)
        names = self.env.term_names
        actions = [self.env.decision.encode({names[(self.first + int(s)) % len(names)]: 1.0}) for s in steps]
        return np.stack(actions), steps + 1


def cross_entropy(logits: np.ndarray, labels: np.ndarray) -> float:
    """A slow, obvious version."""
    losses = [
        np.log(np.exp(row - row.max()).sum()) + row.max() - row[label]
        for row, label in zip(logits, labels, strict=True)
    ]
    return float(np.mean(losses))


def calibrated(logits: np.ndarray, rows: Any, fitted_on: np.ndarray) -> np.ndarray:
    """Logits over the temperature that is best on feedback rows, by Platt's labels: a slow, obvious version."""
    count, classes = fitted_on.shape
    target = np.full((count, classes), 1 / (count + classes))
    target[np.arange(count), rows.labels] = (count + 1) / (count + classes)
    low, high = 0.05, 20.0
    for _ in range(3):  # a finer grid around the best of the last one
        grid = np.exp(np.linspace(np.log(low), np.log(high), 401))
        place = int(np.argmin([-(target * log_softmax(fitted_on / t)).sum(-1).mean() for t in grid]))
        low, high = grid[max(place - 1, 0)], grid[min(place + 1, 400)]
    return logits / grid[place]


def test_equals_students_distilled_one_by_one(tiny_problem: Any) -> None:
    feedback = tiny_problem.feedback
    evaluation = evaluate_policies(
        tiny_problem, {"cycle": Contender(Cycle), "other": Contender(lambda env: Cycle(env, 1))}, SEEDS
    )
    dev = load_dev(tiny_problem.task, tiny_problem.config.data_dir)
    assert evaluation.dev_splits == tuple(dev) == ("validation",)
    tables = {"validation": tiny_problem.tokenize(dev["validation"]), SELECTION: tiny_problem.selection}
    result = evaluation.policies["cycle"]
    for split, table in tables.items():
        taught = tiny_problem.teacher_logits(table)
        teacher = calibrated(taught, feedback, tiny_problem.reference.feedback_logits)
        teacher_loss = cross_entropy(teacher, table.labels)
        assert evaluation.teacher[split]["loss"] == pytest.approx(teacher_loss, rel=1e-4)
        for index, seed in enumerate(SEEDS):
            env = DistillEnv(problem=tiny_problem)
            env.reset(seed=seed)
            fresh, at_reset = env.predict(table)[0], env.predict(feedback)[0]
            before = cross_entropy(calibrated(fresh, feedback, at_reset), table.labels)
            ended, total, step = False, 0.0, 0
            while not ended:
                name = env.term_names[step % len(env.term_names)]
                _, reward, ended, _, _ = env.step(env.decision.encode({name: 1.0}))
                total, step = total + reward, step + 1
            logits = env.predict(table)[0]
            after = cross_entropy(calibrated(logits, feedback, env.predict(feedback)[0]), table.labels)
            scores = result.splits[split]
            assert scores.loss[index] == pytest.approx(after, rel=1e-4)
            gap = max(before - teacher_loss, 0.05 * before)
            assert scores.gap_closed[index] == pytest.approx((before - after) / gap, rel=1e-3, abs=1e-3)
            assert scores.floored[index] == (before - teacher_loss < 0.05 * before)
            raw = cross_entropy(logits, table.labels)
            assert scores.raw_loss[index] == pytest.approx(raw, rel=1e-6)
            raw_before = cross_entropy(fresh, table.labels)
            raw_gap = max(raw_before - evaluation.teacher[split]["loss"], 0.05 * raw_before)
            assert scores.raw_gap_closed[index] == pytest.approx((raw_before - raw) / raw_gap, rel=1e-5)
            guesses = logits.argmax(-1)
            assert scores.metrics["accuracy"][index] == pytest.approx((guesses == table.labels).mean())
            np.testing.assert_array_equal(scores.predictions[index], guesses)
            assert result.returns[index] == pytest.approx(total, rel=1e-6)
    assert result.weights.shape == (4, len(SEEDS), 3)
    np.testing.assert_array_equal(result.weights[:, 0], np.eye(3)[[0, 1, 2, 0]])
    np.testing.assert_allclose(result.mean_weights, [0.5, 0.25, 0.25])
    best = min(("cycle", "other"), key=lambda name: evaluation.policies[name].splits[SELECTION].loss.mean())
    assert evaluation.comparator == best


def test_a_diverged_student_is_the_worst_end_and_disturbs_no_other(tiny_problem: Any) -> None:
    evaluation = evaluate_policies(
        tiny_problem, {"whole": Contender(Cycle), "broken": Contender(lambda env: Cycle(env, break_at=(1, 2)))}, SEEDS
    )
    whole, broken = evaluation.policies["whole"], evaluation.policies["broken"]
    assert broken.diverged.tolist() == [False, True, False]
    for split in (SELECTION, "validation"):
        assert broken.splits[split].gap_closed[1] == pytest.approx(-1.0)
        assert np.isfinite(broken.splits[split].loss).all()
        for index in (0, 2):
            assert broken.splits[split].loss[index] == pytest.approx(whole.splits[split].loss[index], rel=1e-9)
    assert broken.returns[1] == pytest.approx(-1.0) or broken.returns[1] < -1.0 + 1e-9
    assert np.isnan(broken.weights[3, 1]).all() and not np.isnan(broken.weights[3, 0]).any()
    assert np.isfinite(broken.weights_over_time).all()


def test_skipped_steps_count_as_weight_zero(tiny_problem: Any) -> None:
    class Nothing(Cycle):
        def predict(self, observation: Any, *_: Any, **__: Any) -> Any:
            return np.stack([self.env.decision.encode({"hard_label": 1.0}, 0.0)] * len(observation)), None

    evaluation = evaluate_policies(tiny_problem, {"nothing": Contender(Nothing, "box")}, SEEDS)
    result = evaluation.policies["nothing"]
    assert result.action_view == "box"
    assert result.mean_weights.tolist() == [0.0, 0.0, 0.0]
    np.testing.assert_allclose(result.splits["validation"].gap_closed, 0.0, atol=1e-12)


def test_the_comparator_is_a_rule_without_extra_labels(tiny_problem: Any) -> None:
    only = {"agent": Contender(Cycle, learned=True)}
    assert evaluate_policies(tiny_problem, only, SEEDS[:1]).comparator is None
    contenders = {**only, "wide": Contender(Cycle, problem=tiny_problem, extra_labels=True), "rule": Contender(Cycle)}
    assert evaluate_policies(tiny_problem, contenders, SEEDS[:1]).comparator == "rule"


def test_regression_uses_the_squared_error_over_the_range(tiny_regression: dict[str, Any]) -> None:
    from kd_env import build_problem

    problem = build_problem(env_config(**tiny_regression))
    evaluation = evaluate_policies(problem, {"cycle": Contender(Cycle)}, SEEDS)
    scores = evaluation.policies["cycle"].splits["validation"]
    labels = evaluation.labels["validation"]
    expected = ((scores.predictions - labels) ** 2).mean(-1) / 4.0**2
    np.testing.assert_allclose(scores.loss, expected, rtol=1e-5)
    want = metrics.compute(["pearson"], scores.predictions[0], labels)["pearson"]
    assert scores.metrics["pearson"][0] == pytest.approx(want)


def test_temperatures_are_closed_to_dev(tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Other dev labels change scores on dev, but no temperature; with ``gap=labels`` there is none."""
    problem = build_problem(env_config(**tiny))
    first = evaluate_policies(problem, {"cycle": Contender(Cycle)}, SEEDS)
    found = first.policies["cycle"]
    assert ((found.temperature >= 0.05) & (found.temperature <= 20.0)).all()
    assert len(set(found.temperature)) == len(SEEDS)
    from kd_env.evaluation.judging import tables

    def other(*args: Any) -> Any:
        return {split: rows._replace(labels=1 - rows.labels) for split, rows in load_dev(*args).items()}

    monkeypatch.setattr(tables, "load_dev", other)
    second = evaluate_policies(problem, {"cycle": Contender(Cycle)}, SEEDS).policies["cycle"]
    np.testing.assert_array_equal(second.temperature, found.temperature)
    assert (second.splits["validation"].loss != found.splits["validation"].loss).all()
    plain = evaluate_policies(with_options(problem, gap="labels"), {"cycle": Contender(Cycle)}, SEEDS).policies["cycle"]
    np.testing.assert_array_equal(plain.temperature, 1.0)
    scores = plain.splits["validation"]
    np.testing.assert_array_equal(scores.loss, scores.raw_loss)
    np.testing.assert_array_equal(scores.loss, second.splits["validation"].raw_loss)


def test_rows_that_were_trained_on_fit_no_temperature(tiny: dict[str, Any]) -> None:
    """Students of train + feedback get theirs from the selection split, and so do reports of shuffled feedback."""
    for options in ({"train_on": "train+feedback"}, {"feedback_labels": "shuffled"}):
        problem = build_problem(env_config(**{**tiny, **options}))
        assert problem.calibration is problem.selection
        assert problem.temperature == problem.reference.temperature


def test_bad_input(tiny_problem: Any, tmp_path: Any) -> None:
    with pytest.raises(ValueError, match="no policy"):
        evaluate_policies(tiny_problem, {}, SEEDS)
    with pytest.raises(ValueError, match="all different"):
        evaluate_policies(tiny_problem, {"cycle": Contender(Cycle)}, (1, 1))
    (tmp_path / "mrpc").mkdir()
    with pytest.raises(ValueError, match="validation"):
        check_dev(get_task("mrpc"), str(tmp_path))


def test_reports_compute_what_the_reward_is_about(tiny: dict[str, Any]) -> None:
    """With ``gap=divergence`` the loss on dev is the KL from the teacher there, and the reference is 0."""
    config = env_config(**{**tiny, "terms": ["soft_label"]}, gap="divergence")
    problem = build_problem(config)
    result = evaluate_policies(problem, {"all": Contender(Cycle)}, SEEDS)
    assert result.teacher["validation"]["loss"] == 0.0
    envs = DistillVectorEnv(len(SEEDS), problem=problem, autoreset_mode="disabled")
    envs.reset(seed=list(SEEDS))
    ended = np.zeros(len(SEEDS), dtype=bool)
    while not ended.any():
        ended = envs.step(np.ones((len(SEEDS), 1), np.int8))[2]
    table = problem.tokenize(load_dev(problem.task, config.data_dir)["validation"])
    p = torch.softmax(torch.as_tensor(problem.teacher_logits(table)).double(), -1)
    log_q = torch.log_softmax(torch.as_tensor(envs.predict(table)).double(), -1)
    expected = (p * (p.log() - log_q)).sum(-1).mean(-1)
    np.testing.assert_allclose(result.policies["all"].splits["validation"].loss, expected, rtol=1e-5)


def test_students_with_dropout_are_judged_one_at_a_time(tiny: dict[str, Any]) -> None:
    problem = build_problem(env_config(**{**tiny, "student": {**tiny["student"], "dropout": 0.2}}))

    class Coin(Cycle):
        rng = np.random.default_rng(0)

        def predict(self, observation: Any, *rest: Any, **options: Any) -> Any:
            return self.rng.integers(2, size=(len(observation), len(self.env.term_names))).astype(np.int8), None

    made: list[Any] = []

    def coin(env: Any) -> Coin:
        made.append(env)
        return Coin(env)

    evaluation = evaluate_policies(problem, {"cycle": Contender(Cycle), "coin": Contender(coin)}, SEEDS)
    result = evaluation.policies["cycle"]
    table = problem.tokenize(load_dev(problem.task, problem.config.data_dir)["validation"])
    assert result.weights.shape == (4, len(SEEDS), 3) and result.update_scale.shape == (4, len(SEEDS))
    for index, seed in enumerate(SEEDS):
        env = DistillEnv(problem=problem)
        env.reset(seed=seed)
        for step in range(4):
            env.step(env.decision.encode({env.term_names[step % 3]: 1.0}))
        guesses = env.predict(table)[0].argmax(-1)
        np.testing.assert_array_equal(result.splits["validation"].predictions[index], guesses)
        loss = cross_entropy(env.predict(table)[0], table.labels)
        assert result.splits["validation"].raw_loss[index] == pytest.approx(loss, rel=1e-5)
    assert len(made) == 1, "a policy made anew for each student would draw the same for all"
    weights = evaluation.policies["coin"].weights
    assert not np.array_equal(weights[:, 0], weights[:, 1])


def test_dev_rows_longer_than_the_positions_are_found_early(
    tiny: dict[str, Any], tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Train rows fit; only dev has a row that the encoders cannot read."""
    data = tmp_path / "data"
    shutil.copytree(tiny["data_dir"], data)
    with open(data / "validation.jsonl", "a", encoding="utf-8") as file:
        file.write(json.dumps({"text": "w1 " * 99, "label": 0}) + "\n")
    problem = build_problem(env_config(**{**tiny, "data_dir": str(data), "max_length": 500}))
    positions = problem.student.module.config.max_position_embeddings
    for check in (check_dev_lengths, lambda p: evaluate_policies(p, {"cycle": Contender(Cycle)}, SEEDS)):
        with pytest.raises(ValueError, match=rf"validation split: .* tokens.*max_length={positions}"):
            check(problem)
    check_dev_lengths(build_problem(env_config(**{**tiny, "max_length": 500})))
    cut = build_problem(env_config(**{**tiny, "data_dir": str(data), "max_length": positions}))
    monkeypatch.setattr("kd_env.evaluation.judging.tables.load_dev", lambda *_: pytest.fail("no row needs to be read"))
    check_dev_lengths(cut)


def test_share_of_rows_that_follow_the_best_teacher(tiny_set: dict[str, Any]) -> None:
    """Exact weights on the best teacher give 1, the plain average 1 / T, and the report shows both."""
    options = {**tiny_set, "decision": "teacher_weighting", "weighting": "sample", "updates_per_step": 1, "budget": 3}
    problem = build_problem(env_config(**{**options, "features": ["row_teacher_losses"]}))

    class Best:
        def __init__(self, env: DistillVectorEnv) -> None:
            self.env, self.place = env, env.observation_layout["row_teacher_losses"]

        def predict(self, observation: Any, **_: Any) -> tuple[Any, None]:
            losses = observation[:, self.place.slice].reshape(-1, *self.place.shape)
            return self.env.decision.effect(losses == losses.min(-1, keepdims=True)), None

    class Average(Best):
        def predict(self, observation: Any, **_: Any) -> tuple[Any, None]:
            return np.zeros((len(observation), 12), np.float32), None

    found = evaluate_policies(problem, {"best": Contender(Best), "average": Contender(Average)}, [1, 2])
    np.testing.assert_allclose(found.policies["best"].measures[0].values, 1.0)
    np.testing.assert_allclose(found.policies["average"].measures[0].values, 1 / 3)
    report = summarize(found, replicates=10)
    assert "best teacher followed" in report.header
    assert to_json(report)["policies"][0]["seeds"]["followed"] == [1.0, 1.0]
