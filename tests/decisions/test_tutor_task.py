"""The task-level tutor: labelled rows are edited, a fine-tuned teacher labels them, the student learns these labels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from agents import make_agent, make_rule
from agents.rules.tutor_token import TOKEN_RULES
from kd_env.decisions.tutor_token.corpus.text import build_tutor_problem
from kd_env.decisions.tutor_token.options import TutorConfig
from kd_env.envs.tutor_env import TutorEnv, TutorVectorEnv
from kd_env.numerics.calibration import fit_temperature
from kd_env.testing import check_environment


@pytest.fixture(scope="module")
def options(tiny: dict[str, Any], tiny_text: dict[str, Any]) -> dict[str, Any]:
    """The tiny task, its teacher, and the tiny text's masked language model."""
    kept = ("task", "data_dir", "columns", "teacher", "feedback_rows", "selection_rows", "evaluation_rows")
    return {
        **{name: tiny[name] for name in kept},
        "language_model": tiny_text["teacher"],
        "student": {"hidden_size": 8, "num_attention_heads": 2},
        "slots": 2,
        "num_candidates": 4,
        "batch_size": 4,
        "budget": 4,
        "optimizer": {"learning_rate": 0.01},
    }


@pytest.fixture(scope="module")
def problem(options: dict[str, Any]) -> Any:
    return build_tutor_problem(TutorConfig.from_kwargs(**options, precision="fp64"))


EVERY_LOSS = {"soft_label": 1.0, "hard_label": 0.5, "hidden_states": 0.5, "attention": 0.25}


@pytest.mark.parametrize("view", ["native", "candidates", "discrete", "box"])
def test_conformance(view: str, options: dict[str, Any]) -> None:
    """Gymnasium's and SB3's checkers, finite observations, exact restore."""
    mode = "sequential" if view == "candidates" else "joint"
    check_environment(TutorEnv(**options, mode=mode, action_view=view))


@pytest.mark.parametrize("mode", ["joint", "sequential"])
def test_losses_and_rewards_against_the_librarys_models(mode: str, options: dict[str, Any], problem: Any) -> None:
    from transformers import AutoModelForMaskedLM, AutoModelForSequenceClassification

    teacher = AutoModelForSequenceClassification.from_pretrained(options["teacher"]).double().eval()
    reader = AutoModelForMaskedLM.from_pretrained(options["language_model"]).double().eval()
    env = TutorEnv(problem=problem, mode=mode, losses=EVERY_LOSS)
    observation, _ = env.reset(seed=0)
    env.action_space.seed(0)
    for _ in range(2):
        state = env.run.started()
        batch = problem.train.gather(state.rows[0])
        width = batch.input_ids.shape[1]
        mask = batch.attention_mask.long()
        places = torch.as_tensor(state.positions[0])
        masked = torch.as_tensor(observation["input_ids"].reshape(4, -1)[:, :width])
        params = {name: p[0].clone() for name, p in state.params.items()}
        info: dict[str, Any] = {"updated": False}
        while not info["updated"]:
            observation, reward, _, _, info = env.step(env.action_space.sample())
        chosen = torch.as_tensor(info["tokens"])
        text = batch.input_ids.scatter(-1, places, chosen)
        with torch.no_grad():
            said = reader(masked, attention_mask=mask).logits.softmax(-1)
            taught = teacher(text, attention_mask=mask, token_type_ids=batch.token_type_ids, output_hidden_states=True)
            student = torch.func.functional_call(
                env.problem.student.module,
                {name: p for name, p in params.items() if not name.startswith("projections.")},
                (),
                {
                    "input_ids": text,
                    "attention_mask": mask,
                    "token_type_ids": batch.token_type_ids,
                    "output_hidden_states": True,
                },
            )
        p_t, p_s = taught.logits.softmax(-1), student.logits.softmax(-1)
        for row in range(4):
            confidence = float(p_t[row, int(batch.labels[row])])
            distance = max(abs(float(p_t[row, c] - p_s[row, c])) for c in range(2))  # of two classes
            np.testing.assert_allclose(info["teacher_recognises"][row], confidence, atol=1e-7)
            np.testing.assert_allclose(info["student_error"][row], distance, atol=1e-7)
            for slot, place in enumerate(places[row].tolist()):
                at = said[row, place]
                plausible = min(1.0, float(at[chosen[row, slot]] / at[batch.input_ids[row, place]]))
                assert info["plausibility"][row, slot] == pytest.approx(plausible, abs=1e-6)
        kl = F.kl_div(student.logits.log_softmax(-1), taught.logits.log_softmax(-1), log_target=True, reduction="none")
        found = dict(zip(env.loss_names, info["losses"], strict=True))
        assert found["soft_label"] == pytest.approx(float(kl.sum(-1).mean()), rel=1e-5)
        assert found["hard_label"] == pytest.approx(float(F.cross_entropy(student.logits, batch.labels)), rel=1e-5)
        projection = params["projections.hidden_states"]
        gaps = []
        for own, other in env.problem.pairs:
            gap = (student.hidden_states[own] @ projection.T - taught.hidden_states[other]).square().mean(-1)
            gaps.append(torch.stack([gap[row][mask[row].bool()].mean() for row in range(4)]).mean())
        assert found["hidden_states"] == pytest.approx(float(torch.stack(gaps).mean()), rel=1e-5)
        expected = (info["teacher_recognises"] + info["student_error"]).mean()
        assert reward == pytest.approx(expected, abs=1e-6)


