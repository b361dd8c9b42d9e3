"""What a comparison of runs says, for results whose numbers are chosen by hand."""

from __future__ import annotations

import copy
import csv
import io
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cli.jobs.compare import agent_labels, compare_runs, find_runs
from cli.runs import folder as run_files
from cli.runs.config import to_yaml
from kd_env.evaluation.comparing import report as r
from kd_env.evaluation.comparing.compare import compare
from kd_env.evaluation.comparing.comparison import Comparison, PausedAgent, Pruning
from kd_env.evaluation.comparing.joint import _row
from kd_env.evaluation.comparing.plots import trainings_and_rules
from kd_env.evaluation.comparing.runs import Run
from kd_env.evaluation.comparing.sheets import sheets
from kd_env.evaluation.comparing.words import plain_words
from kd_env.evaluation.statistics import crossed
from kd_env.evaluation.statistics import intervals as s
from kd_env.evaluation.statistics.verdicts import show

SEEDS = list(range(10000, 10030))
TERMS = ["hard_label", "soft_label"]


def row(
    policy: str, gaps: Sequence[float], *, learned: bool = False, extra: bool = False, hard: float = 1.0
) -> dict[str, Any]:
    gaps = [*gaps] * 10  # three seeds stand for thirty
    split = {
        "metrics": {"accuracy": [0.5 + gap / 2 for gap in gaps]},
        "loss": [1 - gap for gap in gaps],
        "gap_closed": gaps,
    }
    weights = {"hard_label": [hard] * len(gaps), "soft_label": [1.0, 0.5, 0.0] * 10}
    return {
        "policy": policy,
        "learned": learned,
        "extra_labels": extra,
        "metrics": {"selection": {"accuracy": {}}, "validation": {"accuracy": {}}},
        "diverged": 0,
        "seeds": {
            "splits": {"selection": split, "validation": copy.deepcopy(split)},
            "action_view": "native",
            "mean_weights": weights,
            "chosen": weights,
        },
    }


