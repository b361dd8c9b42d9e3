"""Functions of texts and models with predict_proba as teachers: asked once, kept, and refused where they do not fit."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import gymnasium as gym
import numpy as np
import pytest

from cli.settings.compose import compose
from cli.settings.teachers import cofinetuned_set, single_teacher, teacher_list
from kd_env import DistillVectorEnv, build_problem
from kd_env.config.environment import EnvConfig
from kd_env.data.rows import ProblemRows
from kd_env.data.tasks import EMBEDDED, Rows
from kd_env.decisions.options import env_config
from kd_env.mdp.problem import Problem
from kd_env.teachers.answers.functions import AskedFunction

CODE = '''
import json
from pathlib import Path

import numpy as np
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline

CALLS = []


def shares(texts):
    """Longer texts are more of the second label."""
    CALLS.append(len(texts))
    ones = np.array([1 / (1 + len(text.split())) for text in texts])
    return np.stack([ones, 1 - ones], 1)


def named(texts):
    return {"labels": ["1", "0"], "probabilities": shares(texts)[:, ::-1]}


def logits(texts):
    return {"labels": ["0", "1"], "logits": 3 * shares(texts)}


def scores(texts):
    return np.array([len(text) / 100 for text in texts])


def pipeline():
    return make_pipeline(CountVectorizer(token_pattern=r"\\S+"), LogisticRegression())


def ridge():
    return make_pipeline(CountVectorizer(token_pattern=r"\\S+"), Ridge())


def fitted():
    return pipeline().fit(["w1 w2", "w3"], ["1", "0"])


def other_names():
    return pipeline().fit(["w1 w2", "w3"], ["good", "bad"])


def pairs(texts):
    CALLS.append(texts)
    return [[0.5, 0.5] for first, second in texts]


def short(texts):
    return shares(texts)[1:]


def one_sided(texts):
    return shares(texts)[:, 1]


def broken(texts):
    raise RuntimeError("no quota left")


def unknown(texts):
    return {"answers": shares(texts)}


def nothing():
    return "nothing"


class Model:
    def predict_proba(self, texts):
        return shares(texts)


bare = Model()
value = 3
'''


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The user's module, fresh for each test."""
    (tmp_path / "user_teachers.py").write_text(CODE, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "user_teachers", raising=False)
    import importlib

    yield importlib.import_module("user_teachers")
    sys.modules.pop("user_teachers", None)


def build(options: dict[str, Any], teacher: Any, **changes: Any) -> Problem:
    own = {"teacher": teacher, "student": options["teacher"], "terms": ["hard_label", "soft_label"]}
    return build_problem(env_config(**{**options, **own, "teacher_check": "none", **changes}))


@pytest.mark.filterwarnings("ignore:The teacher's loss")
def test_a_function_is_asked_once_about_every_row(module: Any, tiny: dict[str, Any]) -> None:
    problem = build(tiny, "user_teachers:shares")
    assert sum(module.CALLS) == len(problem.train) + 2 * 32
    texts = [text.split() for text in train_texts(problem, tiny)]
    expected = np.array([1 / (1 + len(words)) for words in texts])
    np.testing.assert_allclose(np.exp(problem.reference.train_logits[:, 0]), expected, rtol=1e-5)
    env = DistillVectorEnv(2, problem=problem)
    env.reset(seed=0)
    _, rewards, *_ = env.step(np.ones((2, 2), dtype=np.int8))
    assert np.isfinite(rewards).all() and sum(module.CALLS) == len(problem.train) + 2 * 32


def train_texts(problem: Problem, options: dict[str, Any]) -> list[str]:
    from kd_env.data.loading import get_task, load_train

    rows = load_train(get_task("custom", options["columns"], options["data_dir"]), options["data_dir"])
    return [rows.first[row] for row in problem.splits.train]


@pytest.mark.parametrize("name", ["named", "logits"])
def test_a_mapping_says_the_order_of_labels_and_what_its_values_are(
    name: str, module: Any, tiny: dict[str, Any]
) -> None:
    plain, mapped = (build(tiny, f"user_teachers:{one}").reference.train_logits for one in ("shares", name))
    expected = plain if name == "named" else 3 * np.exp(plain)
    np.testing.assert_allclose(mapped, expected, rtol=1e-5)


