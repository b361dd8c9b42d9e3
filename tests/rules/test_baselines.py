"""The fixed ways to distil: each experiment's loss against its paper's formula, written out; assistants (TAKD)."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from agents import RULES, make_rule
from agents.rules.base import Rule
from agents.rules.knowledge_selection import All
from cli.jobs.students import has_feedback
from cli.main import main, run
from cli.settings.compose import compose
from cli.settings.kinds.base import Settings
from cli.settings.read import read_settings
from kd_env import DistillVectorEnv, build_problem
from kd_env.core.types import ModelOutput, Signal
from kd_env.decisions.catalog import DECISIONS
from kd_env.decisions.options import env_config
from kd_env.envs.process import with_options
from kd_env.envs.student_record import STEERED
from kd_env.finetuning.classifier import TeacherConfig, teacher_record
from kd_env.mdp import passes
from kd_env.mdp.problem import Problem

pytestmark = pytest.mark.usefixtures("undrawn")
STEPS = 12
FEEDBACK_FEATURES = ("gap", "student_entropy", "agreement", "feedback_metric")


@pytest.fixture(scope="module")
def base(tiny: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Overrides: the tiny task, one update of four rows a step."""
    return [
        "task=custom",
        f"task.data_dir={tiny['data_dir']}",
        *("task.feedback_rows=32", "task.selection_rows=32", "env.evaluation_rows=32", "student.hidden_size=16"),
        *("env.batch_size=4", f"env.budget={STEPS}", "env.updates_per_step=1", "progress=false"),
        "teacher.check=none",  # students of a few updates teach, too
        f"cache_dir={tmp_path_factory.mktemp('cache')}",
    ]


def settings_of(*overrides: str) -> Settings:
    return read_settings(compose("config", overrides))


class Step:
    """One step: what student and teachers say about its batch, and the loss that the environment trained on."""

    def __init__(self, problem: Problem, env: DistillVectorEnv, rule: Any, observations: np.ndarray) -> None:
        state = env.run.started()
        rows, layer = state.next_rows[:, 0], frozenset({Signal("cls", 1)})
        batch = problem.train.gather(rows[0])
        with torch.no_grad():
            many = problem.train.gather(rows)
            student = passes.student_forward(problem, state.params, many, layer)
            self.student = ModelOutput(student.logits[0], {1: student.cls[1][0]}, {}, {}, {}, {}, {})
            self.teachers = [teacher.encoder.forward({}, batch, layer) for teacher in problem.teachers]
        self.labels: Tensor = batch.labels
        actions, _ = rule.predict(observations)
        self.observations, _, _, _, info = env.step(actions)
        self.loss = float((info["weights"][0] * info["raw_losses"][0]).sum())

    @property
    def ce(self) -> float:
        return float(F.cross_entropy(self.student.logits, self.labels))

    def kl(self, teacher: int = 0, tau: float = 2.0) -> float:
        """``tau^2 KL(p_T || p_S)``, the mean over rows, by PyTorch."""
        log_s = F.log_softmax(self.student.logits / tau, -1)
        return tau**2 * float(
            F.kl_div(log_s, F.softmax(self.teachers[teacher].logits / tau, -1), reduction="batchmean")
        )


def steps_of(found: Settings) -> list[Step]:
    """Every step of an episode under the run's own rule."""
    problem = build_problem(found.env)
    assert found.env.term_scale == "none"
    env = DistillVectorEnv(1, problem=problem, autoreset_mode="disabled")
    rule = make_rule(found.agent.name, env, **found.agent.options)
    observations, _ = env.reset(seed=0)
    steps: list[Step] = []
    for _ in range(STEPS):
        steps.append(Step(problem, env, rule, observations))
        observations = steps[-1].observations
    return steps


def pkd(step: Step) -> float:
    """Of the authors' code: the mean squared error of unit vectors, over their width too, times beta = 100 at 768."""
    student, teacher = (F.normalize(output.cls[1], dim=-1) for output in (step.student, step.teachers[0]))
    beta = 0.13 * student.shape[-1]  # what 100 is at 768
    return 0.5 * step.ce + 0.5 * step.kl() + beta * float(F.mse_loss(student, teacher))


