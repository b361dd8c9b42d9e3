"""Every shipped configuration is composed and checked; those that need no hub are built and run for two steps."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from terms_mt_bert import LITERAL_TERMS

from agents import RULES, make_agent
from agents.sb3.algorithms import ALGORITHMS
from cli.settings import probe
from cli.settings.compose import compose
from cli.settings.kinds.base import Settings
from cli.settings.presets import NO_EXPERIMENT, description, groups
from cli.settings.read import check, read_settings
from cli.settings.teachers import set_config, teacher_config
from kd_env import DistillVectorEnv, EnvConfig, build_problem
from kd_env.data.tasks import EMBEDDED, GLUE
from kd_env.decisions.options import env_config
from kd_env.envs.process import with_options
from kd_env.mdp.problem import Problem

GROUPS = groups()
NEEDS_MODEL = ["teacher.name_or_path=encoder"]
NO_SIZES = dict.fromkeys(("num_hidden_layers", "hidden_size", "num_attention_heads", "intermediate_size"))
UNSET = {"init": "pretrained", "shared_width": None, "label_noise": None, "max_train_rows": None}
LABEL_ENVIRONMENTS = [name for name in GROUPS["env"] if name != "tutor_token"]
TOKEN_AGENTS = ("tutor", *(f"rule/{name}" for name, rule in RULES.items() if rule.decision == "tutor_token"))
"""Agents of the one other environment; tests/command_line/test_tutor_job.py runs it."""
TASKS = [name for name in GROUPS["task"] if name not in EMBEDDED]


def settings_of(*overrides: str) -> Any:
    return read_settings(compose("config", overrides))


def test_every_group_is_there_and_described() -> None:
    assert set(GROUPS) == {"task", "teacher", "student", "env", "objective", "agent", "experiment", "regime"}
    assert {"sb3/ppo", "actor_critic", "rule/all"} <= set(GROUPS["agent"])
    for group, presets in GROUPS.items():
        if group in ("experiment", "regime"):
            assert all(description(group, preset) for preset in presets)


def test_the_defaults_are_those_of_the_environment() -> None:
    """One set of defaults: what the main job uses is what gym.make uses, but for what depends on the agent."""
    env = settings_of("experiment=none", "env.action_view=native").env
    expected = dataclasses.replace(env_config(), cache_dir=env.cache_dir, show_progress=True)
    student = dataclasses.replace(expected.student_config, num_hidden_layers=1)
    assert env == dataclasses.replace(expected, student=student)


def test_values_reach_no_later_command_of_the_same_presets() -> None:
    """What presets compose is kept, and put together once."""
    before = compose("config", ["task=toy"])
    changed = compose("config", ["task=toy", "env.budget=7", "agent.options.gamma=0.5"])
    assert (changed["env"]["budget"], changed["agent"]["options"]) == (7, {"gamma": 0.5})
    assert compose("config", ["task=toy"]) == before


@pytest.mark.parametrize(
    ("overrides", "experiment"),
    [
        ([], "wrong_labels"),
        (["agent=sb3/ppo", "student=toy_two", "env.budget=80"], "wrong_labels"),
        (["task=toy"], None),
        (["env=teacher_weighting"], None),
        (["experiment=none"], None),
        (["task=toy", "experiment=wrong_labels"], "wrong_labels"),
        (["experiment=quick"], "quick"),
    ],
)
def test_the_default_experiment_gives_way_to_a_task_or_an_environment(
    overrides: list[str], experiment: str | None
) -> None:
    """Its wrong labels, terms and budget reach no other problem."""
    found = settings_of(*overrides)
    assert found.resolved["presets"].get("experiment") == experiment
    assert found.env.label_noise == (0.8 if experiment == "wrong_labels" else 0.0)
    assert found.run_folder.name.startswith(experiment or "toy")


def test_teacher_defaults_are_those_of_the_fine_tuning() -> None:
    from kd_env.finetuning.classifier import TeacherConfig
    from kd_env.finetuning.co_classifier import CoTeacherConfig, Member

    c = compose("finetune", ["task=mrpc", *NEEDS_MODEL])
    assert teacher_config(c, "out") == TeacherConfig(task="mrpc", name_or_path="encoder", output="out")
    expected = CoTeacherConfig(task="mrpc", members=(Member(name="a", name_or_path="encoder"),), output="out")
    assert set_config(c, [{"name": "a"}], "out", key="members") == expected


def test_every_option_of_teachers_reaches_the_fine_tuning() -> None:
    """Each value that differs from its default does so in the options of one teacher, and of a set."""
    given = {
        **{"init": "fresh", "num_hidden_layers": 3, "hidden_size": 8, "num_attention_heads": 4, "seed": 7},
        **{"intermediate_size": 24, "noisy_words": ["w1"], "epochs": 5, "batch_size": 4, "learning_rate": 0.5},
        **{"weight_decay": 0.5, "warmup": 0.5, "max_grad_norm": 0.5, "precision": "bf16", "keep": "last"},
        **{"evaluations_per_epoch": 2, "shared_width": 12, "label_noise": 0.25, "max_train_rows": 40},
    }
    c = compose("finetune", ["task=mrpc", "task.label_noise=0.5", "task.noise_seed=9", *NEEDS_MODEL])
    known = {"path", "callable", "name_or_path", "source", "check", "cache_dtype"}
    assert set(c["teacher"]) == {*given, *known}, "an option that this test does not know"
    c["teacher"] |= given
    made = set_config(
        c, [{"name": "a"}, {"name": "b", "seed": 3, "init": "pretrained", **NO_SIZES}], "out", key="members"
    )
    one = teacher_config({**c, "teacher": {**c["teacher"], "shared_width": None}}, "out")
    for name, value in given.items():
        expected = tuple(value) if isinstance(value, list) else value
        if name != "shared_width":
            assert getattr(one, name) == expected
        if name != "seed" and hasattr(made.members[0], name):
            assert getattr(made.members[0], name) == expected
        else:
            assert getattr(made, name) == expected
    assert one.noise_seed == made.noise_seed == 9
    shared = {**c, "task": {**c["task"], "max_train_rows": 20}}
    same = teacher_config({**shared, "teacher": {**c["teacher"], **NO_SIZES, **UNSET}}, "out")
    assert (same.label_noise, same.max_train_rows) == (0.5, 20), "as the students where the teacher says nothing"
    every = {**c["teacher"], **NO_SIZES, **UNSET, "max_train_rows": "all"}
    assert teacher_config({**shared, "teacher": every}, "out").max_train_rows is None
    assert made.members[0].seed is None  # drawn from the set's, by place
    assert (made.members[1].seed, made.members[1].init, made.members[1].hidden_size) == (3, "pretrained", None)


@pytest.mark.parametrize("task", GROUPS["task"])
def test_tasks(task: str, tiny: dict[str, Any]) -> None:
    extra = [] if task in EMBEDDED else NEEDS_MODEL
    if task == "custom":
        extra = [*extra, f"task.data_dir={tiny['data_dir']}"]
    found = settings_of(f"task={task}", *extra)
    assert found.env.task == task
    assert (not found.teachers) == (task in EMBEDDED)
    assert found.env.student_config.init == ("fresh" if task in EMBEDDED else "teacher")
    assert ("student_entropy" in found.env.features) == (task != "stsb")


def test_tasks_are_complete() -> None:
    assert set(GROUPS["task"]) == {*GLUE, *EMBEDDED, "custom"}


@pytest.mark.parametrize("task", sorted(EMBEDDED))
def test_embedded_tasks_run(task: str, tmp_path: Path) -> None:
    found = settings_of(f"task={task}", "env.budget=4", f"cache_dir={tmp_path}", "progress=false")
    run_two_steps(build_problem(found.env))


@pytest.mark.parametrize("teacher", GROUPS["teacher"])
def test_teachers(teacher: str) -> None:
    overrides = [f"teacher={teacher}", "task=rte", *([] if teacher == "bert_base" else NEEDS_MODEL)]
    assert settings_of(*overrides).teachers[0][1].name_or_path
    assert settings_of("teacher.path=folder", "task=rte").env.teacher == "folder"


def tiny_overrides(tiny: dict[str, Any], cache: Path) -> list[str]:
    return [
        "task=custom",
        f"task.data_dir={tiny['data_dir']}",
        f"teacher.path={tiny['teacher']}",
        *("task.feedback_rows=32", "task.selection_rows=32", "env.evaluation_rows=32"),
        *("env.batch_size=4", "env.budget=8", "progress=false"),
        f"cache_dir={cache}",
    ]


@pytest.mark.parametrize("student", GROUPS["student"])
def test_students(student: str, tiny: dict[str, Any], tmp_path: Path) -> None:
    extra = ["student.name_or_path=" + tiny["teacher"]] if student == "pretrained" else []
    if student == "pca_small":  # the tiny teacher is narrower
        extra = ["student.hidden_size=8"]
    if student.startswith("tutor_kd_"):  # of 5.7 to 66 million parameters
        extra = ["student.hidden_size=12"]
    found = settings_of(*tiny_overrides(tiny, tmp_path), f"student={student}", *extra)
    depth = found.env.student_config.num_hidden_layers
    if found.env.student_config.init == "teacher" and depth > 2:
        with pytest.raises(ValueError, match="layer"):  # the tiny teacher has two
            build_problem(found.env)
        return
    run_two_steps(build_problem(found.env))


@pytest.mark.parametrize("env", LABEL_ENVIRONMENTS)
def test_the_learning_rate_follows_the_student(env: str) -> None:
    """The resolved configuration holds the number; a value that is given wins for every student."""
    for words, rate in (
        (["task=toy"], 0.007),
        (["task=rte", *NEEDS_MODEL], 0.0003),  # student=auto
        (["student=first1", "env.optimizer.warmup=0.2"], 0.0003),
        (["student=pca_small"], 0.002),
        (["student=pretrained", "student.name_or_path=folder"], 0.0003),
        (["student=first1", "env.optimizer.learning_rate=0.01"], 0.01),
    ):
        found = settings_of(f"env={env}", "env.action_view=native", *words)
        assert found.env.optimizer_config.rate == found.resolved["env"]["optimizer"]["learning_rate"] == rate
        assert found.resolved["env"]["optimizer"]["betas"] == [0.9, 0.999]


@pytest.mark.parametrize("env", LABEL_ENVIRONMENTS)
@pytest.mark.parametrize("view", ["native", "discrete", "box"])
def test_environments(env: str, view: str, tiny: dict[str, Any], tmp_path: Path) -> None:
    overrides = tiny_overrides(tiny, tmp_path)
    found = settings_of(*overrides, "student=toy_small", f"env={env}", f"env.action_view={view}")
    run_two_steps(build_problem(found.env))


@pytest.fixture(scope="module")
def three_teachers(tiny_set: dict[str, Any]) -> Problem:
    """The tiny set under the names of the packaged one, which presets of rules use."""
    names = ("full", "narrow", "shallow")
    teachers = [{**each, "name": name} for each, name in zip(tiny_set["teachers"], names, strict=True)]
    return build_problem(env_config(**{**tiny_set, "teachers": teachers, "decision": "teacher_weighting"}))


# What libraries warn of when they are driven for two steps is not what is tested here.
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("agent", [name for name in GROUPS["agent"] if name not in TOKEN_AGENTS])
def test_agents(agent: str, tiny: dict[str, Any], tiny_problem: Problem, three_teachers: Problem) -> None:
    rule = RULES.get(agent.removeprefix("rule/"))
    about_teachers = (
        agent in ("teacher_selector", "row_actor_critic") or getattr(rule, "decision", "") == "teacher_weighting"
    )
    about_rows = agent == "row_reinforce" or getattr(rule, "decision", "") == "sample_weighting"
    about_labels = getattr(rule, "decision", "") == "divergence_shaping"
    env_preset = ["env=teacher_weighting"] if about_teachers else ["env=sample_weighting"] if about_rows else []
    env_preset += ["env=divergence_shaping"] if about_labels else []
    env_preset += ["task.label_noise=0.4"] if getattr(rule, "bound", False) else []  # which wrong labels it knows
    own = ["student=toy_small", f"agent={agent}", "num_envs=2", "evaluation.rules=[]"]
    found = settings_of("experiment=none", *own, *env_preset)
    probe.check(found)
    view = found.env.action_view
    assert view == found.resolved["agent"]["action_view"]
    problem = tiny_problem
    if about_teachers:
        env = found.env
        options = {"weighting": env.weighting, "updates_per_step": env.updates_per_step, "features": env.features}
        problem = with_options(three_teachers, **options)
    if about_rows:
        rows = {"decision": "sample_weighting", "weighting": "sample", "updates_per_step": 1}
        problem = with_options(tiny_problem, **rows, features=found.env.features, reward=found.env.reward)
    if about_labels:
        shaped = {"decision": "divergence_shaping", "terms": found.env.terms, "features": found.env.features}
        problem = build_problem(env_config(**{**tiny, **shaped}))
    if found.env.teacher_learns:
        learning = {"teacher_source": "online", "teacher_updates": found.env.teacher_updates}
        problem = build_problem(env_config(**{**tiny, **rows, **learning, "features": ["row_student"]}))
    if found.env.label_noise:
        problem = build_problem(env_config(**{**tiny, **rows, "label_noise": 0.4, "features": ["progress"]}))
    if "teacher_cls" in found.env.features:  # a preset may bring features that the problem must be built with
        problem = build_problem(env_config(**{**tiny, "features": found.env.features}))
    if set(getattr(RULES.get(found.agent.name), "needs_terms", ())) - set(problem.term_names):
        pytest.fail(f"the tiny task lacks a term of {agent}")
    envs = DistillVectorEnv(2, problem=problem, action_view=view)
    one = make_agent(found.agent.name, envs, seed=0, **found.agent.options)
    one.learn(2 * envs.episode_steps if found.agent.name == "searched" else 4)
    observations, _ = envs.reset(seed=0)
    for _ in range(2):
        actions, _ = one.predict(observations, episode_start=np.zeros(2, dtype=bool))
        observations, rewards, *_ = envs.step(actions)
        assert np.isfinite(rewards).all()


@pytest.mark.parametrize("agent", TOKEN_AGENTS)
def test_agents_of_tokens(agent: str) -> None:
    found = check(settings_of("env=tutor_token", f"agent={agent}"))
    assert (found.env.action_view, found.env.observation) == ("native", "dict")
    assert len(found.rules or ()) == len(TOKEN_AGENTS) - 1


def test_agents_are_complete() -> None:
    assert {name.removeprefix("sb3/") for name in GROUPS["agent"] if name.startswith("sb3/")} == set(ALGORITHMS)
    assert {name.removeprefix("rule/") for name in GROUPS["agent"] if name.startswith("rule/")} == {
        *RULES,
        "searched",  # stands among the rules, and is trained
    }


EXPERIMENT_AGENTS = {
    "annealing_kd": "annealing_kd",
    "baselines": "kd",
    "dist": "dist",
    "dml": "dml",
    "instance_temperature": "row_reinforce",
    "expert_teachers": "row_actor_critic",
    "expert_teachers_mrpc": "row_actor_critic",
    "kd": "kd",
    "ks_paper": "knowledge_selector_published",
    "lgtm": "lgtm",
    "lgtm_mrpc": "lgtm",
    "metadistil": "metadistil",
    "ks_paper_small": "knowledge_selector_published",
    "mt_bert": "mt_bert",
    "mt_bert_paper_small": "mt_bert",
    "mt_bert_paper": "mt_bert",
    "noisy_samples": "row_reinforce",
    "noisy_samples_sst2": "row_reinforce",
    "pkd": "pkd",
    "prokt": "prokt",
    "lgtm_paper": "lgtm",
    "lgtm_paper_small": "lgtm",
    "metadistil_paper": "metadistil",
    "rco": "rco",
    "rco_mrpc": "rco",
    "rl_kd": "teacher_selector",
    "rl_kd_mrpc": "teacher_selector",
    "se_kd": "se_kd",
    "tgeo_kd": "row_reinforce",
    **dict.fromkeys(("tutor_paper", "tutor_kd_paper", "tutor_kd_paper_small"), "tutor"),
}


# There a random head on the teacher's encoder can be as good as the teacher's once it is scaled: the gap has a floor.
FLOORED = pytest.mark.filterwarnings("ignore:The teacher's loss:UserWarning")


@pytest.mark.parametrize(
    "experiment",
    [
        pytest.param(name, marks=FLOORED) if name in ("noisy_samples", "unreliable_teacher") else name
        for name in GROUPS["experiment"]
    ],
)
def test_experiments(experiment: str, tmp_path: Path) -> None:
    embedded = compose("config", [f"experiment={experiment}"])["task"]["name"] in EMBEDDED
    needs = {
        "lgtm_mrpc": ["teacher.path=encoder"],
        "lgtm_paper": [],
        "lgtm_paper_small": ["teacher.path=encoder", "student.name_or_path=encoder"],
        "tutor_kd_paper": [],
        "tutor_kd_paper_small": ["teacher.path=language_model"],
    }.get(experiment, NEEDS_MODEL)
    found = settings_of(f"experiment={experiment}", *([] if embedded else needs))
    agent = EXPERIMENT_AGENTS.get(experiment, "actor_critic")
    assert found.run_folder.name == f"{'toy' if experiment == NO_EXPERIMENT else experiment}-{agent}-seed0"
    assert experiment in description("experiment", experiment), "the command is missing"
    if embedded:
        check(found)
    # Of tutors tests/command_line/test_tutor_job.py runs one.
    if found.env.task in EMBEDDED and found.env.decision != "tutor_token":
        env = with_hardly_trained_set(found, tmp_path / "set")
        few = {"max_train_rows": env.max_train_rows or 256, "selection_rows": 64}  # sooner read
        small = dataclasses.replace(env, budget=4, cache_dir=str(tmp_path), show_progress=False, **few)
        run_two_steps(build_problem(small))


def with_hardly_trained_set(found: Settings, output: Path) -> EnvConfig:
    """The environment's options; a set that is made first has the same members, but has seen four batches."""
    from kd_env.core.records import members
    from kd_env.finetuning.co_classifier import cofinetune

    if found.cofinetuned is None:
        return found.env
    assert found.cofinetuned.output == str(Path(found.teachers[0][1]).parent)
    rows = {"batch_size": 16, "max_train_rows": 64, "selection_rows": 64}
    short = dataclasses.replace(found.cofinetuned, output=str(output), epochs=1, show_progress=False, **rows)
    folders = members(cofinetune(short))
    assert tuple(folder.name for folder in folders) == probe.teacher_names(found)
    return dataclasses.replace(found.env, teachers=tuple({"name": f.name, "path": str(f)} for f in folders))


