"""Shared fixtures: where the real data lies, and one thread for every test process."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from kd_env.decisions.options import env_config
from kd_env.envs.build import build_problem

os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Processes that tests start inherit it: with two threads each beside another worker they run many times slower.
os.environ["OMP_NUM_THREADS"] = "1"


def pytest_configure(config: pytest.Config) -> None:
    """Two test workers with two threads each run several times slower than with one."""
    import torch

    torch.set_num_threads(1)
    # A deadline would fail on a machine that is busy; what takes long is a benchmark's question.
    settings.register_profile("suite", deadline=None)
    settings.load_profile("suite")


@pytest.fixture
def undrawn() -> Iterator[pytest.MonkeyPatch]:
    """Figures are not drawn, which takes half of the time of a tiny training; ``undrawn.undo()`` has them drawn."""
    from tests.here import undrawn_figures

    with undrawn_figures() as patch:
        yield patch


@pytest.fixture(scope="session")
def assets() -> Path:
    """Folder with ``glue/`` and ``models/``; the test is skipped where there is none."""
    root = Path(__file__).resolve().parent.parent
    folder = Path(os.environ.get("KD_ENV_ASSETS", root / ".." / "shared")).resolve()
    if not (folder / "glue").is_dir():
        if os.environ.get("KD_ENV_REQUIRE_ASSETS") == "1":
            pytest.fail(f"KD_ENV_REQUIRE_ASSETS=1, but there is no real data at {folder}")
        pytest.skip(f"no real data at {folder}; set KD_ENV_ASSETS to a folder with glue/ and models/")
    return folder


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Environment options of the tiny classification task."""
    from kd_env.testing import tiny_task

    return tiny_task(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def tiny_regression(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Environment options of the tiny regression task."""
    from kd_env.testing import tiny_task

    return tiny_task(tmp_path_factory.mktemp("tiny_regression"), regression=True)


@pytest.fixture(scope="session")
def tiny_problem(tiny: dict[str, Any]) -> Any:
    """The tiny problem in float64, shared: environments of it cost nothing to make."""
    from kd_env import build_problem

    return build_problem(env_config(**{**tiny, "precision": "fp64"}))


@pytest.fixture(scope="session")
def tiny_set(tiny: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The tiny task with three teachers of different depth and width."""
    from kd_env.testing import tiny_teachers

    return tiny_teachers(tmp_path_factory.mktemp("tiny_set"), tiny)


@pytest.fixture(scope="session")
def tiny_set_problem(tiny_set: dict[str, Any]) -> Any:
    """The tiny problem of three teachers, shared: environments of it cost nothing to make."""
    from kd_env import build_problem

    return build_problem(env_config(**{**tiny_set, "decision": "teacher_weighting", "updates_per_step": 1}))


@pytest.fixture(scope="session")
def tiny_text(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Options of the tutor's environment for a tiny text."""
    from kd_env.testing import tiny_text

    return tiny_text(tmp_path_factory.mktemp("tiny_text"))


@pytest.fixture(scope="session")
def tutor_problem(tiny_text: dict[str, Any]) -> Any:
    """The tiny text in float64, shared: environments of it cost nothing to make."""

    return build_problem(env_config(decision="tutor_token", **{**tiny_text, "precision": "fp64"}))
