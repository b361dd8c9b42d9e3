"""A run means the same folders wherever it is resumed, judged or compared."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from cli.jobs.compare import read_runs
from cli.main import main
from cli.runs import folder as runs
from cli.runs.config import read_config
from cli.runs.paths import with_absolute_paths
from cli.settings.compose import compose
from cli.settings.read import read_settings

pytestmark = pytest.mark.usefixtures("undrawn")
RUN = [
    *("task=custom", "task.data_dir=data", "teacher.path=teacher", "runs_dir=runs", "name=run", "cache_dir=cache"),
    *("student=toy_small", "student.hidden_size=8", "task.feedback_rows=32", "task.selection_rows=32"),
    *("env.evaluation_rows=32", "env.batch_size=4", "env.budget=4", "agent=rule/all", "evaluation.rules=[all]"),
    *("evaluation.seeds=1", "evaluation.jobs=1", "threads=1", "progress=false"),
]


@pytest.fixture(scope="module")
def home(tiny: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data, teacher and a run, all of them given by relative paths from there."""
    folder = tmp_path_factory.mktemp("home")
    shutil.copytree(tiny["data_dir"], folder / "data")
    shutil.copytree(tiny["teacher"], folder / "teacher")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["train", *RUN]) == 0
    return folder


def results(folder: Path) -> Any:
    return json.loads((folder / "results.json").read_text(encoding="utf-8"))


def test_the_configuration_of_a_run_holds_absolute_paths(home: Path) -> None:
    config = read_config(home / "runs" / "run" / "config.yaml")
    paths = (config["task"]["data_dir"], config["teacher"]["path"], config["runs_dir"], config["cache_dir"])
    assert paths == tuple(str(home / name) for name in ("data", "teacher", "runs", "cache"))