REAL = ("mrpc", "sst2", "stsb", "ks_paper_small", "mt_bert_paper_small", "rco_mrpc", "rl_kd_mrpc", "weighting_mrpc")


@pytest.mark.parametrize("experiment", REAL)
def test_experiments_fit_the_real_files(experiment: str, assets: Path) -> None:
    encoder = assets / "models" / "minilm-l6-h384-uncased"
    found = settings_of(
        f"experiment={experiment}", f"task.data_dir={assets / 'glue'}", f"teacher.name_or_path={encoder}"
    )
    assert probe.check(found).rules


def test_the_real_experiments_share_their_teachers() -> None:
    """One by one fine-tuned teachers are made once for both experiments that weigh them."""
    batch, sample = (settings_of(f"experiment={name}", *NEEDS_MODEL) for name in ("weighting_mrpc", "rl_kd_mrpc"))
    assert batch.teachers == sample.teachers
    assert [(name, teacher.num_hidden_layers, teacher.seed) for name, teacher in batch.teachers] == [
        *(("six", 6, 1), ("five", 5, 2), ("four", 4, 3))
    ]
    made = settings_of("experiment=mt_bert_paper_small", *NEEDS_MODEL).cofinetuned
    assert [(one.name, one.num_hidden_layers) for one in made.members] == [("six", 6), ("five", 5), ("four", 4)]
    assert {one.name_or_path for one in made.members} == {"encoder"}


def test_mt_bert_is_the_literal_one() -> None:
    """The terms, scale and weights of the formula that tests/knowledge/test_mt_bert.py transcribes."""
    for experiment in ("mt_bert", "mt_bert_paper_small", "mt_bert_paper"):
        env = settings_of(f"experiment={experiment}", *([] if experiment == "mt_bert" else NEEDS_MODEL)).env
        assert list(env.terms) == LITERAL_TERMS
        assert (env.term_scale, env.weight_normalization, tuple(env.weighs)) == ("none", "none", ("soft_label",))
        assert env.weighting == "sample" and "row_teacher_losses" in env.features
        assert env.student_config.init == "teacher" and env.student_config.train_embeddings
        assert env.optimizer_config.max_grad_norm is None


def run_two_steps(problem: Problem) -> None:
    envs = DistillVectorEnv(2, problem=problem)
    envs.reset(seed=0)
    envs.action_space.seed(0)
    for _ in range(2):
        observations, rewards, *_ = envs.step(envs.action_space.sample())
        assert np.isfinite(observations).all() and np.isfinite(rewards).all()
