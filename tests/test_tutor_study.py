"""``kd-env tutor``: trainings, rules and a report, gone on with where they are there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cli.main import run


def words(tiny_text: dict[str, Any], tmp_path: Path, *more: str) -> list[str]:
    student = "{hidden_size: 8, num_attention_heads: 2}"
    env = {key: value for key, value in tiny_text.items() if key not in ("student", "optimizer")}
    plain = ", ".join(f"{key}: {value}" for key, value in env.items())
    return [
        f"env={{{plain}, student: {student}}}",
        *("trainings=2", "total_timesteps=8", "num_envs=2", "evaluation_seeds=3", "samples=2", "progress=false"),
        *("rules=[teacher_samples,random_tokens]", f"runs_dir={tmp_path}", "name=study"),
        *more,
    ]


def test_a_study_trains_compares_and_goes_on(
    tiny_text: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("tutor", words(tiny_text, tmp_path), "kd-env tutor") == 0
    folder = tmp_path / "study"
    data = json.loads((folder / "results.json").read_text())
    assert list(data["tutors"]) == ["tutor-seed0", "tutor-seed100", "teacher_samples", "random_tokens"]
    rewards = {name: np.array(values["reward"]) for name, values in data["tutors"].items()}
    assert all(values.shape == (3,) for values in rewards.values())
    own = np.stack([rewards["tutor-seed0"], rewards["tutor-seed100"]])
    found = data["differences"]["random_tokens"]["interval"]
    assert found["units"] == 2 and found["mean"] == pytest.approx((own - rewards["random_tokens"]).mean())
    assert len(data["samples"]) == 2 and data["facts"]["saw_feedback"] == "unknown"
    for sample in data["samples"]:
        before, after = (sample[name].split() for name in ("original", "edited"))
        changed = [(x, a) for x, a in zip(before, after, strict=True) if x.startswith("[w")]
        assert len(changed) == 2 and all(a.startswith("[") for _, a in changed)
    assert "| tutor * | 2 |" in capsys.readouterr().out

    stamp = (folder / "tutor-seed0" / "agent.json").stat().st_mtime_ns
    assert run("tutor", words(tiny_text, tmp_path, "evaluation_seeds=2")[:4] + words(tiny_text, tmp_path)[5:], "") == 0
    assert (folder / "tutor-seed0" / "agent.json").stat().st_mtime_ns == stamp
    assert run("tutor", [w.replace("steps=8", "steps=16") for w in words(tiny_text, tmp_path)], "kd-env tutor") == 2
    assert "other values of total_timesteps" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("trainings=0", "at least 1"),
        ("rules=[teacher_sample]", "Did you mean 'teacher_samples'"),
        ("agent={kl_coeff: 1}", "Did you mean 'kl_coef'"),
        ("env={bugdet: 1}", "Did you mean 'budget'"),
        ("agent=3", "options by name"),
        ("trainngs=3", "Did you mean 'trainings'"),
        ("first_evaluation_seed=50", "lie among those"),
        ("name=a/b", "plain folder name"),
        ("env={action_view: box}", "rules=[]"),
    ],
)
def test_mistakes_are_told_before_any_work(
    word: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("tutor", [word, *([] if word.startswith("name") else ["name=x"]), f"runs_dir={tmp_path}"], "") == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "x" / "results.json").exists() and not list(tmp_path.glob("*/tutor-seed*"))
