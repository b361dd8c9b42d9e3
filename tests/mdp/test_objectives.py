"""Masked text under every decision: what students learn from, how they are judged, and what has no meaning."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from kd_env.data.toy import masked_lm_folder
from kd_env.decisions.options import env_config
from kd_env.envs import DistillEnv, DistillVectorEnv
from kd_env.envs.build import build_problem
from kd_env.envs.process import with_options
from kd_env.evaluation.judging.contenders import Contender
from kd_env.evaluation.judging.protocol import evaluate_policies
from kd_env.evaluation.judging.tables import judged_tables
from kd_env.knowledge import plausibility
from kd_env.mdp import transition
from kd_env.mdp.objectives.batches import at_slots
from kd_env.mdp.objectives.text import sampled_edit
from kd_env.mdp.state import Effect
from kd_env.testing import check_environment

FOLDER = str(masked_lm_folder("toy"))
SMALL: dict[str, Any] = {
    **{"max_train_rows": 48, "feedback_rows": 24, "selection_rows": 16, "evaluation_rows": 12},
    **{"student": {"hidden_size": 8, "num_attention_heads": 4}, "batch_size": 4, "budget": 4},
    **{"precision": "fp64", "objective": "text"},
}
SET = {"teachers": [{"name": "a", "path": FOLDER}, {"name": "b", "path": FOLDER}]}
DECISIONS = {"knowledge_selection": {}, "teacher_weighting": SET, "sample_weighting": {}}


@pytest.fixture(scope="module", params=list(DECISIONS))
def problem(request: pytest.FixtureRequest) -> Any:
    return build_problem(env_config(decision=request.param, **SMALL, **DECISIONS[request.param]))


@pytest.fixture(scope="module")
def terms_problem() -> Any:
    return build_problem(env_config(decision="knowledge_selection", **SMALL))


def test_every_decision_is_an_environment(problem: Any) -> None:
    check_environment(DistillEnv(problem=problem))


def test_replicas_equal_singles(problem: Any) -> None:
    vector = DistillVectorEnv(2, problem=problem, autoreset_mode="disabled")
    singles = [DistillEnv(problem=problem) for _ in range(2)]
    vector.reset(seed=[3, 4])
    vector.action_space.seed(0)
    for seed, env in zip((3, 4), singles, strict=True):
        env.reset(seed=seed)
    for _ in range(2):
        actions = vector.action_space.sample()
        observations, rewards, *_ = vector.step(actions)
        for index, env in enumerate(singles):
            observation, reward, *_ = env.step(actions[index])
            np.testing.assert_allclose(observation, observations[index], rtol=1e-5, atol=1e-6)
            assert reward == pytest.approx(rewards[index], abs=1e-9)


def test_students_learn_from_samples_of_the_reader(terms_problem: Any) -> None:
    """Slots alone are changed; plausibility is the ratio of the probabilities in the masked text, by the library."""
    problem = terms_problem
    state = transition.initial(problem, [1, 2], [4, 4])
    rows = state.next_rows[:, 0]
    batch = problem.objective.batch(problem, state, rows)
    edit, text = batch.edit, problem.train.gather(rows)
    changed = batch.batch.input_ids != text.input_ids
    slots = torch.zeros_like(changed).scatter_(-1, edit.places, True)
    assert not (changed & ~slots).any() and changed.any()
    again = sampled_edit(problem, state, rows, text)
    assert torch.equal(again.chosen, edit.chosen)
    later = sampled_edit(problem, state._replace(updates=state.updates + 1), rows, text)
    assert not torch.equal(later.chosen, edit.chosen)
    library, masked = problem.reader.model.module, text.input_ids.scatter(-1, edit.places, edit.masked)
    teachers = problem.objective.teach(problem, None, batch, None)
    for replica in range(2):
        with torch.no_grad():
            logits = library(masked[replica], attention_mask=text.attention_mask[replica].long()).logits
        log_p = at_slots(logits[None], edit.places[replica][None])[0].log_softmax(-1)
        ratio = (
            log_p.gather(-1, edit.chosen[replica][..., None]) - log_p.gather(-1, edit.original[replica][..., None])
        )[..., 0]
        expected = ratio.exp().clamp(max=1.0)
        said = teachers.outputs[0].logits[replica].gather(-1, edit.places[replica])
        torch.testing.assert_close(said, expected, rtol=1e-6, atol=1e-8)


def test_the_feedback_loss_is_that_of_judging(terms_problem: Any) -> None:
    """L_pp, by the environment and by reports, in tokens of all rows; its floor is the labels' entropy."""
    env = DistillVectorEnv(2, problem=terms_problem)
    _, info = env.reset(seed=0)
    table, scores = terms_problem.feedback, env.predict(terms_problem.feedback)
    mask = np.arange(table.labels.shape[1]) < table.lengths[:, None]
    for replica in range(2):
        tensors = (torch.as_tensor(scores[replica]), torch.as_tensor(table.labels), torch.as_tensor(mask))
        expected = plausibility.row_plausibility_losses(*tensors).mean()
        assert info["loss"][replica] == pytest.approx(float(expected), rel=1e-9)
    loss = terms_problem.loss(scores, table, np.zeros((len(table), 0)), np.ones(2))
    np.testing.assert_allclose(loss, info["loss"], rtol=1e-9)
    p = table.labels[mask]
    inner = p[(p > 0) & (p < 1)]
    entropy = -(inner * np.log(inner) + (1 - inner) * np.log(1 - inner)).sum() / mask.sum()
    assert terms_problem.teacher_loss == pytest.approx(entropy, rel=1e-9)
    right = ((scores > 0) == (table.labels > 0.5))[:, mask].mean(1)
    np.testing.assert_allclose(info["feedback_metric"], right)