def results(*rows: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {
        "facts": {"task": "toy", "saw_feedback": "no", "label_noise": 0.4, "temperature": 1.5},
        "seeds": SEEDS,
        "dev_splits": ["validation"],
        "term_names": TERMS,
        "measure": "gap_closed",
        "teacher": {"validation": {"accuracy": 0.97, "loss": 0.1}},
        "policies": list(rows),
        **changes,
    }


def run(seed: int, *rows: dict[str, Any], agent: str = "ac", control: str = "none", **changes: Any) -> Run:
    return Run(f"runs/{agent}-{control}-{seed}", agent, control, range(seed, seed + 16), results(*rows, **changes))


ALL = row("all", [0.3, 0.2, 0.4])
SOFT = row("soft_label_only", [0.5, 0.4, 0.6], hard=0.0)
WIDER = row("all (train+feedback)", [0.9, 0.9, 0.9], extra=True)
AGENT = [[0.6, 0.5, 0.7], [0.5, 0.5, 0.5], [0.7, 0.6, 0.8], [0.6, 0.6, 0.6], [0.4, 0.5, 0.6]]
MEANS = [0.6, 0.5, 0.7, 0.6, 0.5]


def seeds_of(gaps: Sequence[float]) -> np.ndarray:
    return np.tile(gaps, 10)


@pytest.fixture
def five() -> Comparison:
    """Five trainings of an agent, rules in the first run alone but for one; five untrained, four shuffled."""
    trained = [run(100 * i, row("ac", gaps, learned=True, hard=0.1 * i)) for i, gaps in enumerate(AGENT)]
    trained[0].results["policies"].extend([ALL, SOFT, WIDER])
    trained[3].results["policies"].append(row("all", [0.3 + 1e-7, 0.2, 0.4]))
    untrained = [run(100 * i, row("ac", [0.1 * i] * 3, learned=True), control="untrained") for i in range(5)]
    shuffled = [run(100 * i, row("ac", [0.1, 0.2, 0.3], learned=True), control="shuffled_reward") for i in range(4)]
    return compare([*untrained, *trained, *shuffled])


def test_trainings_are_the_units_of_agents_and_seeds_those_of_rules(five: Comparison) -> None:
    names = [entry.policy for entry in five.entries]
    assert names == ["ac (untrained)", "ac", "ac (shuffled_reward)", "all", "soft_label_only", "all (train+feedback)"]
    agent, rule = five.entry("ac"), five.entry("all")
    expected = crossed.crossed_interval([seeds_of(gaps) for gaps in AGENT])
    interval = agent.gap_closed["validation"]
    assert (interval.mean, interval.units, agent.unit) == (pytest.approx(0.58), 5, "training")
    assert (interval.low, interval.high, interval.seeds) == (expected.low, expected.high, 30)
    assert agent.values["validation"] == pytest.approx(MEANS)
    assert agent.metrics["validation"]["accuracy"].mean == pytest.approx(0.79)
    expected = s.t_interval([0.0, 0.1, 0.2, 0.3, 0.4], bounds=(0.0, 1.0))
    assert agent.mean_weights["hard_label"].mean == pytest.approx(expected.mean)
    assert agent.mean_weights["hard_label"].low == pytest.approx(expected.low)
    assert agent.mean_weights["hard_label"].high == pytest.approx(expected.high)
    assert rule.gap_closed["validation"] == s.t_interval(seeds_of([0.3, 0.2, 0.4])) and rule.unit == "evaluation seed"
    assert rule.chosen["soft_label"].mean == 0.5
    assert five.entry("all (train+feedback)").extra_labels


def test_differences_to_every_rule_are_paired_and_adjusted(five: Comparison) -> None:
    mine = {one.second: one for one in five.to_rules if one.first == "ac"}
    assert set(mine) == {"all", "soft_label_only", "all (train+feedback)"} and len(five.to_rules) == 9
    agent = np.stack([seeds_of(gaps) for gaps in AGENT])
    got = mine["all"].difference
    assert got == crossed.crossed_difference(agent, seeds_of([0.3, 0.2, 0.4]))
    assert got.interval.mean == pytest.approx(0.28) and got.design == "5 trainings x 30 seeds" and got.claim
    # [0.08 +- 0.104]: not above 0.
    tie = mine["soft_label_only"].difference
    assert tie.interval.low < 0 and tie.tie and not tie.claim and tie.detectable > tie.interval.half_width > 0.1
    adjusted = s.holm([one.difference.p_value for one in five.to_rules])
    assert [one.holm_p for one in five.to_rules] == pytest.approx(adjusted)
    four = next(one for one in five.to_rules if one.first == "ac (shuffled_reward)" and one.second == "all")
    assert four.difference.interval.high < 0 and not four.difference.claim  # fewer than five trainings


def test_controls_are_compared_unpaired(five: Comparison) -> None:
    pairs = [(one.first, one.second) for one in five.between_controls]
    assert pairs == [
        ("ac", "ac (shuffled_reward)"),
        ("ac", "ac (untrained)"),
        ("ac (shuffled_reward)", "ac (untrained)"),
    ]
    one = five.between_controls[1]
    untrained = np.repeat([[0.0], [0.1], [0.2], [0.3], [0.4]], 30, axis=1)
    assert one.difference == crossed.crossed_difference([seeds_of(gaps) for gaps in AGENT], untrained)
    assert five.between_agents == ()
    adjusted = s.holm([each.difference.p_value for each in five.between_controls])
    assert [each.holm_p for each in five.between_controls] == pytest.approx(adjusted)


def test_different_agents_are_compared_by_trainings_and_shared_seeds() -> None:
    runs = [run(100 * i, row("ac", gaps, learned=True)) for i, gaps in enumerate(AGENT)]
    other = [[gap - 0.3 - 0.02 * i for gap in [0.6, 0.5, 0.7]] for i in range(5)]
    runs += [run(100 * i, row("ks", gaps, learned=True), agent="ks") for i, gaps in enumerate(other)]
    runs.append(run(0, row("ks", [0.1] * 3, learned=True), agent="ks", control="untrained"))
    found = compare(runs)
    [one] = found.between_agents  # a control is compared with its own agent alone
    assert (one.first, one.second, one.split) == ("ac", "ks", "validation")
    expected = crossed.crossed_difference(*([seeds_of(gaps) for gaps in each] for each in (AGENT, other)))
    assert one.difference == expected and one.difference.claim and one.holm_p == expected.p_value
    assert [(each.first, each.second) for each in found.between_controls] == [("ks", "ks (untrained)")]
    assert not found.between_controls[0].difference.claim  # one training
    text = r.markdown(found)
    assert "Differences between agents" in text and "| ac - ks | +0.320 [" in text
    assert found.headline == "" and "ac minus ks: +0.320 [" in plain_words(found)


def test_words_say_what_is_shown_and_what_is_not(five: Comparison) -> None:
    words = plain_words(five)
    for part in (
        "ac: gap closed above all, and below all (train+feedback).",
        "ac (shuffled_reward) was trained 4 times, fewer than 5: no claim",
        "ac (shuffled_reward) minus ac (untrained): ",
        "tie: smaller than what 4 + 5 trainings x 30 seeds can detect (",
        "at least 5 trainings of each agent, 30 evaluation seeds",
        "40% of the train labels were replaced",
        "adjusted for all 9 differences to rules",
    ):
        assert part in words
    assert "share seeds" not in words and "unknown" not in words
    once = compare([run(0, row("ac", AGENT[0], learned=True), ALL, facts={"task": "toy", "saw_feedback": "unknown"})])
    words = plain_words(once)
    assert "ac was trained once" in words and "no claim of a difference" in words and "It is unknown" in words
    assert once.to_rules[0].difference.unit == "evaluation seed"
    assert sheets(once)[0].rows[0][1:3] == ["1 training x 30 seeds", "0.800 [0.784, 0.815]"]  # over its seeds
    assert "No run has an agent" in plain_words(compare([run(0, ALL)]))
    close = compare([run(0, row("ac", AGENT[0], learned=True)), run(8, row("ac", AGENT[1], learned=True))])
    assert close.overlapping == (("runs/ac-none-0", "runs/ac-none-8"),)
    assert "runs/ac-none-0 and runs/ac-none-8 share seeds" in plain_words(close)


def test_losses_stand_where_the_floor_was_active() -> None:
    c = compare([run(0, row("ac", AGENT[0], learned=True), ALL, measure="loss")])
    assert c.to_rules[0].difference.interval.mean == pytest.approx(-0.3)
    assert "below 0 is better" in plain_words(c) and "loss" in sheets(c)[0].header
    assert c.headline.startswith(
        "Above the best rule that was judged with the agent's information, 'all' (lowest loss on"
    )
    assert "gap closed" not in sheets(c)[0].header
    worse = compare([run(0, row("ac", [0.1, 0.1, 0.2], learned=True), ALL, measure="loss")])
    assert worse.headline.startswith("Nothing learned is above the best rule") and "ac +0.167 [" in worse.headline


def test_the_first_line_names_the_best_rule_and_whether_anything_is_above_it(five: Comparison) -> None:
    assert five.best_rule == "all (train+feedback)"  # feedback labels are the agent's information, too
    first = "Nothing learned is above the best rule that was judged with the agent's information, 'all (train+fe"
    assert five.headline.startswith(first) and "ac -0.320 [" in five.headline and "untrained" not in five.headline
    assert r.markdown(five).startswith(five.headline) and r.to_json(five, "")["headline"] == five.headline
    runs = [run(100 * i, row("ac", gaps, learned=True)) for i, gaps in enumerate(AGENT)]
    runs[0].results["policies"].append(ALL)
    found = compare(runs)
    assert found.headline.startswith(
        "Above the best rule that was judged with the agent's information, 'all' (largest gap closed on"
    )
    assert "the interval excludes 0 (5 trainings x 30 seeds)" in found.headline
    # Chosen on the selection split, whatever dev rows say.
    lucky = row("lucky", [0.1, 0.1, 0.1])
    lucky["seeds"]["splits"]["validation"]["gap_closed"] = [0.99] * 30
    runs[0].results["policies"].append(lucky)
    found = compare(runs)
    assert found.best_rule == "all"
    # Above the rule that selection rows prefer is not above every rule.
    start = "Nothing learned is above every rule that was judged with the agent's information; above 'all' ("
    assert found.headline.startswith(start) and "but not above 'lucky': ac -0.4" in found.headline
    ahead = row("ahead", [0.1, 0.1, 0.1])
    ahead["seeds"]["splits"]["validation"]["gap_closed"] = [0.2] * 30
    runs[0].results["policies"][-1] = ahead
    assert "on the selection split), and above every other: ac +0." in compare(runs).headline
    tied = compare([run(0, row("ac", [0.5, 0.5, 0.5], learned=True), SOFT)])
    assert tied.headline.startswith("Nothing learned") and "tie: smaller than what 30 seeds can detect" in tied.headline


def test_a_searched_constant_is_a_rule_with_trainings() -> None:
    searched = [
        replace(run(100 * i, row("searched", [0.65, 0.65, 0.7], learned=True), agent="searched"), searched=True)
        for i in range(5)
    ]
    agents = [run(100 * i, row("ac", gaps, learned=True)) for i, gaps in enumerate(AGENT)]
    agents[0].results["policies"].append(ALL)
    found = compare([*searched, *agents])
    assert found.best_rule == "searched"
    [one] = found.between_agents
    assert (one.first, one.second) == ("ac", "searched") and one.difference.interval.mean == pytest.approx(-0.26 / 3)
    assert found.headline.startswith(
        "Nothing learned is above the best rule that was judged with the agent's information, 'searched' "
    )
    assert f"ac {show(one.difference.interval, True)}, " in found.headline and "searched +" not in found.headline
    assert compare(searched).headline == ""


def test_seeds_count_in_differences_to_rules() -> None:
    """Trainings agree to the third digit and seeds do not: the interval is that of the seeds."""
    gaps = np.random.default_rng(0).normal(0.1, 0.2, 3)
    runs = [run(100 * i, row("ac", gaps + 0.001 * i, learned=True), row("all", [0.0] * 3)) for i in range(5)]
    [one] = compare(runs).to_rules
    nested = s.t_interval([gaps.mean() + 0.001 * i for i in range(5)])
    seeds = s.t_interval(seeds_of(gaps + 0.002))
    assert one.difference.interval.half_width == pytest.approx(seeds.half_width, rel=0.01)
    assert nested.half_width < seeds.half_width / 10


def test_few_seeds_are_shown_and_not_claimed() -> None:
    def short(policy: str, gaps: Sequence[float], **options: Any) -> dict[str, Any]:
        found = row(policy, gaps, **options)
        found["seeds"] = json.loads(json.dumps(found["seeds"]), object_hook=lambda d: {k: cut(v) for k, v in d.items()})
        return found

    def cut(value: Any) -> Any:
        return value[:10] if isinstance(value, list) else value

    runs = [run(100 * i, short("ac", gaps, learned=True), seeds=SEEDS[:10]) for i, gaps in enumerate(AGENT)]
    runs[0].results["policies"].append(short("all", [0.3, 0.2, 0.4]))
    found = compare(runs)
    assert found.to_rules[0].difference.interval.low > 0 and not found.to_rules[0].difference.claim
    assert "5 trainings x 10 seeds: shown, no claim" in found.headline
    assert "10 seeds: shown, no claim (a claim needs 30)." in plain_words(found)
    assert sheets(found)[2].rows[0][-1] == "no"


def test_official_metric_first_then_calibrated_then_raw() -> None:
    def new(policy: str, gaps: Sequence[float], **options: Any) -> dict[str, Any]:
        found = row(policy, gaps, **options)
        for split in found["seeds"]["splits"].values():
            split["raw_loss"] = [loss + 0.1 for loss in split["loss"]]
            split["raw_gap_closed"] = [gap - 0.1 for gap in split["gap_closed"]]
            split["calibration_error"] = [0.01, 0.02, 0.03] * 10
        return found

    facts = {**results()["facts"], "gap": "calibrated"}
    runs = [run(100 * i, new("ac", gaps, learned=True), facts=facts) for i, gaps in enumerate(AGENT)]
    runs[0].results["policies"].append(new("all", [0.3, 0.2, 0.4]))
    found = compare(runs)
    sheet = sheets(found)[0]
    assert sheet.header[2:] == [
        *("accuracy", "calibrated loss", "calibrated gap closed", "expected calibration error", "raw loss"),
        "raw gap closed",
    ]
    assert sheet.rows[1][5].startswith("0.020 [") and sheet.rows[1][6].startswith("0.800 [")
    assert "(largest calibrated gap closed on the selection split)" in found.headline
    assert "one temperature per student" in plain_words(found)
    kinds = {line["measure"] for line in csv.DictReader(io.StringIO(r.to_csv(found)))}
    assert {"accuracy", "loss", "gap_closed", "calibration_error", "raw_loss", "raw_gap_closed"} <= kinds
    same = compare([run(0, new("ac", AGENT[0], learned=True), facts={**facts, "gap": "labels"})])
    assert sheets(same)[0].header[2:] == ["accuracy", "loss", "gap closed", "expected calibration error"]
    # Results of earlier versions say nothing of the gap and hold no raw values: these columns are left out.
    old = compare([run(0, row("ac", AGENT[0], learned=True))])
    assert sheets(old)[0].header[2:] == ["accuracy", "loss", "gap closed"] and old.entries[0].raw_loss is None
    with pytest.raises(ValueError, match=r"facts.gap is None in the first and 'calibrated'"):
        compare([run(0, row("ac", AGENT[0], learned=True)), runs[1]])
    with pytest.raises(ValueError, match=r"lack splits.validation.raw_loss .* Judge the run again"):
        compare([run(0, row("ac", AGENT[0], learned=True), facts=facts)])


def test_metrics_stay_inside_their_range() -> None:
    """Two trainings once gave an accuracy of 0.842 [0.185, 1.498]."""
    pair = compare([run(0, row("ac", [0.58] * 3, learned=True)), run(100, row("ac", [0.788] * 3, learned=True))])
    interval = pair.entry("ac").metrics["validation"]["accuracy"]
    assert interval.mean == pytest.approx(0.842) and 0 < interval.low < 0.79 and 0.894 < interval.high < 1
    assert pair.entry("ac").gap_closed["validation"].high > 1  # no metric: not bounded


def test_under_the_tables_stands_what_can_be_detected(five: Comparison) -> None:
    first, _, rules, controls = sheets(five)
    least = "Minimum detectable difference in gap closed (power 0.8, at the spreads observed, "
    assert first.note.startswith(least) and "ac - all (train+feedback) 0." in first.note
    assert rules.note.startswith(least) and controls.note.startswith(least) and "from 0." in rules.note
    by_name = dict(zip(rules.header, rules.rows[3], strict=True))
    assert by_name["over"] == "5 trainings x 30 seeds" and by_name["claim"] == "yes"
    assert by_name["detectable"] == f"{five.to_rules[3].difference.detectable:.3f}"
    assert [line[-1] for line in rules.rows].count("tie") == sum(one.difference.tie for one in five.to_rules)
    for note in (first.note, rules.note, controls.note):
        assert note in r.markdown(five)
    single = compare([run(0, row("ac", AGENT[0], learned=True), ALL)])
    assert "30 seeds" in sheets(single)[0].note


def test_soft_weights_are_not_called_chosen() -> None:
    soft = row("ac", AGENT[0], learned=True)
    soft["seeds"]["action_view"] = "box"
    agent, rule = sheets(compare([run(0, soft, ALL)]))[1].rows
    assert agent[-2:] == ["-", "-"] and rule[-2:] == ["100%", "50%"]


def test_files(five: Comparison, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    r.print_comparison(five)
    printed = capsys.readouterr().out
    assert " ".join(printed.split()).startswith(
        "Nothing learned is above the best rule that was judged with the agent's information"
    )
    assert "ac - all" in printed and "0.580 [0.47" in printed and "One agent under different" in printed
    r.write_comparison(tmp_path / "out", five, "kd-env compare")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(r.FILES)
    data = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert data["entries"][1]["values"]["validation"] == pytest.approx(MEANS)
    lines = list(csv.DictReader(io.StringIO((tmp_path / "out" / "comparison.csv").read_text())))
    (line,) = (one for one in lines if (one["policy"], one["minus"]) == ("ac", "all"))
    assert (float(line["mean"]), line["units"], line["claim"]) == (pytest.approx(0.28), "5", "True")
    text = (tmp_path / "out" / "comparison.md").read_text()
    assert "| all (train+feedback) + | rule, 30 seeds |" in text
    assert (tmp_path / "out" / "comparison.png").read_bytes().startswith(b"\x89PNG")
    for alone in (row("ac", AGENT[0], learned=True), ALL):  # no rule, no agent
        assert trainings_and_rules(compare([run(0, alone)])).startswith(b"\x89PNG")


def test_pruned_agents_are_told_without_dev_numbers(five: Comparison) -> None:
    worse = PausedAgent("slow", 0.125, (0.05, 0.2), (640, 672), ("a", "b"), pruned=True)
    better = PausedAgent("ac", 0.5, (0.5, 0.5), (640, 640), ("c", "d"), pruned=False)
    found = replace(five, prunings=(Pruning("mine", 0.25, 600, 0.375, (7, 8), (worse, better)),))
    words = plain_words(found)
    assert "slow (0.125 at steps 640 to 672) was pruned at the pause of mine at step 600" in words
    assert "selection rows was 0.375" in words and "Pruned agents have no dev numbers. ac (0.500 at step 640)" in words
    assert "pruned" not in plain_words(five)
    lines = list(csv.DictReader(io.StringIO(r.to_csv(found))))
    (line,) = (one for one in lines if one["policy"] == "slow")
    assert [line[key] for key in ("split", "measure", "mean", "units")] == [
        *("selection", "gap_closed_at_pause", "0.125", "2")
    ]
    assert r.to_json(found, "")["prunings"][0]["agents"][0]["pruned"] is True
    none = replace(five, prunings=(Pruning("mine", 0.25, 600, 0.5, (7, 8), (better,)),))
    assert "No agent was pruned at the pause of mine" in plain_words(none)
    assert "(means over trainings of 2 students together, of other seeds" in words
    former = replace(five, prunings=(replace(found.prunings[0], together=False),))
    assert "(means over trainings and 2 students, of other seeds" in plain_words(former)


@pytest.mark.parametrize("former", [0, 1])
def test_students_of_a_former_version_stand_beside_others_without_what_it_did_not_keep(former: int) -> None:
    splits = [{"loss": [0.5], "gap_size": [0.2]}, {"loss": [0.4], "gap_size": [0.3]}]
    del splits[former]["gap_size"]
    rows = [{"policy": "agent", "diverged": 0, "seeds": {"splits": {"selection": split}}} for split in splits]
    assert _row(rows)["seeds"]["splits"]["selection"] == {"loss": [0.5, 0.4]}


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        (run(100, ALL, seeds=[10000, 10001, 10005]), r"seeds is \[10000.*10029\] in the first and .*10005"),
        (run(100, ALL, term_names=["soft_label"]), "term_names"),
        (run(100, ALL, facts={**results()["facts"], "task": "rte"}), r"facts.task is 'toy' in the first and 'rte'"),
        (run(100, ALL, facts={**results()["facts"], "temperature": 1.6}), r"facts.temperature is 1.5 .* 1.6"),
        (run(100, row("all", [0.3, 0.2, 0.5])), r"rule 'all'.*runs/ac-none-0 and runs/ac-none-100.*seed 10002 is 0.6"),
        (run(0, row("ac", AGENT[0], learned=True)), r"one training of ac \(seed 0\)"),
        (run(100, row("ac", [0.1, 0.2], learned=True)), r"runs/ac-none-100 lack mean_weights|lack splits"),
    ],
)
def test_runs_that_do_not_fit_are_refused(other: Run, expected: str) -> None:
    first = run(0, row("ac", AGENT[0], learned=True), ALL)
    close = run(200, row("all", [0.3, 0.2, 0.4]), facts={**results()["facts"], "temperature": 1.5 + 1e-9})
    assert compare([first, close]).entry("all").runs == (first.place,)
    with pytest.raises(ValueError, match=expected):
        compare([first, other])