def dist(step: Step) -> float:
    p, q = (F.softmax(output.logits, -1).numpy() for output in (step.student, step.teachers[0]))
    inter = np.mean([1 - np.corrcoef(p[row], q[row])[0, 1] for row in range(len(p))])
    intra = np.mean([1 - np.corrcoef(p[:, c], q[:, c])[0, 1] for c in range(p.shape[1])])
    return step.ce + 2 * float(inter) + 2 * float(intra)


FORMULAS: dict[str, Callable[[Step], float]] = {
    "kd": lambda step: 0.5 * step.ce + 0.5 * step.kl(),
    "pkd": pkd,
    "dist": dist,
}


@pytest.mark.parametrize("name", FORMULAS)
def test_the_loss_is_the_papers(name: str, base: list[str], tiny: dict[str, Any]) -> None:
    words = [f"experiment={name}", f"teacher.path={tiny['teacher']}", *base, "env.precision=fp64"]
    words += [] if name == "pkd" else ["student=toy_small"]
    found = settings_of(*words)
    steps = steps_of(found)
    found_losses, expected = ([value(step) for step in steps] for value in (lambda step: step.loss, FORMULAS[name]))
    # Probabilities of a fresh student hardly differ, so that what keeps a correlation finite there shows in it.
    first = 3 if name == "dist" else 0
    assert found_losses[:first] == pytest.approx(expected[:first], rel=2e-2)
    assert found_losses[first:] == pytest.approx(expected[first:], rel=1e-5)
    assert len({round(step.loss, 6) for step in steps}) == STEPS


def test_pkd_leaves_the_last_layer_out(base: list[str], tiny: dict[str, Any]) -> None:
    problem = build_problem(settings_of("experiment=pkd", f"teacher.path={tiny['teacher']}", *base).env)
    (term,) = (term for term in problem.reference.terms if term.name == "cls")
    assert term.student_signals == term.teacher_signals == {Signal("cls", 1)}


def test_annealing_kd_goes_from_shares_of_the_logits_to_the_labels(base: list[str], tiny: dict[str, Any]) -> None:
    """Phi = 1 - (T - 1) / tau_max with T falling from tau_max = 4 to 1, then labels alone for a third of the budget."""
    words = ["experiment=annealing_kd", "student=toy_small", f"teacher.path={tiny['teacher']}", *base]
    found = settings_of(*words, "env.precision=fp64")
    temperatures = [4, 4, 3, 3, 2, 2, 1, 1, None, None, None, None]
    for step, temperature in zip(steps_of(found), temperatures, strict=True):
        expected = step.ce
        if temperature is not None:
            phi = 1 - (temperature - 1) / 4
            expected = float(F.mse_loss(step.student.logits, phi * step.teachers[0].logits))
        assert step.loss == pytest.approx(expected, rel=1e-6)