def test_a_row_without_weight_teaches_nothing() -> None:
    """The update is that of the other rows: their weights alone reach the student."""
    options = {**SMALL, "term_scale": "none", "terms": ["plausibility"]}
    problem = build_problem(env_config(decision="sample_weighting", **options))
    state = transition.initial(problem, [1], [4])
    batch = problem.objective.batch(problem, state, state.next_rows[:, 0])

    def after(row_weights: list[float]) -> dict[str, torch.Tensor]:
        start = transition.initial(problem, [1], [4])
        table = np.array(row_weights, np.float32)[None, None, None]
        return transition.transition(problem, start, Effect(table, np.ones(1, np.float32))).params

    nothing = after([0.0] * 4)
    assert all(torch.equal(value, state.params[name]) for name, value in nothing.items())
    first, both = after([1.0, 0.0, 0.0, 0.0]), after([1.0, 1.0, 0.0, 0.0])
    assert any(not torch.equal(value, both[name]) for name, value in first.items())
    assert batch.batch.attention_mask.any()


def test_teachers_differ_where_their_weights_do() -> None:
    """Two language models of one vocabulary, each with its own plausibility."""
    problem = build_problem(env_config(decision="teacher_weighting", **SMALL, **SET))
    module = problem.teachers[1].language_model.module
    state = transition.initial(problem, [1], [4])
    batch = problem.objective.batch(problem, state, state.next_rows[:, 0])
    one, other = (output.logits for output in problem.objective.teach(problem, None, batch, None).outputs)
    torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)
    with torch.no_grad():
        for parameter in module.base_model.parameters():
            parameter.mul_(0.5)
    one, other = (output.logits for output in problem.objective.teach(problem, None, batch, None).outputs)
    assert not torch.allclose(one, other, rtol=1e-3)


def test_an_evaluation_reads_dev_and_selection_texts(terms_problem: Any) -> None:
    class All:
        def predict(self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = False):  # type: ignore[no-untyped-def]
            return np.ones((len(observation), 3), np.int8), None

    judged = judged_tables(terms_problem, 10)
    found = evaluate_policies(terms_problem, {"all": Contender(lambda env: All())}, [1, 2], judged=judged)
    assert (
        found.dev_splits == ("dev",) and found.facts["task"] == "text toy" and found.metric_names == ("token_accuracy",)
    )
    for scores in found.policies["all"].splits.values():
        assert np.isfinite(scores.loss).all() and (scores.loss > 0).all() and scores.predictions is None
    assert found.policies["all"].returns.shape == (2,) and found.term_names == terms_problem.entry_names


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"terms": ["hard_label"]}, "objective='text'"),
        ({"features": ["row_margin"]}, "Valid there"),
        ({"reward": "rl_kd_label"}, "gap_closed"),
        ({"reward": "tutor"}, "decision='tutor_token'"),
        ({"gap": "divergence"}, "objective='labels'"),
        ({"label_noise": 0.3}, "objective='labels'"),
        ({"teacher_updates": "prokt"}, "objective='labels'"),
        ({"teacher_source": "cached"}, "the teacher runs online"),
        ({"student": {"init": "pretrained", "name_or_path": "x"}}, "fresh, or teacher"),
        ({"decision": "sample_weighting", "action_view": "box", "score": "margin"}, "edit_error"),
        ({"objective": "texts"}, "labels"),
        ({"objective": "labels", "features": ["edit"]}, "objective='text'"),
        ({"objective": "labels", "slots": 2}, "masked text"),
        ({"objective": "labels", "terms": ["plausibility"]}, "objective='text'"),
    ],
)
def test_pairs_without_meaning_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        build_problem(env_config(**{"decision": "knowledge_selection", **SMALL, **options}))


def test_rows_have_no_influence_where_text_is_masked(terms_problem: Any) -> None:
    env = DistillEnv(problem=terms_problem)
    env.reset(seed=0)
    with pytest.raises(ValueError, match="there is none where text is masked"):
        env.row_influence()


def test_a_shared_problem_takes_other_decisions(terms_problem: Any) -> None:
    """Of masked text any; of labels none that needs masks, or outputs of rows as they are, which were not made."""
    tutored = with_options(terms_problem, decision="tutor_token", features=[], reward="tutor", updates_per_step=1)
    env = DistillEnv(problem=tutored)
    env.reset(seed=0)
    assert env.step(env.action_space.sample())[4]["updated"]
    labels = {**SMALL, "objective": "labels", "task": "toy", "teacher_source": "online"}
    for made, other in (("knowledge_selection", "tutor_token"), ("tutor_token", "knowledge_selection")):
        problem = build_problem(env_config(decision=made, **labels))
        changes = {"decision": other, "features": [] if other == "tutor_token" else ["progress"]}
        with pytest.raises(ValueError, match="needs another problem"):
            with_options(problem, **changes, reward="gap_closed", updates_per_step=1)


def test_a_shared_problem_takes_other_terms(terms_problem: Any) -> None:
    """No output of a teacher is kept, so that nothing has to be computed again."""
    fewer = with_options(terms_problem, terms=["plausibility"])
    assert fewer.term_names == ("plausibility",) and fewer.assets.train is terms_problem.assets.train
    env = gym.make("kd_env/KnowledgeSelection-v0", problem=fewer, disable_env_checker=True)
    env.reset(seed=0)
    assert np.isfinite(env.step(np.array([1], np.int8))[1])