def test_results_without_single_seeds_are_refused() -> None:
    old = row("ac", AGENT[0], learned=True)
    del old["seeds"]["chosen"]
    with pytest.raises(ValueError, match=r"lack chosen.hard_label of 'ac'.*resume=true"):
        compare([run(0, old)])
    broken = row("ac", AGENT[0], learned=True)
    broken["seeds"]["splits"]["validation"]["loss"][1] = None
    with pytest.raises(ValueError, match=r"lack splits.validation.loss"):
        compare([run(0, broken)])
    with pytest.raises(ValueError, match="lack 'policies'"):
        compare([Run("somewhere", "ac", "none", range(1), {})])
    with pytest.raises(ValueError, match="no run"):
        compare([])


def config(seed: int = 0, **changes: Any) -> dict[str, Any]:
    return {
        "task": {"name": "toy", "label_noise": 0.4},
        "teacher": {"path": None},
        "student": {"hidden_size": 32},
        "env": {"action_view": "native", "features": ["gap"], "budget": 80},
        "agent": {"name": "ac", "options": {}},
        "evaluation": {"seeds": 3, "first_seed": 10000, "deterministic": True, "rules": "auto"},
        "control": "none",
        "seed": seed,
        "num_envs": 16,
        "total_timesteps": 64,
        "name": f"run{seed}",
        "threads": seed,
        "presets": {"agent": str(seed)},
        **changes,
    }


