"""What a run's own files say is what is judged; files that are no plain configuration are refused before they grow."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from agents.common.storage import HEADER
from cli.jobs.rejudged import composed_again, rejudged
from cli.main import main
from cli.runs.config import read_config, to_yaml
from cli.settings.compose import compose
from cli.settings.read import read_settings
from kd_files import tensors
from kd_files.manifest import MANIFEST
from kd_files.reading import DamagedFile

pytestmark = pytest.mark.usefixtures("undrawn")
WORDS = ["task=toy", "env.budget=24"]


@pytest.fixture(scope="module")
def before() -> dict[str, Any]:
    """As ``config.yaml`` of a run has it."""
    return read_settings(compose("config", WORDS)).resolved


def judged(before: dict[str, Any], *given: str) -> tuple[dict[str, Any], list[str]]:
    return rejudged(before, WORDS, given, composed_again(before, WORDS, given))


def test_a_run_is_judged_as_it_was(before: dict[str, Any]) -> None:
    config, told = judged(before)
    assert config == before and told == []


def test_what_a_configuration_holds_counts_and_differences_are_told(before: dict[str, Any]) -> None:
    """As after a change of defaults or presets, or of the file: the budget was 24 and the overrides say another."""
    other = {**before, "env": {**before["env"], "budget": 40, "reward": "loss_drop"}}
    config, told = judged(other)
    assert config["env"]["budget"] == 40 and config["env"]["reward"] == "loss_drop"
    assert sorted(line.split(" ")[0] for line in told) == ["env.budget", "env.reward"]
    assert "env.budget (40 there, 24 by overrides.json)" in told
    config, told = judged(other, "env.budget=24")  # named again: also where the overrides of the run say the same
    assert config["env"]["budget"] == 24 and config["env"]["reward"] == "loss_drop" and len(told) == 1


def test_what_follows_from_a_new_choice_is_chosen_anew(before: dict[str, Any]) -> None:
    """The learning rate follows the kind of student, unless the run chose one."""
    assert before["env"]["optimizer"]["learning_rate"] == 0.007
    config, told = judged(before, "student=pretrained", "student.name_or_path=folder")
    assert config["env"]["optimizer"]["learning_rate"] == 0.0003 and config["student"]["name_or_path"] == "folder"
    assert config["env"]["budget"] == 24 and told == []


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n", "line 2 repeats other values by an alias"),
        ("a: " + "[" * 40 + "]" * 40, "nested more than 30 deep"),
        ("a: [1\n", "no plain YAML"),
        ("- a\n- b\n", "no options by name"),
        ("just text", "no options by name"),
        ("", "no options by name"),
        ("a: " + "x" * 2**20, "more than 1048576 bytes"),
        ("a: ${oc.env:HOME", "'env' is missing"),
        ("a: {b: 1, b: 2}", "line 1: a key stands twice"),
        ("a: 1\nb: !!set {x}", "line 2 names a type"),
    ],
)
def test_yaml_of_another_form_is_refused(tmp_path: Path, text: str, fault: str) -> None:
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(DamagedFile, match=r"config\.yaml is damaged") as told:
        read_config(tmp_path / "config.yaml", {"env": dict})
    assert fault in str(told.value) and "\n" not in str(told.value)


def test_what_was_written_is_read_as_omegaconf_reads_it(tmp_path: Path) -> None:
    words = [
        "1e-3",
        "2001-01-01",
        "yes",
        "null",
        "~",
        "",
        "1_000",
        "0x10",
        "1:30",
        "nan",
        "${x}",
        "???",
        "<<",
        "=",
        " x ",
        "ä",
    ]
    values = {
        "words": words,
        "numbers": [1e-5, 1e300, -0.0, 3, float("inf")],
        "others": {"a": None, "b": True, "c": []},
    }
    path = tmp_path / "config.yaml"
    path.write_text(to_yaml(values))
    assert repr(read_config(path)) == repr(values) == repr(OmegaConf.to_container(OmegaConf.load(path)))
    path.write_text("a: 1e-3\nb: 2001-01-01\nc: on\n")  # by hand
    assert read_config(path) == {"a": 0.001, "b": "2001-01-01", "c": True}


def test_a_bomb_costs_nothing(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]
    (tmp_path / "config.yaml").write_text("\n".join(lines))
    start = time.perf_counter()
    with pytest.raises(DamagedFile, match="alias"):
        read_config(tmp_path / "config.yaml")
    assert time.perf_counter() - start < 1


def test_sections_of_a_configuration_are_checked(before: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(to_yaml({**before, "env": [1]}))
    with pytest.raises(DamagedFile, match=r"'env' is \[1\], no dict"):
        read_config(tmp_path / "config.yaml", {"env": dict})


def test_a_policy_that_is_damaged_or_not_finite_is_not_judged(
    tiny: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        "task=custom",
        f"task.data_dir={tiny['data_dir']}",
        f"teacher.path={tiny['teacher']}",
        *("student=toy_small", "student.hidden_size=8", "task.feedback_rows=32", "task.selection_rows=32"),
        *("env.evaluation_rows=32", "env.batch_size=4", "env.budget=4", "num_envs=2", "total_timesteps=8"),
        *("agent.options.n_steps=2", "evaluation.seeds=2", "evaluation.rules=[]", "progress=false"),
        *("checkpoint_every=0", f"runs_dir={tmp_path}", "name=mine"),
    ]
    assert main(["train", *words]) == 0
    policy, judge = tmp_path / "mine" / "policy", ["evaluate", f"run={tmp_path / 'mine'}"]

    def told(words: list[str]) -> str:
        capsys.readouterr()
        assert main(words) == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        return str(line)

    header = (policy / HEADER).read_text()
    (policy / HEADER).write_text(header.replace('"seed": 0', '"seed": 1'))
    assert f"{policy / HEADER} is damaged (other content than when it was written)" in told(judge)
    assert "goes on from its last checkpoint" in told(["train", *words, "resume=true"])
    (policy / HEADER).write_text(header)
    weights = tensors.read_tensors(policy / "networks.safetensors", "")
    tensors.write_tensors(
        policy / "networks.safetensors", {name: torch.full_like(value, torch.nan) for name, value in weights.items()}
    )
    (policy / MANIFEST).unlink()
    assert "networks.safetensors holds values that are not finite" in told(judge)
    assert not list((tmp_path / "mine" / "evaluations").iterdir())
