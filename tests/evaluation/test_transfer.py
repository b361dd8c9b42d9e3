"""The transfer matrix of a study, against the differences that it is of."""

from __future__ import annotations

from test_compare import ALL, SOFT, row, run

from kd_env.evaluation.comparing.compare import compare
from kd_env.evaluation.comparing.hypotheses import values_of
from kd_env.evaluation.comparing.runs import Run
from kd_env.evaluation.comparing.transfer import Transfer, matrices, transfer_cells
from kd_env.evaluation.statistics.crossed import policy_difference
from kd_env.evaluation.statistics.verdicts import show

MOVED, TRAINED_ON = Transfer("ac", "a", "b", "moved", False), Transfer("ac", "a", "b", "trained", True)


def problem(*agents: tuple[str, float]) -> list[Run]:
    found = [
        run(100 * i, row(name, [0.5 + gain + 0.01 * i, 0.4 + gain, 0.6 + gain], learned=True), agent=name)
        for name, gain in agents
        for i in range(3)
    ]
    found[0].results["policies"].extend([ALL, SOFT])
    return found


def test_cells_are_differences_to_the_best_rule_of_the_problem_on_which_a_policy_acts() -> None:
    runs = {"a": problem(("ac", 0.1)), "b": problem(("ac", 0.05), ("moved", -0.1), ("trained", 0.2))}
    comparisons = {name: compare(each) for name, each in runs.items()}
    cells = transfer_cells([MOVED, TRAINED_ON], runs, comparisons)
    assert [(c.transfer.source, c.transfer.target, c.transfer.label) for c in cells] == [
        *(("a", "a", "ac"), ("b", "b", "ac"), ("a", "b", "moved"), ("a", "b", "trained"))
    ]
    for cell in cells:
        judged = runs[cell.transfer.target]
        values = [values_of(judged, policy, "validation") for policy in (cell.transfer.label, "soft_label_only")]
        assert cell.above == "soft_label_only" and cell.difference == policy_difference(values[0], values[1])
    (unchanged, header, rows), (continued, _, others) = matrices(cells)
    assert unchanged.startswith("ac, unchanged") and continued.startswith("ac, continued")
    assert header == ["learned on", "a", "b"] and [line[0] for line in rows] == ["a", "b"]
    shown = {cell.transfer.label: show(cell.difference.interval, True) for cell in cells[2:]}
    assert rows[0][2] == shown["moved"] and others[0][2] == shown["trained"]
    assert rows[1][1] == "-" and rows[0][1] == others[0][1] == show(cells[0].difference.interval, True)


def test_what_has_no_results_is_left_out() -> None:
    runs = {"a": problem(("ac", 0.1))}
    cells = transfer_cells([MOVED], runs, {"a": compare(runs["a"])})
    assert [cell.transfer.label for cell in cells] == ["ac"]
    assert matrices(cells) == []