def folder(place: Path, values: dict[str, Any], *rows: dict[str, Any]) -> Path:
    place.mkdir(parents=True)
    (place / run_files.CONFIG).write_text(to_yaml(values))
    (place / run_files.RESULTS).write_text(json.dumps(results(*rows)))
    return place


@pytest.fixture
def two(tmp_path: Path) -> Path:
    folder(tmp_path / "ac-0", config(0), row("ac", AGENT[0], learned=True), ALL)
    folder(
        tmp_path / "ac-1",
        config(100, evaluation={**config()["evaluation"], "rules": [], "jobs": 2}),
        row("ac", AGENT[1], learned=True),
    )
    return tmp_path


def test_the_command_groups_runs_by_what_the_agent_is(two: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KD_ENV_RUNS", str(two))
    other = config(
        0, agent={"name": "ks", "options": {}}, env={**config()["env"], "action_view": "box", "features": []}
    )
    folder(two / "ks-0", other, row("ks", AGENT[2], learned=True))
    out = compare_runs([f"runs={two}/*-?"], "kd-env compare")
    assert out.parent == two and out.name.startswith("compare-")
    data = json.loads((out / "comparison.json").read_text())
    assert [(entry["policy"], entry["units"]) for entry in data["entries"]] == [("ac", 2), ("ks", 1), ("all", 30)]
    # The same folders in another order and as plain words are the same comparison, and it is not written over.
    words = [str(two / name) for name in ("ks-0", "ac-1", "ac-0", "ac-0")]
    with pytest.raises(ValueError, match=r"exists; .*overwrite=true"):
        compare_runs(words, "")
    assert compare_runs([*words, "overwrite=true"], "") == out
    assert len(find_runs([f"{two}/*"])) == 3  # the comparison is no run


def test_labels_say_how_configurations_of_one_agent_differ() -> None:
    longer = config(0, total_timesteps=128)
    assert agent_labels([config(0), config(100)]) == ["ac", "ac"]
    assert agent_labels([config(0), longer, config(100)]) == [
        *("ac #1 (total_timesteps=64)", "ac #2 (total_timesteps=128)", "ac #1 (total_timesteps=64)")
    ]
    assert agent_labels([config(0), config(0, control="untrained")]) == ["ac", "ac"]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"task": {"name": "toy", "label_noise": 0.0}}, "task.label_noise is 0.4 in the first and 0.0"),
        ({"env": {**config()["env"], "budget": 40}}, "env.budget is 80 in the first and 40"),
        ({"evaluation": {**config()["evaluation"], "deterministic": False}}, "evaluation.deterministic is True"),
        ({"student": {"hidden_size": 64}}, "student.hidden_size"),
        ({"teachers": [{"name": "a", "seed": 1}]}, "teachers is None in the first"),
        (
            {"control": "teacher_is_student", "env": {**config()["env"], "teacher_source": "student"}},
            "env.teacher_source is None in the first and 'student' in the second. control=teacher_is_student changes",
        ),
        (
            {"control": "shuffled_feedback", "env": {**config()["env"], "feedback_labels": "shuffled"}},
            "env.feedback_labels is None in the first and 'shuffled' in the second. control=shuffled_feedback changes",
        ),
    ],
)
def test_other_problems_are_refused_by_key(two: Path, changes: dict[str, Any], expected: str) -> None:
    folder(two / "odd", config(200, **changes), row("ac", AGENT[2], learned=True))
    with pytest.raises(ValueError, match=expected):
        compare_runs([str(two / "ac-0"), str(two / "odd")], "")
    assert not list(two.glob("compare-*"))