def test_a_run_is_judged_from_elsewhere_by_its_own_files(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "data"
    shutil.copytree(home / "data", other)  # relative paths of the run exist here, too, and mean other labels
    for split in ("train", "validation"):
        rows = [json.loads(line) for line in (other / f"{split}.jsonl").read_text().splitlines()]
        changed = [{**row, "label": 1 - row["label"]} for row in rows[:10]]
        (other / f"{split}.jsonl").write_text("\n".join(map(json.dumps, [*changed, *rows[10:]])))
    monkeypatch.chdir(tmp_path)
    judged = ["evaluate", f"run={home / 'runs' / 'run'}", "evaluation.rules=[all]"]
    assert main([*judged, "name=elsewhere"]) == 0
    assert "is what counts" not in capsys.readouterr().err  # relative paths are no change of the configuration
    again = home / "runs" / "run" / "evaluations" / "elsewhere"
    assert results(again)["policies"] == results(home / "runs" / "run")["policies"]
    assert results(again)["facts"] == results(home / "runs" / "run")["facts"]
    # What is given now is seen from here.
    assert main([*judged, "name=given", "task.data_dir=data"]) == 0
    given = home / "runs" / "run" / "evaluations" / "given"
    assert read_config(given / "config.yaml")["task"]["data_dir"] == str(other)
    assert results(given)["facts"]["split_fingerprint"] != results(again)["facts"]["split_fingerprint"]
    # Resumed with the same words from here it would be another run, and is refused.
    capsys.readouterr()
    words = [word for word in RUN if not word.startswith(("runs_dir", "teacher"))]
    assert main(["train", *words, f"runs_dir={home / 'runs'}", f"teacher.path={home / 'teacher'}", "resume=true"]) == 2
    assert "other values of task.data_dir" in capsys.readouterr().err


def test_runs_of_earlier_versions_are_seen_from_here(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "former"
    shutil.copytree(home / "runs" / "run", folder)
    for name in ("config.yaml", "results.json"):
        (folder / name).write_text((folder / name).read_text().replace(f"{home}/", ""))
    (folder / "kd_env_manifest.json").unlink()  # which such runs do not have
    monkeypatch.chdir(home)
    assert read_config(folder / "config.yaml")["task"]["data_dir"] == "data"
    settings = read_settings(compose("config", [*RUN, "resume=true"]))
    runs.check_folder(folder, settings.resolved)
    first, second = read_runs([home / "runs" / "run", folder])
    assert first.results["facts"] == second.results["facts"]


@pytest.mark.parametrize("split", ["train", "validation"])
def test_rows_that_have_changed_since_are_refused(
    home: Path, split: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Half a file is a file, too; nothing but the hash of its rows tells."""
    monkeypatch.chdir(home)
    path = home / "data" / f"{split}.jsonl"
    whole = path.read_text()
    again = ["evaluate", "run=runs/run", "evaluation.rules=[all]", f"name={split}"]
    try:
        path.write_text("\n".join(whole.splitlines()[:110]))
        for words in (["train", *RUN, "resume=true"], again):
            assert main(words) == 2
            message = capsys.readouterr().err
            assert f"The {split} rows are not those of the run " in message and "runs/run (content hash" in message
            assert "a file has changed since. Put it back, or " in message
    finally:
        path.write_text(whole)
    hashes = json.loads((home / "runs" / "run" / "rows.json").read_text())
    assert set(hashes) == {"train", "validation"}
    assert hashes["train"] == results(home / "runs" / "run")["facts"]["split_fingerprint"]


def test_a_project_that_was_moved_goes_on(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(home, moved)
    config = moved / "runs" / "run" / "config.yaml"
    config.write_text(config.read_text().replace(str(home), str(tmp_path / "gone")))
    (config.parent / "kd_env_manifest.json").unlink()  # which tells that it was changed
    monkeypatch.chdir(moved)
    settings = read_settings(compose("config", [*RUN, "resume=true"]))
    with pytest.warns(UserWarning) as warned:
        runs.check_folder(moved / "runs" / "run", settings.resolved)
    told = [str(warning.message) for warning in warned]
    assert [line.split("=")[0] for line in told] == ["task.data_dir", "teacher.path"]
    assert told[0].endswith(f"/gone/data is not there any more; {moved / 'data'} is read in its place.")
    (tmp_path / "gone" / "data").mkdir(parents=True)
    with (
        pytest.warns(UserWarning, match="teacher.path"),
        pytest.raises(ValueError, match=r"started with other values of task\.data_dir; resume"),
    ):
        runs.check_folder(moved / "runs" / "run", settings.resolved)


def test_every_kind_of_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b", "toy", "lines"):
        Path(name).mkdir()
    config = {
        "runs_dir": "runs",
        "cache_dir": None,
        "task": {"data_dir": "~/data", "name": "a"},
        "teacher": {"path": "a", "name_or_path": "google/bert"},
        "student": {"name_or_path": str(tmp_path / "b")},
        "env": {"text": ["toy", "lines", "rte"], "language_model": "b"},
        "teachers": [{"name": "a", "path": "a"}, {"name": "b", "name_or_path": "google/bert"}],
        "cofinetuned": [{"name": "a", "name_or_path": "b"}],
    }
    found = with_absolute_paths(config)
    here = str(tmp_path)
    assert found == {
        "runs_dir": f"{here}/runs",
        "cache_dir": None,
        "task": {"data_dir": str(Path.home() / "data"), "name": "a"},
        "teacher": {"path": f"{here}/a", "name_or_path": "google/bert"},
        "student": {"name_or_path": f"{here}/b"},
        "env": {"text": ["toy", f"{here}/lines", "rte"], "language_model": f"{here}/b"},
        "teachers": [{"name": "a", "path": f"{here}/a"}, {"name": "b", "name_or_path": "google/bert"}],
        "cofinetuned": [{"name": "a", "name_or_path": f"{here}/b"}],
    }
    assert with_absolute_paths(found) == found
    assert with_absolute_paths({**config, "cofinetuned": "b"})["cofinetuned"] == f"{here}/b"


@pytest.mark.parametrize(
    "word", ["runs_dir=5", "runs_dir=", "cache_dir=[1]", "task.data_dir=5", "task.data_dir=''", "task.name=5"]
)
def test_places_are_texts(word: str) -> None:
    with pytest.raises(ValueError, match=rf"{word.split('=')[0]}=.* must be a text"):
        read_settings(compose("config", [word]))
