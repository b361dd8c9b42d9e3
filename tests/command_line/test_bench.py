"""``kd-env bench``: every benchmark end to end at tiny sizes, and what it refuses."""

from __future__ import annotations

import importlib.util
import io
import json
import runpy
import sys
import warnings
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks import children, teacher_set
from cli.jobs import bench as job
from cli.jobs.bench import NAMES, bench, help_text

SMALL = ("threads=1", "device=cpu")
TINY = {
    "env_step": ("hidden=16", "length=8", "layers=1", "teacher_hidden=16", "vocab=50", "batch=4", "repeats=2"),
    "cached": (
        *("teacher_layers=1", "teacher_hidden=16", "layers=1", "hidden=16", "vocab=50", "batch=4", "length=8"),
        "repeats=2",
    ),
    "teacher_set": (
        *("rows=80", "max_length=32", "teacher_layers=2", "teacher_hidden=16", "hidden=16", "vocab=50", "batch=4"),
        "repeats=2",
    ),
    "tutor_step": (
        *("settings=text", "hidden=16", "batch=4", "teacher_every=1", "vocab=50", "teacher_layers=1"),
        *("teacher_hidden=16", "memory_batch=4", "memory_length=8", "repeats=2"),
    ),
    "influence_step": (
        *("settings=random", "hidden=16", "layers=1", "teacher_layers=1", "teacher_hidden=16", "batch=4", "length=8"),
        *("vocab=50", "repeats=2"),
    ),
    "field": (
        *("teacher_layers=1", "teacher_hidden=16", "layers=1", "hidden=16", "vocab=50", "batch=4", "length=8"),
        *("updates=2", "repeats=1"),
    ),
    "flows": ("widths=[16,200]", "lengths=4", "batch=2", "replicas=2", "repeats=1"),
    "gap": ("replicas=[1,2]", "repeats=2"),
    "profile_step": (
        *("replicas=[2]", "hidden=16", "steps=1", "evaluation_rows=16", "repeats=1"),
        *("precisions=[fp32,vmap,autocast]", "samples=[0,8]"),
    ),
    "students": (
        *("teacher_layers=1", "teacher_hidden=16", "widths=8", "layers=1", "vocab=50", "batch=4", "length=8"),
        *("cut=1", "trainable=[all,head]", "rows=40", "steps=1", "repeats=2"),
    ),
    "precision_course": ("updates=4", "repeats=1"),
    "sampled_rewards": ("students=2", "steps=3", "evaluation_rows=16", "samples=4", "repeats=1"),
    "ranks": ("ways=[two_ranks]", "updates=1", "repeats=1", "layers=1", "hidden=16", "batch=8", "length=8"),
    "states": ("sizes=[11 M]", "vocab=60", "repeats=1"),
    "statistics": ("policies=2", "problems=2", "trainings=3", "resamples=100", "thresholds=3", "repeats=1"),
    "coverage": ("problems=[2]", "trainings=[3]", "draws=20", "bands=4", "resamples=20"),
    "backends": ("backends=local", "steps=0", "repeats=1"),
    "large_data": ("rows=2000", "kinds=pair", "vocab=200", "max_length=16"),
    "corpus": (
        *("megabytes=1", "processes=1", "vocab=400", "max_length=16", "updates=2", "batch=4", "hidden=16", "sample=1"),
        *("teacher_layers=1", "teacher_hidden=16", "small=0", "after=false"),
    ),
    "gpu": ("hidden=16", "replicas=[1,2]", "evaluate_every=0", "layers=1", "repeats=1"),
    "vector": ("hidden=16", "replicas=[1,2]", "modes=[loop,singles,stacked]", "evaluate_every=0", "repeats=2"),
    "growth": (
        *(
            "replicas=1",
            "teachers=2",
            "terms=2",
            "batch=4",
            "rows=100",
            "length=8",
            "hidden=16",
            "layers=1",
            "teacher_layers=1",
        ),
        *("teacher_hidden=16", "vocab=50", "repeats=2"),
    ),
}