def test_what_a_function_said_is_kept_on_the_disk_by_its_code_version_and_texts(
    module: Any, tiny: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    options = {**tiny, "cache_dir": str(tmp_path / "cache")}
    with caplog.at_level(logging.WARNING, "kd_env"):
        first = build(options, "user_teachers:shares").reference.train_logits
        asked = len(module.CALLS)
        again = build(options, "user_teachers:shares").reference.train_logits
    assert len(module.CALLS) == asked > 0
    np.testing.assert_array_equal(first, again)
    module.shares.version = "2"
    build(options, "user_teachers:shares")
    assert len(module.CALLS) == 2 * asked
    path = Path(module.__file__)
    path.write_text(CODE + "\n# changed\n", encoding="utf-8")
    import linecache

    linecache.clearcache()
    build(options, "user_teachers:shares")
    assert len(module.CALLS) == 3 * asked


def test_it_is_said_what_is_not_hashed(
    module: Any, tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """And a function whose code cannot be read is not kept on the disk."""
    from kd_env.teachers.answers import functions

    monkeypatch.setattr(functions, "_told", set())
    with caplog.at_level(logging.WARNING, "kd_env"):
        build({**tiny, "cache_dir": str(tmp_path / "cache")}, "user_teachers:shares")
    assert "What it calls or reads elsewhere is not hashed" in caplog.text
    caplog.clear()
    monkeypatch.setattr(functions, "_told", set())
    monkeypatch.setattr(functions.inspect, "getsource", no_source)
    with caplog.at_level(logging.WARNING, "kd_env"):
        build({**tiny, "cache_dir": str(tmp_path / "other")}, "user_teachers:shares")
    assert "nothing is kept on the disk" in caplog.text and not (tmp_path / "other").exists()


def no_source(_: Any) -> str:
    raise OSError("could not get source code")


def test_a_pipeline_is_fitted_on_the_train_rows_alone(module: Any, tiny: dict[str, Any], tmp_path: Path) -> None:
    """On label names, so that its classes_ tell their order; what it says is kept with the rows it is fitted on."""
    options = {**tiny, "cache_dir": str(tmp_path / "cache")}
    problem = build(options, "user_teachers:pipeline")
    texts, labels = train_texts(problem, tiny), [str(label) for label in problem.train.labels]
    expected = module.pipeline().fit(texts, labels).predict_proba(texts)
    np.testing.assert_allclose(np.exp(problem.reference.train_logits), expected, rtol=1e-4, atol=1e-6)
    assert problem.reference.saw_feedback == "no"
    noisy = build(options, "user_teachers:pipeline", label_noise=0.3)
    assert np.abs(noisy.reference.train_logits - problem.reference.train_logits).max() > 0.1
    assert build(tiny, "user_teachers:fitted").reference.saw_feedback == "unknown"


def test_pairs_are_given_as_tuples(module: Any) -> None:
    rows, unread = Rows(["a", "b", "c"], ["d", "e", "f"], np.zeros(3)), cast(ProblemRows, None)
    asked = AskedFunction("user_teachers:pairs", EMBEDDED["toy_pair"], unread, None)
    np.testing.assert_allclose(asked.logits(rows, "train", np.array([2, 0])), np.full((2, 2), np.log(0.5)))
    asked.logits(rows, "train", np.array([2, 0]))
    assert module.CALLS == [[("c", "f"), ("a", "d")]]


def test_scores_of_functions_and_models(module: Any, tiny_regression: dict[str, Any]) -> None:
    problem = build(tiny_regression, "user_teachers:scores")
    texts = train_texts(problem, tiny_regression)
    np.testing.assert_allclose(problem.reference.train_logits[:, 0], [len(text) / 100 for text in texts], rtol=1e-6)
    ridge = build(tiny_regression, "user_teachers:ridge").reference
    assert ridge.saw_feedback == "no" and ridge.verdict is not None and ridge.verdict.value > 0.3


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("user_teachers:missing", r"'user_teachers:missing' is not there: .* has no 'missing'"),
        ("user_teachers_2:f", r"'user_teachers_2' .* cannot be imported \(ModuleNotFoundError.*PYTHONPATH"),
        ("user_teachers:value", r"is a int; give a function of texts"),
        ("user_teachers:Model", r"is a type; give a function of texts"),
        ("user_teachers:bare", r"has neither classes_ nor fit: the order of its labels cannot be established"),
        ("user_teachers:nothing", r"takes no texts, and gives a str without predict_proba"),
        ("user_teachers:short", r"was asked about 128 texts and gave an array of the shape \[127, 2\]"),
        ("user_teachers:one_sided", r"has scores, and the task 'custom' needs probabilities or logits"),
        ("user_teachers:broken", r"'user_teachers:broken' failed \(RuntimeError: no quota left\)"),
        ("user_teachers:unknown", r"gave a mapping with \['answers'\]; it needs one of probabilities, logits"),
        ("user_teachers:other_names", r"labels \['bad', 'good'\], .* \['0', '1'\] .* cannot be established"),
        ("user_teachers:ridge", r"is a Pipeline without predict_proba, which the task 'custom' needs"),
    ],
)
def test_functions_that_do_not_fit(name: str, message: str, module: Any, tiny: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=message):
        build(tiny, name)