def test_replicas_equal_singles(problem: Any) -> None:
    vector = TutorVectorEnv(3, problem=problem, losses=EVERY_LOSS)
    singles = [TutorEnv(problem=problem, losses=EVERY_LOSS) for _ in range(3)]
    vector.reset(seed=[0, 1, 2])
    for seed, env in enumerate(singles):
        env.reset(seed=seed)
    vector.action_space.seed(0)
    for _ in range(3):
        actions = vector.action_space.sample()
        _, rewards, _, _, infos = vector.step(actions)
        for index, env in enumerate(singles):
            _, reward, _, _, info = env.step(actions[index])
            assert reward == pytest.approx(rewards[index], abs=1e-9)
            np.testing.assert_allclose(info["losses"], infos["losses"][index], rtol=1e-6)
            assert info["loss"] == pytest.approx(infos["loss"][index], rel=1e-9)


def test_a_fork_goes_on_alike(problem: Any) -> None:
    env, other = TutorEnv(problem=problem, mode="sequential"), TutorEnv(problem=problem, mode="sequential")
    env.reset(seed=3)
    env.action_space.seed(0)
    env.step(env.action_space.sample())
    other.reset(seed=9)
    other.set_state(env.get_state())
    for _ in range(4):
        action = env.action_space.sample()
        first, second = env.step(action), other.step(action)
        assert first[1] == second[1]
        assert all(np.array_equal(first[0][name], second[0][name]) for name in first[0])


def test_every_slot_of_the_action_changes_the_student(problem: Any) -> None:
    env = TutorEnv(problem=problem)
    env.reset(seed=0)
    start, action = env.get_state(), np.full(8, 20)

    def student(choice: np.ndarray) -> torch.Tensor:
        env.set_state(start)
        env.step(choice)
        return torch.cat([p.flatten() for p in env.run.started().params.values()])

    before = student(action)
    for component in range(8):
        changed = action.copy()
        changed[component] = 21
        assert not torch.equal(student(changed), before), component


def test_nothing_is_edited_by_the_rule_that_keeps_the_text(problem: Any) -> None:
    env = TutorEnv(problem=problem)
    observation, _ = env.reset(seed=0)
    _, _, _, _, info = env.step(make_rule("keep_original", env).predict(observation)[0])
    assert np.array_equal(info["tokens"], info["originals"]) and (info["plausibility"] == 1).all()


