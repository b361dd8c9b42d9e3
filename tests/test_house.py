"""The rules of the house: imports point down, nothing stands in a circle, files stay small, importing stays light."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import Counter
from statistics import median

import pytest

from docs import house

ROOT = house.ROOT
HEAVY = (
    "transformers",
    "datasets",
    "stable_baselines3",
    "hydra",
    "matplotlib",
    "tensorboard",
    "pandas",
    "pyarrow",
    "rich",
)


def test_kd_env_imports_downwards_only() -> None:
    assert house.upward_imports(house.import_graph("kd_env")) == []


def test_every_room_of_kd_env_has_a_floor() -> None:
    rooms = {
        path.relative_to(ROOT).parts[1] for path in house.sources("kd_env") if len(path.relative_to(ROOT).parts) > 2
    }
    assert rooms == {room for floor in house.FLOORS for room in floor}


def test_nothing_stands_in_a_circle() -> None:
    """Also not behind ``TYPE_CHECKING`` or inside functions."""
    graph = house.import_graph(*house.PACKAGES)
    assert house.circles(graph) == []
    assert house.circles(house.room_graph(graph)) == []


def test_a_circle_is_found() -> None:
    graph = {name: frozenset(targets) for name, targets in {"a": "b", "b": "c", "c": "a", "d": "a", "e": ""}.items()}
    assert house.circles(graph) == [["a", "b", "c"]]
    with pytest.raises(ValueError, match="circle"):
        house.heights(graph)
    assert house.heights({"a": frozenset("b"), "b": frozenset("c"), "c": frozenset()}) == {"a": 2, "b": 1, "c": 0}


def test_files_and_folders_stay_small() -> None:
    """A file above 300 lines says why in its first line."""
    lengths = house.lengths(house.sources(*house.PACKAGES))
    assert median(lengths.values()) <= 120
    long = {path for path, count in lengths.items() if count > 300}
    assert not [path for path in long if "300 lines" not in (ROOT / path).read_text(encoding="utf-8").split("\n", 1)[0]]
    folders = Counter(path.parent for path in house.sources(*house.PACKAGES))
    assert not {str(folder.relative_to(ROOT)): count for folder, count in folders.items() if count > 12}


def test_no_code_outside_its_room_asks_which_decision_it_is() -> None:
    asks = re.compile(r"\bdecision ==|isinstance\([\w.]*actions, \w+Actions")
    for path in house.sources(*house.PACKAGES):
        if not path.is_relative_to(ROOT / "kd_env" / "decisions"):
            assert not asks.search(path.read_text(encoding="utf-8")), path


def test_kd_env_knows_neither_agents_nor_the_command_line() -> None:
    for path in house.sources("kd_env"):
        top = {name.split(".")[0] for name in house.imported_names(path)}
        assert not top & {"agents", "cli", "train_agent", "hydra", "omegaconf", "configs"}, path
        if path.is_relative_to(ROOT / "kd_env" / "evaluation"):
            assert "stable_baselines3" not in top, path


def test_files_know_nothing_of_what_is_in_them() -> None:
    for path in house.sources("kd_files"):
        assert not {name.split(".")[0] for name in house.imported_names(path)} & {"kd_env", "agents", "cli"}, path


def test_agents_never_import_kd_env() -> None:
    for path in house.sources("agents"):
        assert not any(name.split(".")[0] in ("kd_env", "cli", "train_agent") for name in house.imported_names(path)), (
            path
        )


def test_only_evaluations_read_dev_rows() -> None:
    readers = {
        str(path.relative_to(ROOT))
        for path in house.sources("kd_env")
        if "kd_env.data.loading.load_dev" in house.imported_names(path)
    }
    judging = {f"kd_env/evaluation/judging/{name}.py" for name in ("tables", "dev")}
    assert readers and readers <= {*judging, "kd_env/evaluation/downstream/fine_tuning.py", "kd_env/data/corpora.py"}


def test_only_reports_ask_for_dev_texts() -> None:
    """``load_texts`` gives dev texts where it is asked for them by ``dev=...``, and only ``evaluation`` asks."""
    for path in house.sources("kd_env"):
        if path.is_relative_to(ROOT / "kd_env" / "evaluation"):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", getattr(node.func, "attr", "")) == "load_texts":
                assert all(keyword.arg not in ("dev", None) for keyword in node.keywords), f"{path} asks for dev texts"


def test_only_reports_read_texts_that_packing_held_back() -> None:
    for path in house.sources("kd_env"):
        if not any(path.is_relative_to(house.ROOT / "kd_env" / room) for room in ("evaluation", "data/shards")):
            assert "kd_env.data.shards.packing.DEV" not in house.imported_names(path), path


def test_import_is_light() -> None:
    code = (
        "import sys, time, torch, gymnasium; start = time.perf_counter(); import kd_env; "
        "print(time.perf_counter() - start); print(*sys.modules)"
    )
    # The first import may compile: the better of two is what it costs.
    runs = [
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    ]
    assert min(float(out.splitlines()[0]) for out in runs) <= 0.3
    loaded = {name.split(".")[0] for name in runs[0].splitlines()[1].split()}
    assert not loaded & set(HEAVY)


def test_help_imports_neither_torch_nor_hydra() -> None:
    code = "import sys; from cli.main import main; main(['train', '--help']); print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = {name.split(".")[0] for name in done.stderr.split()}
    assert not loaded & {"torch", *HEAVY}
