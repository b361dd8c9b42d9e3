"""Evaluations of tutors: who may stand beside whom, and which texts are judged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kd_env.evaluation.judging.tutor_dev import with_dev_rows
from kd_env.evaluation.judging.tutoring import Contender, evaluate_tutors

from agents import make_rule
from kd_env.decisions.options import env_config
from kd_env.envs import DistillVectorEnv
from kd_env.envs.build import build_problem
from kd_env.envs.process import with_options


def test_contenders_may_differ_in_the_decision_alone(tutor_problem: Any, tiny_text: dict[str, Any]) -> None:
    class First:
        def predict(self, observation: Any, state: Any, episode_start: Any) -> tuple[Any, Any]:
            return np.zeros(len(observation), dtype=np.int64), state

    def make(env: DistillVectorEnv) -> First:
        assert env.action_view == "discrete" and env.single_observation_space.shape is not None
        return First()

    def best(env: DistillVectorEnv) -> Any:
        return make_rule("teacher_argmax", env)

    own = with_options(tutor_problem, action_view="discrete", observation="flat")
    found = evaluate_tutors(tutor_problem, {"flat": Contender(make, own), "native": best}, [7, 8])
    for name in ("reward", "plausibility", "teacher_probability", "dev_loss"):
        np.testing.assert_allclose(getattr(found["flat"], name), getattr(found["native"], name), rtol=1e-9)
    with pytest.raises(ValueError, match="budget=2 and the others with 4"):
        evaluate_tutors(tutor_problem, {"a": Contender(make, with_options(tutor_problem, budget=2))}, [7])
    other = build_problem(env_config(decision="tutor_token", **tiny_text))
    with pytest.raises(ValueError, match="'a' has other text or models"):
        evaluate_tutors(tutor_problem, {"a": Contender(make, other)}, [7])


def test_text_comes_from_one_source_or_several(tiny_text: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    lines = [f"w{index} w{index + 1} w{index + 2} w39 w38" for index in range(30)]
    (tmp_path / "more" / "lines.txt").write_text("\n".join(lines))
    both = [tiny_text["text"], str(tmp_path / "more")]
    config = env_config(decision="tutor_token", **{**tiny_text, "text": both})
    assert config.text == tuple(both) and env_config(**config.to_dict()) == config
    problem, one = build_problem(config), build_problem(env_config(decision="tutor_token", **tiny_text))
    assert len(problem.train) > len(one.train) and problem.fingerprint != one.fingerprint
    assert len(with_dev_rows(problem, 500).feedback) > len(with_dev_rows(one, 500).feedback)
    assert problem.assets.saw_feedback == "unknown"
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
    from kd_env.decisions.tutor_token.corpus.text import packaged_teacher

    assert packaged_teacher(("toy",)) == packaged_teacher("toy")
