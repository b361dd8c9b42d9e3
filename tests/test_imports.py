"""Imports point one way, and importing the package stays light."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# Layers from the bottom up: a module may import its own layer and those below it, never one above.
LAYERS = (
    (
        *("types", "trees", "registry", "checks", "plain", "config", "config_influence", "config_teacher"),
        *("config_optimizer", "default_features", "records", "locks"),
    ),
    (
        *("knowledge", "actions", "observations", "rewards", "glue", "toy", "models", "teachers", "splits", "tables"),
        *(
            "losses",
            "calibration",
            "episodes",
            "optim",
            "layermap",
            "export",
            "updates",
            "problem",
            "build",
            "build_teachers",
            "students",
            "encoder_check",
            "decisions",
            "influence",
            "row_influence",
            "actions_teacher",
            "actions_sample",
            "features",
            "features_teacher",
            "features_sample",
            "scores",
            "taught",
            "teaching",
            "teacher_set",
            "teacher_cache",
            "pooling",
            "cofinetune",
            "finetune",
            "finetune_config",
            "finetune_loop",
            "finetune_model",
            "finetune_store",
            "text",
            "masking",
            "mlm_config",
            "mlm_model",
            "mlm_train",
        ),
    ),
    ("dynamics",),
    ("envs",),
    ("tutor",),
)
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


def imports_of(path: Path, *, runtime_only: bool = True) -> set[str]:
    """Modules imported anywhere in a file, except under ``if TYPE_CHECKING``."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    skipped: set[ast.AST] = set()
    if runtime_only:
        for node in ast.walk(tree):
            if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
                skipped.update(ast.walk(node))
    found: set[str] = set()
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found


def sources(package: str) -> list[Path]:
    found = sorted((ROOT / package).rglob("*.py"))
    assert found
    return found


def layer_of(module: str) -> int | None:
    name = module.removeprefix("kd_env.").split(".")[0]
    return next((index for index, names in enumerate(LAYERS) if name in names), None)


@pytest.mark.parametrize("path", sources("kd_env"), ids=lambda path: str(path.relative_to(ROOT)))
def test_kd_env_imports_downwards_only(path: Path) -> None:
    found = imports_of(path)
    top = {name.split(".")[0] for name in found}
    assert not top & {"agents", "cli", "train_agent", "hydra", "omegaconf", "configs"}
    parts = path.relative_to(ROOT / "kd_env").with_suffix("").parts
    mine = layer_of(parts[0])
    if mine is None:
        assert parts[0] in ("__init__", "evaluation", "testing"), f"{path} stands in no layer of {LAYERS}"
        return
    for name in found:
        if name.startswith("kd_env.") and (other := layer_of(name)) is not None:
            assert other <= mine, f"{path} imports {name}, which stands above it"


@pytest.mark.parametrize("path", sources("kd_env/evaluation"), ids=lambda path: path.name)
def test_evaluation_knows_no_agents(path: Path) -> None:
    assert not any(name.split(".")[0] in ("agents", "stable_baselines3") for name in imports_of(path))


@pytest.mark.parametrize("path", sources("agents"), ids=lambda path: path.name)
def test_agents_never_import_kd_env(path: Path) -> None:
    found = imports_of(path, runtime_only=False)
    assert not any(name.split(".")[0] in ("kd_env", "cli", "train_agent") for name in found)


def test_only_evaluations_read_dev_rows() -> None:
    readers = {
        str(path.relative_to(ROOT)) for path in sources("kd_env") if "kd_env.data.loading.load_dev" in imports_of(path)
    }
    allowed = {f"kd_env/evaluation/{name}.py" for name in ("protocol", "downstream", "tutor_dev")}
    assert readers <= {*allowed, "kd_env/data/text.py"}


def test_only_reports_ask_for_dev_texts() -> None:
    """``load_texts`` gives dev texts where it is asked for them by ``dev=...``, and only ``evaluation`` asks."""
    for path in sources("kd_env"):
        if path.is_relative_to(ROOT / "kd_env" / "evaluation"):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", getattr(node.func, "attr", "")) == "load_texts":
                assert all(keyword.arg not in ("dev", None) for keyword in node.keywords), f"{path} asks for dev texts"


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
