"""Do weights tell right labels from wrong ones: the number, the truth that nobody else sees, reports, controls."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import kd_env
from agents import make_rule
from kd_env import DistillVectorEnv, build_problem
from kd_env.core.metrics import auc
from kd_env.data.label_noise import add_label_noise, replaced_rows, shuffle_labels
from kd_env.data.loading import load_train
from kd_env.decisions.options import env_config
from kd_env.decisions.sample_weighting.measures import RightRows, wrong_rows
from kd_env.evaluation.comparing import report as compare_report
from kd_env.evaluation.comparing.compare import compare
from kd_env.evaluation.comparing.runs import Run
from kd_env.evaluation.comparing.words import plain_words as compare_words
from kd_env.evaluation.judging.contenders import Contender
from kd_env.evaluation.judging.protocol import choose_comparator, evaluate_policies
from kd_env.evaluation.reports import report, report_files, words


def by_pairs(larger: np.ndarray, smaller: np.ndarray) -> float:
    """Slow and obvious."""
    wins = [1.0 if a > b else 0.5 if a == b else 0.0 for a in larger for b in smaller]
    return float(np.mean(wins))


# -- the number


@pytest.mark.parametrize("seed", range(6))
def test_auc_equals_all_pairs_and_scikit_learn(seed: int) -> None:
    from sklearn.metrics import roc_auc_score

    rng = np.random.default_rng(seed)
    larger, smaller = rng.normal(0.4, size=37), rng.normal(size=23)
    if seed % 2:  # many ties
        larger, smaller = np.round(larger), np.round(smaller)
    found = auc(larger, smaller)
    assert found == pytest.approx(by_pairs(larger, smaller), abs=1e-12)
    truth = np.repeat([1, 0], [37, 23])
    assert found == pytest.approx(roc_auc_score(truth, np.concatenate([larger, smaller])), abs=1e-12)
    assert auc(smaller, larger) == pytest.approx(1 - found, abs=1e-12)


def test_auc_at_its_ends() -> None:
    assert auc(np.array([2.0, 1.0]), np.array([0.0, 0.5])) == 1.0 and auc(np.zeros(3), np.ones(2)) == 0.0
    assert auc(np.ones(3), np.ones(4)) == 0.5
    assert auc(np.zeros(0), np.ones(2)) == auc(np.ones(2), np.zeros(0)) == 0.5


def test_weights_are_collected_by_student_and_skipped_updates_left_out() -> None:
    wrong = np.array([False, True, False, True])
    found = RightRows(wrong, 3)
    running, skipped = np.array([True, True, False]), np.zeros(3, dtype=bool)
    rows, weights = np.array([[0, 1], [2, 3], [0, 3]]), np.array([[2.0, 0.5], [0.0, 1.0], [0, 0]])
    found.add({"rows": rows, "row_weights": weights[:, None], "skipped": skipped}, running)
    found.add({"rows": rows, "row_weights": weights[:, None] + 9.0, "skipped": ~skipped}, running)
    rows, weights = np.array([[2, 3], [1, 0], [1, 2]]), np.array([[0.5, 1.0], [0.5, 0.5], [0, 0]])
    found.add({"rows": rows, "row_weights": weights[:, None], "skipped": skipped}, running)
    expected = [
        by_pairs(np.array([2.0, 0.5]), np.array([0.5, 1.0])),
        by_pairs(np.array([0.0, 0.5]), np.array([1.0, 0.5])),
    ]
    np.testing.assert_allclose(found.values(), [*expected, 0.5])
    over_time = [[1.5, -1.0, np.nan], [0.0, 0.0, np.nan], [-0.5, 0.0, np.nan]]  # right minus wrong
    np.testing.assert_allclose(found.over_time(), over_time)


# -- the truth


def noisy(tiny: dict[str, Any], **changes: Any) -> Any:
    rows = {"decision": "sample_weighting", "updates_per_step": 1, "budget": 6, "features": ["progress"]}
    return build_problem(env_config(**{**tiny, **rows, "label_noise": 0.3, "batch_size": 8, **changes}))


@pytest.mark.parametrize("train_on", ["train", "train+feedback"])
def test_wrong_rows_are_those_whose_label_was_replaced(train_on: str, tiny: dict[str, Any]) -> None:
    problem = noisy(tiny, train_on=train_on, split_seed=3)
    official, cut = load_train(problem.task, tiny["data_dir"]).labels, problem.splits
    rows = cut.train if train_on == "train" else np.concatenate([cut.train, cut.feedback])
    found = wrong_rows(problem)
    assert found is not None and found.sum() == round(0.3 * len(cut.train))
    np.testing.assert_array_equal(found, problem.train.labels != official[rows])


def test_there_is_no_truth_where_nothing_is_noisy_or_no_row_weighed(tiny: dict[str, Any]) -> None:
    assert wrong_rows(noisy(tiny, label_noise=0.0)) is None
    terms = DistillVectorEnv(1, problem=noisy(tiny, decision="knowledge_selection"))
    assert terms.decision.measures(terms.problem, 1) == ()


@pytest.mark.parametrize("classes", [2, 5])
def test_replaced_rows_are_those_of_the_noise(classes: int) -> None:
    labels, rows = np.random.default_rng(0).integers(classes, size=300), np.arange(40, 290)
    changed = np.flatnonzero(add_label_noise(labels, rows, 0.37, classes, seed=5) != labels)
    np.testing.assert_array_equal(np.sort(replaced_rows(rows, 0.37, seed=5)), changed)


def test_the_truth_reaches_no_policy(tiny: dict[str, Any]) -> None:
    """Without the cut nobody can say which labels were replaced, and everything that policies see is the same."""
    problem, hidden = (noisy(tiny, features=["row_student", "row_teacher_losses", "row_influence"]) for _ in range(2))
    assert wrong_rows(hidden) is not None
    hidden.splits, hidden.assets = None, hidden.assets._replace(splits=None)
    envs = [DistillVectorEnv(2, problem=one) for one in (problem, hidden)]
    found = [env.reset(seed=0) for env in envs]
    for _ in range(3):
        (observation, info), (again, other) = ((each[0], each[-1]) for each in found)
        np.testing.assert_array_equal(again, observation)
        assert set(other) == set(info)
        for name in info:
            np.testing.assert_array_equal(other[name], info[name])
        np.testing.assert_array_equal(envs[0].row_influence(), envs[1].row_influence())
        actions = envs[0].action_space.sample()
        found = [env.step(actions) for env in envs]


def test_only_reports_ask_which_labels_were_replaced() -> None:
    root = Path(kd_env.__file__).parent
    readers = {str(path.relative_to(root)) for path in root.rglob("*.py") if "replaced_rows" in path.read_text("utf-8")}
    assert readers == {"data/label_noise.py", "decisions/sample_weighting/measures.py"}


# -- reports


class Oracle:
    """Weights by the truth: 1 for right rows, 0 for wrong ones, or the other way round; uniform where None."""

    def __init__(self, env: DistillVectorEnv, right: float | None) -> None:
        self.env, self.right = env, right

    def predict(self, observation: Any, **_: Any) -> tuple[Any, None]:
        wrong = wrong_rows(self.env.problem)
        assert wrong is not None
        rows = self.env.run.started().next_rows[:, 0]
        weights = np.ones(rows.shape) if self.right is None else np.where(wrong[rows], 1 - self.right, self.right)
        return self.env.decision.effect(weights), None


@pytest.fixture(scope="module")
def evaluation(tiny: dict[str, Any]) -> Any:
    made = {name: (lambda env, right=right: Oracle(env, right)) for name, right in (("knows", 1.0), ("not", 0.0))}
    contenders = {name: Contender(factory) for name, factory in made.items()}
    agent = Contender(lambda env: Oracle(env, None), learned=True)
    return evaluate_policies(noisy(tiny), {"agent": agent, **contenders}, [1, 2])


def test_an_evaluation_says_how_rows_were_told_apart(evaluation: Any) -> None:
    found = {name: result.measures[0].values.tolist() for name, result in evaluation.policies.items()}
    assert found == {"agent": [0.5, 0.5], "knows": [1.0, 1.0], "not": [0.0, 0.0]}
    shown = report.summarize(evaluation, replicates=10)
    place = shown.header.index("AUC of right rows")
    assert [shown.cells(row)[place] for row in shown.rows][1] == "1.000 [1.000, 1.000]"
    assert all(len(shown.cells(row)) == len(shown.header) for row in shown.rows)
    assert "| AUC of right rows |" in report_files.markdown_table(shown)
    plain = report_files.to_json(shown)
    assert plain["policies"][2]["right_rows_auc"]["mean"] == 0.0
    assert plain["policies"][2]["seeds"]["right_rows_auc"] == [0.0, 0.0]
    lines = [
        line for line in csv.DictReader(io.StringIO(report_files.to_csv(shown))) if line["measure"] == "right_rows_auc"
    ]
    assert [(line["policy"], float(line["mean"]), line["units"]) for line in lines] == [
        *(("agent", 0.5, "2"), ("knows", 1.0, "2"), ("not", 0.0, "2"))
    ]


def test_a_comparison_has_an_interval_over_trainings(evaluation: Any) -> None:
    runs = []
    for seed, value in enumerate((0.7, 0.8, 0.9)):
        results = json.loads(json.dumps(report_files.to_json(report.summarize(evaluation, replicates=10))))
        results["policies"][0]["seeds"]["right_rows_auc"] = [value - 0.05, value + 0.05]
        runs.append(Run(f"run{seed}", "agent", "none", range(100 * seed, 100 * seed + 4), results))
    found = compare(runs)
    interval = found.entry("agent").measures["right_rows_auc"]
    assert (interval.mean, interval.units) == (pytest.approx(0.8), 3)
    assert 0 < interval.low < 0.5 and 0.9 < interval.high < 1  # a probability
    text = compare_report.markdown(found)
    assert "AUC of right rows" in text and f"0.800 [{interval.low:.3f}, {interval.high:.3f}]" in text
    lines = list(csv.DictReader(io.StringIO(compare_report.to_csv(found))))
    (line,) = (one for one in lines if (one["policy"], one["measure"]) == ("agent", "right_rows_auc"))
    assert (float(line["mean"]), line["unit"]) == (pytest.approx(0.8), "training")


def test_a_bound_is_shown_and_is_nobodys_rival(evaluation: Any) -> None:
    """The one that knows is the best on every split, and it is neither comparator nor best rule nor tested."""
    policies = {name: replace(one, bound=name == "knows") for name, one in evaluation.policies.items()}
    best = policies["knows"].splits
    for name, result in policies.items():  # whatever these few updates gave
        for split, scores in result.splits.items() if name != "knows" else ():
            worse = {"gap_closed": best[split].gap_closed - 0.5, "loss": best[split].loss + 0.5}
            result.splits[split] = replace(scores, **worse, floored=np.zeros(2, dtype=bool))
    assert choose_comparator(policies.values()) == "not"
    shown = report.summarize(replace(evaluation, policies=policies, comparator="not"), replicates=10)
    assert shown.best_rule == "not" and set(shown.to_rules["agent"]) == {"not"} and "knows" not in shown.headline
    row = next(row for row in shown.rows if row.bound)
    assert row.policy == "knows" and shown.cells(row)[0] == "knows ^" and row.difference["validation"] is not None
    assert set(row.holm_p.values()) == {None} and "knows" not in shown.detectable
    assert words.plain_words(shown).count("^ marks a bound") == 1
    plain = json.loads(json.dumps(report_files.to_json(shown)))
    assert [line.get("bound") for line in plain["policies"]] == [None, True, None]

    runs = [Run(f"run{seed}", "agent", "none", range(100 * seed, 100 * seed + 4), plain) for seed in range(2)]
    found = compare(runs)
    assert found.best_rule == "not" and [entry.policy for entry in found.entries if entry.bound] == ["knows"]
    assert {one.second for one in found.to_rules} == {"not"} and {one.second for one in found.to_bounds} == {"knows"}
    assert [one.holm_p for one in found.to_rules] == [one.difference.p_value for one in found.to_rules]
    assert "'not'" in found.headline and "knows" not in found.headline
    text = compare_report.markdown(found)
    assert "| knows ^ |" in text and "Differences to bounds" in text and "agent - knows" in text
    assert compare_words(found).count("^ marks a bound") == 1
    csv_lines = list(csv.DictReader(io.StringIO(compare_report.to_csv(found))))
    assert any((line["policy"], line["minus"]) == ("agent", "knows") for line in csv_lines)


def test_clean_labels_have_no_such_column(tiny: dict[str, Any]) -> None:
    clean = evaluate_policies(noisy(tiny, label_noise=0.0), {"u": Contender(lambda e: make_rule("uniform", e))}, [1, 2])
    shown = report.summarize(clean, replicates=10)
    assert clean.policies["u"].measures == () and "AUC of right rows" not in shown.header


# -- controls


def auc_of_lgtm(**options: Any) -> float:
    """On the embedded task with 30% wrong labels, a student with the encoder of the teacher, 12 updates."""
    soft = {"name": "soft_label", "temperature": 1.0}
    plain = {
        **{"decision": "sample_weighting", "terms": ["hard_label", soft], "term_scale": "none", "budget": 12},
        **{"student": {"init": "teacher", "num_hidden_layers": 2}, "label_noise": 0.3, "features": ["progress"]},
        **{"learning_rate": 0.001, "max_train_rows": 320, "evaluation_rows": 32},
        "influence": {"optimizer": "sgd", "clip": False},
    }
    problem = build_problem(env_config(**{**plain, **options}))
    wrong = wrong_rows(problem)
    assert wrong is not None
    env, found = DistillVectorEnv(1, problem=problem, autoreset_mode="disabled"), RightRows(wrong, 1)
    rule, (observation, _) = make_rule("lgtm", env), env.reset(seed=0)
    for _ in range(12):
        observation, *_, info = env.step(rule.predict(observation)[0])
        found.add(info, np.ones(1, dtype=bool))
    return float(found.values()[0])


def test_lgtm_finds_the_wrong_rows_through_their_labels_and_the_feedback_alone() -> None:
    assert auc_of_lgtm() > 0.9
    soft = {"name": "soft_label", "temperature": 1.0}
    assert abs(auc_of_lgtm(terms=[soft]) - 0.5) < 0.1, "without gold labels in the loss, wrong ones cannot matter"


@pytest.mark.filterwarnings("ignore:The teacher's loss:UserWarning")
def test_lgtm_does_not_find_them_by_shuffled_feedback() -> None:
    """Labels that say nothing ask for a student that is sure of nothing, which wrong rows make it: 0.5 at most."""
    assert auc_of_lgtm(feedback_labels="shuffled") < 0.6


@pytest.mark.parametrize("seed", range(5))
def test_shuffled_labels_say_nothing(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels, rows = rng.choice(3, size=200, p=[0.6, 0.3, 0.1]), rng.permutation(200)[:120]
    found = shuffle_labels(labels, rows, seed)
    rest = np.setdiff1d(np.arange(200), rows)
    np.testing.assert_array_equal(found[rest], labels[rest])
    np.testing.assert_array_equal(np.sort(found[rows]), np.sort(labels[rows]))
    shares = np.bincount(labels[rows], minlength=3) / 120
    for kind in range(3):
        mine = found[rows][labels[rows] == kind]
        assert np.abs(np.bincount(mine, minlength=3) - shares * len(mine)).max() < 2.0
    assert not np.array_equal(found, shuffle_labels(labels, rows, seed + 1))
    scores = rng.normal(size=200)
    np.testing.assert_array_equal(np.sort(shuffle_labels(scores, rows, seed)[rows]), np.sort(scores[rows]))
    assert abs(np.corrcoef(shuffle_labels(scores, rows, seed)[rows], scores[rows])[0, 1]) < 0.3


@pytest.mark.filterwarnings("ignore:The teacher's loss:UserWarning")
def test_shuffled_feedback_changes_nothing_else(tiny: dict[str, Any]) -> None:
    with pytest.warns(UserWarning, match="floor of the gap"):
        shuffled = noisy(tiny, feedback_labels="shuffled")
        DistillVectorEnv(1, problem=shuffled).reset(seed=0)
    gold = noisy(tiny)
    assert (shuffled.feedback.labels != gold.feedback.labels).any()
    for table in ("train", "selection"):
        np.testing.assert_array_equal(getattr(shuffled, table).labels, getattr(gold, table).labels)
    assert shuffled.feedback.content_hash() == gold.feedback.content_hash()
    assert gold.calibration is gold.feedback and shuffled.calibration is shuffled.selection  # labels that are true
    assert shuffled.temperature == gold.reference.temperature
    told = {}
    for name, problem in (("shuffled", shuffled), ("gold", gold)):
        found = evaluate_policies(problem, {"u": Contender(lambda env: make_rule("uniform", env))}, [1])
        told[name] = words.plain_words(report.summarize(found, replicates=10))
    assert "labels of the evaluated feedback rows were shuffled" in told["shuffled"]
    assert "feedback, selection and dev are clean" in told["gold"] and "are clean" not in told["shuffled"]
