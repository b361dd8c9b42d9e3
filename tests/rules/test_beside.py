"""Rules that are judged beside policies of another decision: the soft labels alone, where rows are weighed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from cli.jobs import contenders
from cli.settings import probe
from cli.settings.compose import compose
from cli.settings.kinds.base import PolicySpec
from cli.settings.read import read_settings
from kd_env import build_problem
from kd_env.decisions.options import env_config
from kd_env.evaluation.judging.protocol import evaluate_policies

SOFT = {"name": "soft_label", "temperature": 2.0}


@pytest.fixture(scope="module")
def settings() -> Any:
    """Of the experiment with wrong labels."""
    return read_settings(compose("config", ["experiment=noisy_samples", "progress=false"]))


def with_env(settings: Any, **options: Any) -> Any:
    return replace(settings, env=replace(settings.env, **options))


def with_rules(settings: Any, *names: str) -> Any:
    return replace(settings, rules=tuple(PolicySpec(name, {}, name) for name in names))


def losses(settings: Any, env: Any, *names: str) -> dict[str, np.ndarray]:
    """Losses of the students of some rules in an environment, judged by the main job's own hands."""
    given = with_rules(replace(settings, env=env, agent=PolicySpec("none", {}, "none")), "uniform", "soft_label_only")
    problem = build_problem(env)
    found = evaluate_policies(problem, contenders.contenders(given, problem, None, names), [1, 2]).policies
    return {name: result.splits["validation"].loss for name, result in found.items()}


def test_it_trains_students_by_the_soft_label_of_the_run_alone(settings: Any, tiny: dict[str, Any]) -> None:
    """As they are in an environment of that term alone, where every row counts alike; and with feedback rows, too."""
    rows = {"decision": "sample_weighting", "updates_per_step": 1, "budget": 3, "label_noise": 0.4}
    options = {**tiny, **rows, "features": ("progress",), "terms": ("hard_label", SOFT)}
    names = ["uniform", "soft_label_only", "soft_label_only (train+feedback)"]
    found = losses(settings, env_config(**options), *names)
    for name, train_on in ((names[1], "train"), (names[2], "train+feedback")):
        alone = losses(settings, env_config(**{**options, "terms": (SOFT,), "train_on": train_on}), "uniform")
        np.testing.assert_array_equal(found[name], alone["uniform"])
    assert (found["uniform"] != found["soft_label_only"]).all()


def test_auto_finds_the_rules_that_have_a_meaning(settings: Any) -> None:
    def auto(**options: Any) -> set[str]:
        return {rule.name for rule in probe.check(with_env(settings, **options)).rules}

    found = auto()
    assert {"agree", "oracle", "soft_label_only", "uniform"} <= found and "hard_label_only" not in found
    clean = auto(label_noise=0.0, terms=("hard_label",))
    assert "agree" in clean and not {"oracle", "soft_label_only"} & clean
    assert not {"agree", "soft_label_only"} & auto(features=("progress", "row_student"), terms=("soft_label",))


@pytest.mark.parametrize(
    ("rule", "options", "message"),
    [
        ("oracle", {"label_noise": 0.0}, r"evaluation.rules: .*none was made wrong here"),
        ("soft_label_only", {"terms": ("soft_label",)}, "is all there is"),
        ("soft_label_only", {"terms": ("hard_label", "cls")}, "add 'soft_label' to its terms"),
        ("agree", {"features": ("progress",)}, "add 'row_teacher_losses' to its features"),
    ],
)
def test_what_has_none_is_refused(rule: str, options: dict[str, Any], message: str, settings: Any) -> None:
    with pytest.raises(ValueError, match=message):
        probe.check(with_rules(with_env(settings, **options), rule))
    with pytest.raises(ValueError, match=r"reports judge it there beside others: evaluation.rules"):
        probe.check(replace(settings, agent=PolicySpec("soft_label_only", {}, "soft_label_only")))


def test_a_search_has_controls_to_search_in_the_environment_of_rows(settings: Any) -> None:
    """The experiment leaves the view to the agent: weights of single rows have no constant but the plain run."""
    assert settings.env.action_view == "native"
    searched = read_settings(compose("config", ["experiment=noisy_samples", "agent=rule/searched"]))
    assert probe.check(with_rules(searched, "uniform")).env.action_view == "box"
    with pytest.raises(ValueError, match="rule 'uniform'"):
        probe.check(with_env(searched, action_view="native", score="student_loss"))