def run(name: str, folder: Path, *words: str) -> dict[str, Any]:
    bench([name, *TINY[name], *SMALL, f"out={folder}", *words], f"kd-env bench {name}")
    result: dict[str, Any] = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    return result


def played_here(words: Sequence[str], **_: Any) -> str:
    """What ``python -m <words>`` prints, without a process: to start one takes seconds."""
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings(), redirect_stdout(io.StringIO()) as printed:
        patch.setattr(sys, "argv", list(words))
        patch.setenv("TOKENIZERS_PARALLELISM", "false")
        warnings.filterwarnings("ignore", "'benchmarks.* found in sys.modules", RuntimeWarning)
        runpy.run_module(words[0], run_name="__main__", alter_sys=True)
    return printed.getvalue()


@pytest.mark.parametrize("name", NAMES)
def test_a_benchmark_writes_its_files(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if name != "states":  # it and ``ranks`` start processes as all do
        for module in (children, teacher_set):
            monkeypatch.setattr(module, "processes", SimpleNamespace(output=played_here))
    result = run(name, tmp_path, *(["tools=pytorch,pytorch_cached"] if name == "field" else []))
    assert result["facts"]["command"] == f"kd-env bench {name}"
    assert "PyTorch" in result["facts"]["hardware"]
    assert result["rows"]
    text = (tmp_path / "table.md").read_text(encoding="utf-8")
    assert text in capsys.readouterr().out
    for part in (f"kd-env bench {name}", result["facts"]["hardware"], "| ---"):
        assert part in text
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["plot.png", "result.json", "table.md"]


def test_growth_measures_each_cell_once_with_the_others_at_their_base(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cells: list[dict[str, int]] = []

    def measured(options: Any, cell: dict[str, int]) -> dict[str, float]:
        cells.append(cell)
        return {"seconds": float(len(cells)), "built_mib": 1.0, "peak_mib": 2.0, "spread": 0.0}

    growth = job._load("growth")
    monkeypatch.setattr(growth, "_in_child", measured)
    options = growth.Options(replicas=(1, 4), teachers=(1,), terms=(4, 2), batch=(8,), rows=(100,), length=(16, 32))
    rows = growth.run(options)["rows"]
    base = {"replicas": 1, "teachers": 1, "terms": 4, "batch": 8, "rows": 100, "length": 16}
    assert cells == [base, {**base, "replicas": 4}, {**base, "terms": 2}, {**base, "length": 32}]
    assert [(row["axis"], row["value"], row["seconds"]) for row in rows] == [
        *(("replicas", 1, 1.0), ("replicas", 4, 2.0), ("teachers", 1, 1.0), ("terms", 4, 1.0), ("terms", 2, 3.0)),
        *(("batch", 8, 1.0), ("rows", 100, 1.0), ("length", 16, 1.0), ("length", 32, 4.0)),
    ]


@pytest.mark.skipif(
    importlib.util.find_spec("accelerate") is None or importlib.util.find_spec("textbrewer") is None,
    reason="accelerate and textbrewer are not installed (pip install accelerate textbrewer)",
)
def test_tools_of_others_train_the_same_student(tmp_path: Path) -> None:
    result = run("field", tmp_path)
    assert {"trainer", "textbrewer", "pytorch", "env"} <= {row["loop"] for row in result["rows"]}
    assert result["facts"]["loss_difference"] < 1e-4 and not result["facts"]["absent"]


def test_an_absent_tool_is_named_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    known = importlib.util.find_spec

    def lacking(name: str, package: str | None = None) -> Any:
        return None if name in ("textbrewer", "accelerate") else known(name, package)

    monkeypatch.setattr(importlib.util, "find_spec", lacking)
    result = run("field", tmp_path)
    assert result["facts"]["absent"] == {
        "trainer": "pip install accelerate",
        "textbrewer": "pip install textbrewer",
    }
    assert {row["loop"] for row in result["rows"]} == {*job._load("field").ENVIRONMENTS, "pytorch", "pytorch_cached"}
    captured = capsys.readouterr()
    for text in (captured.err, captured.out):
        assert "pip install textbrewer" in text and "pip install accelerate" in text


def test_loops_that_differ_are_not_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loops = job._load("field_loops")
    right = loops.soft_loss
    monkeypatch.setattr(loops, "soft_loss", lambda *words: 1.01 * right(*words))
    with pytest.raises(AssertionError, match="losses of 'pytorch' differ from those of 'env'"):
        run("field", tmp_path, "tools=pytorch")
    assert not list(tmp_path.iterdir())


def test_interleaving_takes_turns() -> None:
    order: list[str] = []

    def call(name: str, seconds: float) -> Any:
        def measured() -> float:
            order.append(name)
            return seconds * len(order)

        return measured

    found = job._load("common").interleaved({"a": call("a", 1.0), "b": call("b", 10.0)}, 3)
    assert order == ["a", "b"] * 4
    # Of 3, 5, 7 and of 40, 60, 80: the first round does not count.
    assert found.medians == {"a": 5.0, "b": 60.0}
    assert found.spread == pytest.approx(2.0 / 5.0)


@pytest.mark.parametrize(("spread", "told"), [(0.05, ""), (0.31, "vary by up to 31%")])
def test_a_busy_machine_is_told(spread: float, told: str) -> None:
    text = job._load("common").unrest([{"spread": 0.01}, {"spread": spread}])
    assert told in text and bool(text) == bool(told)


def test_no_words_list_the_benchmarks(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench([], "kd-env bench") == []
    listed = capsys.readouterr().out
    assert all(f"  {name} " in listed for name in (*NAMES, "all"))


@pytest.mark.parametrize("name", NAMES)
def test_help_shows_every_option_with_its_default(name: str) -> None:
    text = help_text(name)
    assert "threads=1" in text and "precision=fp32" in text
    for field in fields(job._load(name).Options):
        assert f"  {field.name}=" in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["feild"], "Unknown benchmark 'feild'. Did you mean 'field'"),
        (["field", "hiden=4"], "Unknown option 'hiden'. Did you mean 'hidden'"),
        (["all", "hidden=64"], "belong to single benchmarks"),
        (["field", "threads"], "'threads' is no option; write key=value"),
        (["field", "threads=1", "threads=2"], "threads is given twice"),
        (["field", "threads=two"], "threads='two' must be a whole number"),
        (["field", "threads=0"], "threads=0 must be a whole number of at least 1"),
        (["field", "precision=fp23"], "Did you mean 'fp32'"),
        (["field", "device=gpu"], "valid: auto, cpu, cuda"),
        (["field", "updates=3"], "updates=3 is no multiple of updates_per_step=2"),
        (["field", "temperature=0"], "temperature=0.0 must be above 0"),
        (["field", "tools=[pytorch,textbrower]"], "Did you mean 'textbrewer'"),
        (["vector", "replicas=[]"], "must be a list of different values"),
        (["vector", "replicas=[1,1]"], "must be a list of different values"),
        (["vector", "modes=[stacked,threads]"], "Unknown value of modes"),
        (["growth", "terms=[1,7]"], "at most 6"),
        (["growth", "rows=8"], "no batch would be full"),
    ],
)
def test_what_does_not_fit_is_refused_before_any_work(words: list[str], message: str, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    with pytest.raises(ValueError) as caught:
        bench([*words, f"out={folder}"], "kd-env bench")
    assert message in str(caught.value)
    assert not folder.exists()


def test_a_wheel_says_that_a_checkout_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job, "FOLDER", tmp_path)
    with pytest.raises(ValueError, match=r"source checkout.*Clone the repository"):
        bench(["field"], "kd-env bench field")