def test_mistakes_of_the_command(two: Path) -> None:
    unfinished = folder(two / "ac-2", config(200), ALL)
    (unfinished / run_files.RESULTS).unlink()
    (two / "notes").mkdir()
    (two / "broken").mkdir()
    for words, expected in (
        ([], "Name run folders"),
        ([f"runs={two}/zz*"], "No run folder matches"),
        ([f"runs={two}/ac-*"], "ac-2 has no results.json: finish it with resume=true"),
        ([str(two)], r"config.yaml is missing. Runs in it would be"),
        ([str(two / "missing")], "No run folder matches .*missing"),
        (["run=x"], "Unknown option 'run'. Did you mean 'runs'"),
        (["--fast"], "Unknown option '--fast'"),
        (["runs=3"], "runs=3 must be a name or a list"),
        (["runs=[a,b"], "Cannot read"),
        ([str(two / "ac-0"), f"out={two}/ac-1"], "exists; replace"),
        ([str(two / "ac-0"), f"out={two}/ac-1", "overwrite=perhaps"], "true or false"),
    ):
        with pytest.raises(ValueError, match=expected):
            compare_runs(words, "")
    (two / "ac-1" / run_files.RESULTS).write_text("{")
    with pytest.raises(ValueError, match=r"ac-1/results\.json is damaged \(no JSON"):
        compare_runs([str(two / "ac-0"), str(two / "ac-1")], "")
