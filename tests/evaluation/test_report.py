"""What a report says, for evaluations whose numbers are chosen by hand."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kd_env.evaluation.judging.protocol import choose_comparator
from kd_env.evaluation.judging.results import SELECTION, Evaluation, PolicyResult, SplitScores
from kd_env.evaluation.reports import report as r
from kd_env.evaluation.reports import report_files, words
from kd_env.evaluation.statistics import intervals as s
from kd_files import writing as files

LABELS = np.arange(40) % 2


def result(
    name: str, gaps: list[float], *, learned: bool = False, extra: bool = False, floored: bool = False
) -> PolicyResult:
    count = len(gaps)
    wrong = [round(10 * (1 - gap)) for gap in gaps]
    guesses = np.stack([np.where(np.arange(40) < n, 1 - LABELS, LABELS) for n in wrong])
    scores = SplitScores(
        metrics={"accuracy": np.array([(row == LABELS).mean() for row in guesses])},
        loss=1.0 - np.array(gaps),
        gap_closed=np.array(gaps),
        floored=np.full(count, floored),
        raw_loss=1.1 - np.array(gaps),
        raw_gap_closed=np.array(gaps) - 0.1,
        calibration_error=np.full(count, 0.05),
        predictions=guesses,
    )
    weights = np.tile(np.array([1.0, 0.25]), (4, count, 1))
    weights[3] = 0.0
    scale = np.array([1.0, 1.0, 1.0, 0.0])[:, None].repeat(count, axis=1)
    splits = {SELECTION: scores, "validation": scores}
    none = np.zeros(count, dtype=bool)
    return PolicyResult(name, learned, extra, "box", splits, np.ones(count), np.array(gaps), none, weights, scale)


def evaluation(*results: PolicyResult, **facts: Any) -> Evaluation:
    return Evaluation(
        facts={"task": "toy", "saw_feedback": "no", "label_noise": 0.0, **facts},
        seeds=tuple(range(len(results[0].returns))),
        term_names=("hard_label", "soft_label"),
        metric_names=("accuracy",),
        dev_splits=("validation",),
        regression=False,
        policies={one.name: one for one in results},
        comparator=choose_comparator(results),
        teacher={"validation": {"accuracy": 0.97, "loss": 0.1}},
        labels={SELECTION: LABELS, "validation": LABELS},
    )


@pytest.fixture
def three() -> r.Report:
    agent = result("agent", [0.6, 0.5, 0.7, 0.6], learned=True)
    return r.summarize(evaluation(agent, result("all", [0.3, 0.2, 0.4, 0.2]), result("fixed", [0.4, 0.2, 0.4, 0.3])))


def test_rows_hold_the_statistics(three: r.Report) -> None:
    assert three.measure == "gap_closed" and three.evaluation.comparator == "fixed"
    agent, other, comparator = three.rows
    gaps, reference = [0.6, 0.5, 0.7, 0.6], [0.4, 0.2, 0.4, 0.3]
    assert agent.gap_closed["validation"] == s.t_interval(gaps)
    difference = agent.difference["validation"]
    assert difference is not None
    assert difference.interval == s.t_interval(np.subtract(gaps, reference))
    assert difference.unit == "evaluation seed" and not difference.claim
    raw = [row.difference["validation"].p_value for row in (agent, other) if row.difference["validation"]]
    assert [agent.holm_p["validation"], other.holm_p["validation"]] == pytest.approx(s.holm(raw))
    assert comparator.comparator and comparator.difference["validation"] is None
    assert agent.mean_weights == pytest.approx({"hard_label": 0.75, "soft_label": 0.1875})
    assert agent.skipped == 0.25
    examples = agent.examples["validation"]
    assert examples.mean == pytest.approx(agent.metrics["validation"]["accuracy"].mean)
    assert examples.low < examples.mean < examples.high and examples.units == 40


def test_table_and_markdown_show_every_policy(three: r.Report, capsys: pytest.CaptureFixture[str]) -> None:
    report_files.print_report(three)
    printed = capsys.readouterr().out
    for word in ("agent *", "fixed", "(comparator)", "0.600 [0.470,", "w soft_label", "no claim", "Minimum detectable"):
        assert word in printed
    first, _, *lines, _, last = report_files.markdown_table(three).splitlines()
    assert first == three.headline and printed.replace("\n", " ").startswith("Above the best rule")
    assert last == three.detectable and "power 0.8, at the spreads observed, 4 seeds): agent 0." in last
    assert len(lines) == 5
    assert len({line.count("|") for line in lines}) == 1


def test_columns_lead_with_the_metric_and_end_with_raw_values() -> None:
    two = result("agent", [0.6, 0.5], learned=True), result("all", [0.3, 0.2])
    calibrated = r.summarize(evaluation(*two, gap="calibrated"))
    assert calibrated.header[1:8] == [
        *("accuracy", "calibrated loss", "calibrated gap closed", "difference in gap closed to all"),
        *("expected calibration error", "raw loss", "raw gap closed"),
    ]
    cells = calibrated.cells(calibrated.rows[0])
    assert len(cells) == len(calibrated.header) and cells[5].startswith("0.050") and cells[6].startswith("0.550 [")
    assert "one temperature per student" in words.plain_words(calibrated)
    same = r.summarize(evaluation(*two, gap="labels"))
    assert same.header[1:6] == [
        *("accuracy", "loss", "gap closed", "difference in gap closed to all", "expected calibration error"),
    ]
    assert "temperature" not in words.plain_words(same)
    plain = report_files.to_json(calibrated)
    assert plain["policies"][0]["raw_loss"]["validation"]["mean"] == pytest.approx(0.55)
    assert plain["headline"] == calibrated.headline and plain["detectable"] == calibrated.detectable


def test_words_set_what_was_learned_beside_rules_that_choose_nothing() -> None:
    """Also where neither is the comparator; rules that choose, or saw feedback labels, are not among them."""
    agent = result("agent", [0.6, 0.5, 0.7], learned=True)
    everything = replace(result("all", [0.1, 0.1, 0.0]), chooses=False)
    chance = replace(result("random_hard", [0.0, 0.0, 0.0]), chooses=False)
    more = replace(result("all (train+feedback)", [0.2] * 3, extra=True), chooses=False)
    rules = everything, chance, result("fixed", [0.6, 0.6, 0.6])
    text = words.plain_words(r.summarize(evaluation(agent, *rules, more)))
    to_all = s.t_interval([0.5, 0.4, 0.7])
    expected = f"validation: +0.533 [{to_all.low:+.3f}, {to_all.high:+.3f}] to 'all', +0.600 ["
    assert f"agent, difference in gap closed on {expected}" in text
    assert "to 'random_hard'. A policy that is better" in text and "only where it is better than the best rule" in text
    assert "choose nothing" not in words.plain_words(r.summarize(evaluation(agent, rules[2])))
    assert "choose nothing" not in words.plain_words(r.summarize(evaluation(*rules)))


def test_the_first_line_counts_rules_with_feedback_labels() -> None:
    agent = result("agent", [0.6, 0.5, 0.7], learned=True)
    rules = result("all", [0.3, 0.3, 0.2]), result("all (train+feedback)", [0.9, 0.8, 0.9], extra=True)
    report = r.summarize(evaluation(agent, *rules))
    assert report.evaluation.comparator == "all" and report.best_rule == "all (train+feedback)"
    assert report.headline.startswith(
        "Nothing learned is above the best rule that was judged with the agent's information, 'all (tra"
    )
    assert "agent -0.267 [" in report.headline and "3 seeds: shown, no claim" in report.headline
    assert report_files.markdown_table(report).startswith(report.headline)
    above = r.summarize(evaluation(result("agent", [0.6, 0.61, 0.5], learned=True), rules[0]))
    assert above.headline.startswith(
        "Above the best rule that was judged with the agent's information, 'all' (largest gap closed on"
    )
    chance = result("random_hard", [0.1, 0.2, 0.1])
    chance = replace(chance, splits={**chance.splits, "validation": rules[1].splits["validation"]})  # on dev the best
    lucky = r.summarize(evaluation(result("agent", [0.6, 0.61, 0.5], learned=True), rules[0], chance))
    assert lucky.headline.startswith("Nothing learned is above every rule that was judged with the agent's information")
    assert "; above 'all' (largest" in lucky.headline and "but not above 'random_hard': agent -0.2" in lucky.headline
    tie = r.summarize(evaluation(result("agent", [0.3, 0.2, 0.3], learned=True), rules[0]))
    assert "tie: smaller than what 3 seeds can detect (" in tie.headline and "tie: " in words.plain_words(tie)
    assert r.summarize(evaluation(*rules)).headline == "" == r.summarize(evaluation(agent)).headline
    one = r.summarize(evaluation(result("agent", [0.5], learned=True), result("all", [0.3])))
    assert one.headline.startswith("Nothing learned is above") and "no interval can be given" in one.headline


def test_metrics_stay_inside_their_range() -> None:
    report = r.summarize(evaluation(result("agent", [0.9, 1.0], learned=True), result("all", [1.0, 1.0])))
    agent, rule = (row.metrics["validation"]["accuracy"] for row in report.rows)
    assert 0 < agent.low < agent.mean < agent.high <= 1 and (rule.low, rule.high) == (1.0, 1.0)
    assert s.t_interval([0.975, 1.0]).high > 1


def test_words_say_what_is_not_shown(three: r.Report) -> None:
    text = words.plain_words(three)
    assert "one training of the agent" in text and "at least 5 independent trainings on 30 seeds" in text
    assert "4 seeds: shown, no claim (a claim needs 30)." in text
    assert "the interval excludes 0 for this one policy" in text
    assert "unknown" not in text and "replaced" not in text and "diverged" not in text
    noisy = evaluation(
        result("agent", [0.2, 0.4], learned=True),
        result("all", [0.3, 0.3]),
        result("all (train+feedback)", [0.9, 0.9], extra=True),
        saw_feedback="unknown",
        label_noise=0.4,
    )
    text = words.plain_words(r.summarize(noisy))
    assert "It is unknown whether the teacher saw" in text
    assert "40% of the train labels" in text and "train and feedback rows" in text
    assert "tie: smaller than what 2 seeds can detect" in text
    assert "'all'" in text
    rules = words.plain_words(r.summarize(evaluation(result("all", [0.3, 0.2]))))
    assert "one training" not in rules


def test_one_seed_gets_no_interval() -> None:
    report = r.summarize(evaluation(result("agent", [0.5], learned=True), result("all", [0.3])))
    assert report.cells(report.rows[0])[2] == "0.500"
    assert "no interval can be given" in words.plain_words(report)
    assert report_files.to_json(report)["policies"][0]["gap_closed"]["validation"]["low"] is None


def test_losses_are_shown_where_the_floor_is_active() -> None:
    report = r.summarize(evaluation(result("agent", [0.5, 0.4], learned=True, floored=True), result("all", [0.3, 0.2])))
    assert report.measure == "loss"
    assert report.cells(report.rows[0])[2].startswith("0.550")
    assert "below 0 is better" in words.plain_words(report) and "floor" in words.plain_words(report)


def test_files(three: r.Report, tmp_path: Path) -> None:
    history = [{"timesteps": 16.0, "loss": 1.0}, {"timesteps": 32.0, "return_mean": 0.1, "gap_closed": 0.1}]
    report_files.write_report(tmp_path, three, history)

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    data = json.loads((tmp_path / "results.json").read_text(), parse_constant=refuse)
    assert data["comparator"] == "fixed" and data["trainings"] == 1
    assert data["policies"][0]["seeds"]["splits"]["validation"]["gap_closed"] == [0.6, 0.5, 0.7, 0.6]
    rows = list(csv.DictReader(io.StringIO((tmp_path / "results.csv").read_text())))
    found = [row for row in rows if row["policy"] == "agent" and row["split"] == "validation"]
    assert {row["measure"] for row in found} == {
        *("accuracy", "loss", "gap_closed", "difference_gap_closed", "accuracy_over_examples"),
        *("calibration_error", "raw_loss", "raw_gap_closed"),
    }
    assert float(next(row for row in found if row["measure"] == "gap_closed")["mean"]) == pytest.approx(0.6)
    for name in ("weights.png", "learning_curve.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *("learning_curve.png", "results.csv", "results.json", "results.md", "weights.png")
    ]


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "results.json"
    files.atomic_write(target, "old")

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(files.os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        files.atomic_write(target, "new")
    assert target.read_text() == "old" and [path.name for path in tmp_path.iterdir()] == ["results.json"]


def test_two_dev_splits_have_columns_of_their_own(three: r.Report) -> None:
    e = three.evaluation
    for one in e.policies.values():
        one.splits["validation_matched"] = one.splits["validation_mismatched"] = one.splits["validation"]
    e.labels["validation_matched"] = e.labels["validation_mismatched"] = LABELS
    mnli = Evaluation(**{**e.__dict__, "dev_splits": ("validation_matched", "validation_mismatched")})
    report = r.summarize(mnli)
    assert "accuracy (matched)" in report.header and "accuracy (mismatched)" in report.header
    assert len(report.cells(report.rows[0])) == len(report.header)
    assert (
        "agent (validation_matched) +0." in report.headline and "agent (validation_mismatched) +0." in report.headline
    )
    assert "agent (validation_matched) 0." in report.detectable
