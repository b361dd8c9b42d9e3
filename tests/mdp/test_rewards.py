"""Bounds of rewards: one that is a cost tells bad choices apart, and nothing is gained by losing the student."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from kd_env import DistillEnv, build_problem
from kd_env.decisions.options import env_config
from kd_env.mdp import rewards
from kd_env.mdp.episodes import bounded
from kd_env.testing import WORDS, tiny_tokenizer

NAMES = ("one", "two", "right")


class Ended(NamedTuple):
    """What :func:`bounded` reads of a state."""

    updates: np.ndarray
    budget: np.ndarray
    steps: np.ndarray
    returns: np.ndarray
    diverged: np.ndarray
    loss_reset: np.ndarray


def state(updates: int, steps: int, returns: float, diverged: bool = False) -> Ended:
    """Of one replica with a budget of 20 updates."""
    whole = (np.array([value]) for value in (updates, 20, steps))
    return Ended(*whole, np.array([returns]), np.array([diverged]), np.array([1.1]))


@pytest.fixture(scope="module")
def three_classes(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Rows of class 0, and two teachers that are wrong about them: one says class 1, the other class 2, less surely."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification

    folder = tmp_path_factory.mktemp("three")
    rng = np.random.default_rng(0)
    texts = sorted({" ".join(rng.choice(WORDS, 6)) for _ in range(160)})
    (folder / "data").mkdir()
    for split, part in (("train", texts[:120]), ("validation", texts[120:])):
        lines = [json.dumps({"text": text, "label": 0 if i % 6 else i // 6 % 3}) for i, text in enumerate(part)]
        (folder / "data" / f"{split}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    tokenizer = tiny_tokenizer()
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    for name, bias in zip(NAMES, ([0.0, 9.0, 0.0], [0.0, 0.0, 5.0], [3.0, 0.0, 0.0]), strict=True):
        model = BertForSequenceClassification(BertConfig(vocab_size=len(tokenizer), num_labels=3, **sizes))
        with torch.no_grad():
            model.classifier.weight.zero_()
            model.classifier.bias.copy_(torch.tensor(bias))
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    options = {
        "task": "custom",
        "data_dir": str(folder / "data"),
        "columns": {"text": ["text"], "label": "label", "kind": "classification"},
        "decision": "teacher_weighting",
        "teachers": [{"name": name, "path": str(Path(folder) / name)} for name in NAMES],
        "student": {"hidden_size": 8, "num_attention_heads": 2},
        "teacher_check": "none",
        "terms": ["soft_label"],
        "action_view": "subset",
        "features": ["gap"],
        "feedback_rows": 24,
        "selection_rows": 24,
        "evaluation_rows": 24,
        "batch_size": 8,
        "updates_per_step": 20,
        "budget": 40,
        "learning_rate": 0.03,
    }
    return build_problem(env_config(**options))


@pytest.mark.parametrize("reward", ["rl_kd_label", "rl_kd_distill"])
def test_bad_choices_among_three_classes_earn_different_rewards(three_classes: Any, reward: str) -> None:
    """Both teachers ruin the student, the surer one more; a limit of 2 made the two rewards one."""
    found = []
    for action in ([1, 0, 0], [0, 1, 0]):
        env = DistillEnv(problem=three_classes, reward=reward)
        env.reset(seed=3)
        env.step(np.array(action, np.int8))
        _, value, _, _, info = env.step(np.array(action, np.int8))
        assert not info["reward_clipped"]
        found.append(float(value))
    assert found[0] < found[1] - 0.5 and found[1] < -rewards.REWARD_LIMIT


@pytest.mark.parametrize("name", sorted(rewards.REWARDS))
def test_every_reward_keeps_its_bounds(name: str) -> None:
    """Values outside are cut to the limit of the reward, and said to be."""
    bounds = rewards.bounds_of(rewards.REWARDS[name])
    assert bounds == ((100.0, True) if name.startswith("rl_kd_") else (2.0, False))
    before, after = state(4, 2, -1.0), state(6, 3, -1.0)
    for value, wanted, clipped in ((0.5 * bounds.limit, 0.5, False), (-3.0 * bounds.limit, -1.0, True)):
        found, said = bounded(np.array([value]), before, after, bounds)
        assert found == wanted * bounds.limit and said == clipped


def test_a_lost_student_saves_no_costs() -> None:
    """With rewards of -0.7 a step, -1 for a student that is lost would be the best that a policy can do."""
    cost, gain = rewards.Bounds(100.0, cost=True), rewards.Bounds()
    before, after = state(4, 2, -1.4), state(6, 2, -1.4, diverged=True)
    lost, said = bounded(np.array([np.nan]), before, after, cost)
    # 8 steps of 2 updates are left, this one included: each as dear as the loss at reset, the dearer one here.
    assert lost == pytest.approx([-1.0 - 8 * 1.1]) and not said.any()
    dear, _ = bounded(np.array([np.nan]), state(4, 2, -9.0), after, cost)
    assert dear == pytest.approx([-1.0 - 8 * 4.5])
    first, _ = bounded(np.array([np.nan]), state(0, 0, 0.0), state(2, 1, 0.0, diverged=True), cost)
    assert first == pytest.approx([-1.0 - 10 * 1.1])
    plain, _ = bounded(np.array([np.nan]), state(4, 2, 0.4), after, gain)
    assert plain == pytest.approx([-1.4])


@pytest.mark.parametrize("limit", [0.0, -1.0, float("inf"), float("nan")])
def test_a_limit_is_finite_and_above_zero(limit: float) -> None:
    """Else rewards would not be bounded, or all 0."""
    with pytest.raises(ValueError, match="must be finite and above 0"):
        rewards.bounded_by(limit)


def test_the_reward_of_ks_knows_no_temperature(tiny: dict[str, Any]) -> None:
    """``raw_loss_drop`` is the drop of the cross-entropy itself, whatever the gap is."""
    env = DistillEnv(**{**tiny, "reward": "raw_loss_drop"})
    _, before = env.reset(seed=0)
    _, reward, _, _, after = env.step(env.decision.encode(dict.fromkeys(env.term_names, 1.0)))
    assert reward == pytest.approx(before["raw_loss"] - after["raw_loss"])
    assert reward != pytest.approx(before["loss"] - after["loss"])