def test_rco_follows_one_training(base: list[str], tiny_set: dict[str, Any]) -> None:
    """The checkpoints differ in the epoch alone, and each teaches for a third of the budget beside the labels."""
    made = dict(settings_of("experiment=rco").teachers)
    configs = [config for config in made.values() if isinstance(config, TeacherConfig)]
    identities = [config.identity() for config in configs]
    assert [identity.pop("keep") for identity in identities] == [1, 3, 6]
    assert identities[0] == identities[1] == identities[2]
    assert len({config.output for config in configs}) == 3
    folders = [teacher["path"] for teacher in tiny_set["teachers"]]
    given = ", ".join(f"{{name: {name}, path: {path}}}" for name, path in zip(made, folders, strict=True))
    found = settings_of("experiment=rco", *base, "student=toy_small", f"teachers=[{given}]", "env.precision=fp64")
    for place, step in enumerate(steps_of(found)):
        assert step.loss == pytest.approx(step.ce + step.kl(place // 4), rel=1e-6)


def test_the_table_of_baselines_has_each_as_its_own_experiment_has_it() -> None:
    together = settings_of("experiment=baselines")
    policies = {rule.label: rule for rule in together.rules or ()} | {together.agent.label: together.agent}
    terms = {
        entry if isinstance(entry, str) else str(entry.get("as", entry["name"])): entry for entry in _terms(together)
    }
    for name in ("kd", "pkd", "dist", "annealing_kd"):
        alone, there = settings_of(f"experiment={name}"), policies[name]
        own = {
            entry if isinstance(entry, str) else str(entry.get("as", entry["name"])): entry for entry in _terms(alone)
        }
        assert own.items() <= terms.items()
        if alone.agent.name == "all":
            assert there.options == {"weights": dict.fromkeys(own, 1.0)}
        else:
            assert (there.name, there.options) == (alone.agent.name, alone.agent.options)
        assert (alone.env.budget, alone.env.term_scale) == (together.env.budget, together.env.term_scale)
    assert together.env.layer_map == settings_of("experiment=pkd").env.layer_map == "skip"


def _terms(found: Settings) -> list[Any]:
    return [dict(entry) if not isinstance(entry, str) else entry for entry in found.env.terms]


def test_the_main_job_sets_them_side_by_side(base: list[str], tiny: dict[str, Any], tmp_path: Path) -> None:
    words = ["experiment=baselines", f"teacher.path={tiny['teacher']}", *base, "evaluation.seeds=2"]
    assert run("train", [*words, f"runs_dir={tmp_path}"], "kd-env train") == 0
    report = json.loads((tmp_path / "baselines-kd-seed0" / "results.json").read_text())
    assert {policy["policy"] for policy in report["policies"]} == {
        *("kd", "pkd", "dist", "annealing_kd", "hard_label_only")
    }
    assert not any(any(policy["seeds"]["diverged"]) for policy in report["policies"])


# -- assistants


@pytest.fixture(scope="module")
def taught(tiny: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The tiny teacher with a record that makes it clean on every split, as the packaged ones are."""
    import shutil

    folder = tmp_path_factory.mktemp("taught") / "teacher"
    shutil.copytree(tiny["teacher"], folder)
    (folder / "kd_env_teacher.json").write_text(
        json.dumps({"trained_on": "rows apart from every split", "task": "custom"}), encoding="utf-8"
    )
    return {**tiny, "teacher": str(folder)}


@pytest.mark.filterwarnings("ignore:The teacher's loss")  # a few updates make no good teacher
def test_an_assistant_teaches_in_turn(base: list[str], taught: dict[str, Any], tmp_path: Path) -> None:
    """TAKD: a student of a size in between is kept and teaches, known to be clean; its logits are the student's."""
    both = ["experiment=kd", *base, f"runs_dir={tmp_path}", "evaluation.seeds=2", "evaluation.rules=[]"]
    middle = ["student=toy_two", f"teacher.path={taught['teacher']}", "save_students=1", "name=assistant"]
    assert run("train", [*both, *middle], "kd-env train") == 0
    folder = tmp_path / "assistant" / "students" / "seed10000"
    assert [path.name for path in folder.parent.iterdir()] == ["seed10000"]
    record = teacher_record(folder) or {}
    assert record["trained_on"] == "train" and record["source"]["trained_on"] == "rows apart from every split"
    assert record["distilled"]["teachers"] == {"custom": taught["teacher"]} and record["distilled"]["policy"] == "kd"

    small = ["student=toy_small", "student.hidden_size=8", f"teacher.path={folder}", "name=takd"]
    assert run("train", [*both, *small], "kd-env train") == 0
    facts = json.loads((tmp_path / "takd" / "results.json").read_text())["facts"]
    assert (facts["saw_feedback"], facts["teacher"]) == ("no", str(folder))
    judged = json.loads((tmp_path / "assistant" / "results.json").read_text())
    kept = judged["policies"][0]["seeds"]["splits"]["validation"]["metrics"]["accuracy"][0]
    assert json.loads((tmp_path / "takd" / "results.json").read_text())["teacher"]["validation"]["accuracy"] == kept

    again = [f"run={tmp_path / 'assistant'}", "save_students=2", "name=again"]  # into the folder of that evaluation
    assert run("evaluate", again, "kd-env evaluate") == 0
    more = tmp_path / "assistant" / "evaluations" / "again" / "students"
    assert {path.name for path in more.iterdir()} == {"seed10000", "seed10001"}
    assert (more / "seed10000" / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()


def test_an_assistant_is_as_clean_as_what_it_comes_from(base: list[str], tiny: dict[str, Any], tmp_path: Path) -> None:
    """From a teacher without a record, nobody knows."""
    words = ["experiment=kd", "student=toy_small", *base, f"runs_dir={tmp_path}", "evaluation.seeds=1"]
    words += ["evaluation.rules=[]", "save_students=1", "name=foreign", f"teacher.path={tiny['teacher']}"]
    assert run("train", words, "kd-env train") == 0
    folder = tmp_path / "foreign" / "students" / "seed10000"
    problem = build_problem(settings_of("experiment=kd", "student=toy_small", *base, f"teacher.path={folder}").env)
    assert problem.reference.saw_feedback == "unknown"


def test_a_student_that_feedback_rows_steered_may_not_teach_on_their_split(
    base: list[str], taught: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*base, f"runs_dir={tmp_path}", "evaluation.seeds=1", "evaluation.rules=[]", "student=toy_small"]
    first = [f"teacher.path={taught['teacher']}", "save_students=1", "name=stopped", "agent=rule/early_stopping"]
    assert run("train", [*words, *first], "kd-env train") == 0
    folder = tmp_path / "stopped" / "students" / "seed10000"
    assert (teacher_record(folder) or {})["trained_on"] == STEERED
    capsys.readouterr()
    assert main(["train", *words, "agent=rule/all", f"teacher.path={folder}", "name=refused"]) == 2
    assert "steered by feedback" in capsys.readouterr().err
    # Of another cut of the rows nobody knows which it saw.
    other = settings_of(*words, "agent=rule/all", f"teacher.path={folder}", "task.split_seed=1")
    assert build_problem(other.env).reference.saw_feedback == "unknown"


def test_more_students_than_are_judged_are_refused(base: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    for words, expected in (
        (["save_students=3", "evaluation.seeds=2"], "more than evaluation.seeds=2"),
        (["save_students=-1"], "save_students=-1 must be a whole number of at least 0"),
    ):
        assert main(["train", "experiment=kd", *words]) == 2
        assert expected in capsys.readouterr().err


@pytest.mark.parametrize("decision", ["knowledge_selection", "teacher_weighting", "sample_weighting"])
def test_rules_without_feedback_do_not_look(decision: str, tiny: dict[str, Any], tiny_set: dict[str, Any]) -> None:
    """They do the same when everything that is observed about feedback rows is another."""
    options: dict[str, dict[str, Any]] = {
        "fixed": {"weights": {"hard_label": 1.0}},
        "stages": {"terms": ["soft_label", "hard_label"]},
        "single_teacher": {"teacher": "small"},
        "fixed_weights": {"weights": {"small": 1.0}},
        "route": {"order": ["small"]},
    }
    names = [name for name, rule in sorted(RULES.items()) if rule.decision == decision and not rule.looks_at_feedback]
    assert names
    config = env_config(**{**tiny, "decision": decision, "updates_per_step": 1, "label_noise": 0.4})
    if decision == "teacher_weighting":
        given = [{**each, "name": name} for each, name in zip(tiny_set["teachers"], ("small", "b", "c"), strict=True)]
        weighed = {"decision": decision, "weighting": "sample", "updates_per_step": 1}
        config = env_config(**{**tiny_set, "teachers": given, **weighed})
    built = build_problem(config)
    default = DECISIONS[decision].features_for({"weighting": config.weighting})
    features = tuple(dict.fromkeys((*default, *FEEDBACK_FEATURES)))
    for name in names:
        env = DistillVectorEnv(1, problem=with_options(built, features=features, action_view=RULES[name].views[0]))
        seen, _ = env.reset(seed=0)
        other = seen.copy()
        for feature in FEEDBACK_FEATURES:
            other[:, env.observation_layout[feature].slice] += 0.37
        first, second = (
            make_rule(name, env, seed=3, **options.get(name, {})).predict(observations, None, None)[0]
            for observations in (seen, other)
        )
        assert all(map(np.array_equal, *(each if isinstance(each, tuple) else (each,) for each in (first, second))))


def test_rules_that_look_are_not_among_those_that_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rule from outside counts as one that looks until it says that it does not."""
    monkeypatch.setitem(RULES, "outside", type("Outside", (Rule,), {"name": "outside"}))
    monkeypatch.setitem(RULES, "outside_all", type("OutsideAll", (All,), {"name": "outside_all"}))
    for name in ("greedy", "early_stopping", "lgtm", "metadistil", "outside", "actor_critic", "searched"):
        assert has_feedback(name), name
    blind = {name for name in RULES if not has_feedback(name)}
    assert {"all", "average", "uniform", "outside_all"} <= blind
    assert not any(set(RULES[name].needs_features) & set(FEEDBACK_FEATURES) for name in blind)