@pytest.mark.filterwarnings("ignore:The teacher's loss")
def test_a_function_in_an_environment_by_id(module: Any, tiny: dict[str, Any]) -> None:
    own = {"teacher": module.pipeline, "student": tiny["teacher"], "terms": ["hard_label", "soft_label"]}
    env = gym.make("kd_env/KnowledgeSelection-v0", **{**tiny, **own})
    env.reset(seed=0)
    assert np.isfinite(env.step(np.ones(2, dtype=np.int8))[1])
    assert env.get_wrapper_attr("problem").reference.saw_feedback == "no"


def test_python_takes_the_function_itself_by_its_name(module: Any, tiny: dict[str, Any]) -> None:
    """So that options stay plain, and other processes find it."""
    config = EnvConfig.from_kwargs(teacher=module.shares)
    assert config.teacher == "user_teachers:shares" and EnvConfig.from_kwargs(**config.to_dict()) == config
    several = EnvConfig.from_kwargs(teachers=[{"name": "a", "path": module.pipeline}, tiny["teacher"]])
    assert several.teachers == ({"name": "a", "path": "user_teachers:pipeline"}, tiny["teacher"])
    nameless: list[Callable[..., Any] | Any] = [lambda texts: texts, module.fitted(), module.bare]
    for teacher in nameless:
        with pytest.raises(ValueError, match=r"cannot be found by name, .* 'package\.module:function'"):
            EnvConfig.from_kwargs(teacher=teacher)


def test_the_command_line_takes_functions_and_files() -> None:
    def composed(*words: str) -> dict[str, Any]:
        return compose("config", ["task=toy", *words])

    assert single_teacher(composed("teacher.callable=some.module:f")) == (("toy", "some.module:f"),)
    entries = "teachers=[{name: llm, path: a.npz}, {name: svm, callable: 'some.module:f'}]"
    assert teacher_list(composed(entries)) == (("llm", "a.npz"), ("svm", "some.module:f"))
    for words, message in (
        (["teacher.callable=f"], r"teacher\.callable='f' must be written package\.module:function"),
        (["teacher.callable=m:f", "teacher.path=a.npz"], r"teacher\.path .* and teacher\.callable .* both given"),
    ):
        with pytest.raises(ValueError, match=message):
            single_teacher(composed(*words))
    with pytest.raises(ValueError, match=r"teacher\.callable and teachers are both given"):
        teacher_list(composed("teacher.callable=m:f", entries))
    with pytest.raises(ValueError, match="is there already and is not made; leave the rest out"):
        teacher_list(composed("teachers=[{name: svm, callable: 'm:f', epochs: 2}]"))
    with pytest.raises(ValueError, match=r"cofinetuned and teacher\.callable both name teachers"):
        cofinetuned_set(composed("teacher.callable=m:f", "cofinetuned=set"))