@pytest.mark.parametrize("name", [rule.name for rule in TOKEN_RULES])
def test_rules_act_on_rows_of_tasks(name: str, problem: Any) -> None:
    env = TutorVectorEnv(2, problem=problem)
    observation, _ = env.reset(seed=[0, 1])
    rule = make_rule(name, env)
    for _ in range(4):
        observation, _, ended, _, _ = env.step(rule.predict(observation)[0])
    assert ended.all()


def test_the_tutor_learns_on_rows_of_tasks(problem: Any) -> None:
    env = TutorVectorEnv(2, problem=problem)
    history: list[dict[str, float]] = []
    weights = [p.clone() for p in problem.lesson.classifier.module.parameters()]
    make_agent("tutor", env, seed=0).learn(8, history.append)
    assert history and all(0 <= metrics["teacher_recognises"] <= 1 for metrics in history)
    assert all(
        torch.equal(p, old) for p, old in zip(problem.lesson.classifier.module.parameters(), weights, strict=True)
    )


def test_the_gap_is_that_of_gold_labels(problem: Any) -> None:
    """Loss on feedback rows as they are, after one temperature each, counted down to that of the teacher."""
    env = TutorEnv(problem=problem, reward="gap_closed")
    env.reset(seed=0)
    rows = problem.feedback
    before = env.run.started()
    with torch.no_grad():
        teacher = problem.lesson.classifier.module
        batch = rows.gather(np.arange(len(rows)))
        inputs = {
            "input_ids": batch.input_ids,
            "attention_mask": batch.attention_mask.long(),
            "token_type_ids": batch.token_type_ids,
        }
        floor = float(F.cross_entropy(teacher(**inputs).logits.double() / problem.assets.temperature, batch.labels))
        params = {name: p[0] for name, p in before.params.items()}
        logits = torch.func.functional_call(problem.student.module, params, (), inputs).logits
        start = float(F.cross_entropy(logits / fit_temperature(logits.numpy(), rows.labels), batch.labels))
    assert problem.loss_floor == pytest.approx(floor, rel=1e-6)
    assert before.loss[0] == pytest.approx(start, rel=1e-6)
    assert start < float(F.cross_entropy(logits, batch.labels))
    _, reward, _, _, info = env.step(np.full(8, 20))
    assert reward == pytest.approx((before.loss[0] - info["loss"]) / max(start - floor, 0.05 * start))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"language_model": None}, "comes without a language_model"),
        ({"teacher": None}, "comes without a teacher"),
        ({"text": "toy"}, "rows of its own"),
        ({"losses": {"plausibility": 1.0}}, "Unknown loss 'plausibility'"),
        ({"losses": {"soft_label": 0.0}}, "weigh nothing"),
        ({"task": "stsb", "columns": None, "data_dir": None}, "has scores"),
        ({"task": "tyo", "columns": None}, "toy"),
        ({"task": 5}, "task=5 must be a text"),
        ({"columns": 5}, "columns=5 must be a mapping"),
        ({"task": "toy", "columns": None}, "data_dir=.* is for tasks in files"),
        ({"slots": 40}, "No train row"),
        ({"task": None, "columns": None, "teacher": None}, "is for task="),
        ({"batch_size": 4000}, "4000"),
    ],
)
def test_bad_options_are_refused(changed: dict[str, Any], message: str, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=message):
        build_tutor_problem(TutorConfig.from_kwargs(**{**options, **changed}))


def test_a_language_model_of_other_tokens_is_refused(options: dict[str, Any]) -> None:
    from kd_env.data.toy import masked_lm_folder

    with pytest.raises(ValueError, match="different tokenizers"):
        build_tutor_problem(TutorConfig.from_kwargs(**{**options, "language_model": str(masked_lm_folder("toy"))}))


def test_the_packaged_models_are_the_default() -> None:
    env = TutorEnv(task="toy", max_train_rows=64, evaluation_rows=16, budget=2)
    env.reset(seed=0)
    _, reward, _, _, _ = env.step(env.action_space.sample())
    assert 0 < reward < 2 and TutorConfig.from_kwargs(**env.problem.config.to_dict()) == env.problem.config
