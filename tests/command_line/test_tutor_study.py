"""Evaluations of tutors: who may stand beside whom, and which texts are judged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agents import make_rule
from kd_env.decisions.options import env_config
from kd_env.envs import DistillVectorEnv
from kd_env.envs.build import build_problem
from kd_env.envs.process import with_options
from kd_env.envs.text import packaged_teacher, text_sources
from kd_env.evaluation.judging.contenders import Contender
from kd_env.evaluation.judging.protocol import evaluate_policies
from kd_env.evaluation.judging.tables import judged_tables


def test_contenders_may_differ_in_the_decision_alone(tutor_problem: Any, tiny_text: dict[str, Any]) -> None:
    class First:
        def predict(
            self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = False
        ) -> tuple[Any, Any]:
            return np.zeros(len(observation), dtype=np.int64), state

    def make(env: DistillVectorEnv) -> First:
        assert env.action_view == "discrete" and env.single_observation_space.shape is not None
        return First()

    def best(env: DistillVectorEnv) -> Any:
        return make_rule("teacher_argmax", env)

    own = with_options(tutor_problem, action_view="discrete", observation="flat")
    contenders = {"flat": Contender(make, problem=own), "native": Contender(best)}
    found = evaluate_policies(tutor_problem, contenders, [7, 8]).policies
    flat, native = found["flat"], found["native"]
    assert (flat.action_view, native.action_view) == ("discrete", "native")
    for one, other in zip(flat.measures, native.measures, strict=True):
        np.testing.assert_allclose(one.values, other.values, rtol=1e-9, err_msg=one.name)
    np.testing.assert_allclose(flat.splits["dev"].loss, native.splits["dev"].loss, rtol=1e-9)
    with pytest.raises(ValueError, match="budget=2 and the others with 4"):
        evaluate_policies(tutor_problem, {"a": Contender(make, problem=with_options(tutor_problem, budget=2))}, [7])
    other_text = build_problem(env_config(decision="tutor_token", **tiny_text))
    with pytest.raises(ValueError, match="'a' has other text or models"):
        evaluate_policies(tutor_problem, {"a": Contender(make, problem=other_text)}, [7])


def test_text_comes_from_one_source_or_several(tiny_text: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    lines = [f"w{index} w{index + 1} w{index + 2} w39 w38" for index in range(30)]
    (tmp_path / "more" / "lines.txt").write_text("\n".join(lines))
    both = [tiny_text["text"], str(tmp_path / "more")]
    config = env_config(decision="tutor_token", **{**tiny_text, "text": both})
    assert config.text == tuple(both) and env_config(**config.to_dict()) == config
    problem, one = build_problem(config), build_problem(env_config(decision="tutor_token", **tiny_text))
    assert len(problem.train) > len(one.train) and problem.fingerprint != one.fingerprint
    assert len(judged_tables(problem).tables["dev"]) > len(judged_tables(one).tables["dev"])
    assert problem.reference.saw_feedback == "unknown"
    assert with_options(problem, budget=2).config.text == tuple(both)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (["toy", "toy_pair"], r"comes without a teacher; .*objective=mlm text=\[toy,toy_pair\]"),
        ([], "text is empty"),
        (["toy", 3], "text entry=3"),
        (3, "text=3 must be a list"),
    ],
)
def test_texts_that_do_not_fit_are_told(text: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_problem(env_config(decision="tutor_token", text=text))


def test_one_embedded_source_in_a_list_has_its_teacher() -> None:
    listed, named = (text_sources(env_config(decision="tutor_token", text=text)) for text in (["toy"], "toy"))
    assert packaged_teacher(listed) == packaged_teacher(named)
