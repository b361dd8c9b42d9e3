"""Where the cache keeps what is made: by options, and by the content of rows and encoders."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from cli.settings.compose import compose
from cli.settings.kinds.language_models import mlm_config
from cli.settings.teachers import set_config, teacher_config


@pytest.fixture
def words(tiny: dict[str, Any], tmp_path: Path) -> list[str]:
    """Overrides of a teacher that would be made, from rows and an encoder that can be changed."""
    shutil.copytree(tiny["data_dir"], tmp_path / "data")
    shutil.copytree(tiny["teacher"], tmp_path / "encoder")
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.txt").write_text("some text\n")
    where = [f"task.data_dir={tmp_path / 'data'}", f"teacher.name_or_path={tmp_path / 'encoder'}"]
    return ["task=custom", *where, f"cache_dir={tmp_path / 'cache'}"]


def folders(words: list[str], tmp_path: Path) -> dict[str, str]:
    resolved = compose("finetune", words)
    text = compose("finetune", [*words, "objective=mlm", f"text={tmp_path / 'text'}"])
    return {
        "teacher": teacher_config(resolved, None).output,
        "set": set_config(resolved, [{"name": "a"}, {"name": "b"}], None, key="members").output,
        "mlm": mlm_config(text).output,
    }


def test_other_rows_and_other_encoders_have_folders_of_their_own(words: list[str], tmp_path: Path) -> None:
    first = folders(words, tmp_path)
    assert folders(words, tmp_path) == first
    rows, text = tmp_path / "data" / "train.jsonl", tmp_path / "text" / "a.txt"
    before = rows.read_text()
    rows.write_text(before.replace('"label": 1', '"label": 0', 1))
    other_rows = folders(words, tmp_path)
    assert other_rows["teacher"] != first["teacher"] and other_rows["set"] != first["set"]
    assert other_rows["mlm"] == first["mlm"], "it is made from texts"
    rows.write_text(before)
    assert folders(words, tmp_path) == first, "by content, not by time"
    text.write_text("other text\n")
    assert folders(words, tmp_path)["mlm"] != first["mlm"]
    text.write_text("some text\n")
    config = tmp_path / "encoder" / "config.json"
    config.write_text(config.read_text() + "\n")
    assert all(folder != first[what] for what, folder in folders(words, tmp_path).items())


def test_what_earlier_versions_made_is_found_as_long_as_it_is_of_the_same_contents(
    words: list[str], tmp_path: Path
) -> None:
    """They named folders by options alone, and did not say what they were made from."""
    folder = Path(teacher_config(compose("finetune", words), None).output)
    plain = folder.with_name(folder.name.rsplit("-", 1)[0])
    plain.mkdir(parents=True)
    (plain / "kd_env_teacher.json").write_text("{}")
    assert teacher_config(compose("finetune", words), None).output == str(plain)
    (plain / "kd_env_teacher.json").write_text(json.dumps({"made_from": {"rows": "of another content"}}))
    assert teacher_config(compose("finetune", words), None).output == str(folder)


def test_packaged_encoders_of_embedded_tasks_keep_their_folders(tmp_path: Path) -> None:
    """Nothing that could change: the name is the content."""
    resolved = compose("finetune", ["task=toy", "teacher.name_or_path=org/encoder", f"cache_dir={tmp_path}"])
    assert Path(teacher_config(resolved, None).output).name.count("-") == 2
