"""A stranger's distribution extends everything: the example is built, installed and used by names alone."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import gymnasium as gym
import matplotlib
import pytest

from agents import catalog as agents_catalog
from agents.rules import catalog as rules_catalog
from kd_env.core.metrics import METRICS
from kd_env.data.tasks import TASKS
from kd_env.decisions.catalog import DECISIONS
from kd_env.decisions.sample_weighting.decision import SampleWeighting
from kd_env.decisions.sample_weighting.scores import SCORES
from kd_env.knowledge import TERMS
from kd_env.mdp.objectives.catalog import OBJECTIVES
from kd_env.mdp.observations.base import FEATURES
from kd_env.mdp.rewards import REWARDS
from kd_env.teachers.catalog import TEACHER_SOURCES

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "plugin"
PAGE = ROOT / "docs" / "plugins.md"
REGISTRIES = (TASKS, METRICS, TEACHER_SOURCES, OBJECTIVES, TERMS, REWARDS, FEATURES, SCORES, DECISIONS)
BROKEN = """
[kd_env.terms]
broken = broken_plugin:term
[kd_env.metrics]
number = broken_types:number
[kd_env.rewards]
gap_closed = broken_types:reward
[kd_env.rules]
sunk = broken_plugin:Sunk
"""


def declared() -> dict[str, dict[str, str]]:
    """Entry points of the example by group."""
    project = tomllib.loads((EXAMPLE / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return dict(project["entry-points"])


def install_broken(folder: Path) -> None:
    """Another distribution, whose module raises and whose objects are not what they should be."""
    installed = folder / "kd_env_broken-2.0.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: kd-env-broken\nVersion: 2.0\n")
    (installed / "entry_points.txt").write_text(BROKEN)
    (folder / "broken_plugin.py").write_text('raise ZeroDivisionError("no luck")\n')
    (folder / "broken_types.py").write_text("number = 7\ndef reward(x):\n    return x.loss_before\n")


@pytest.mark.timeout(240)
def test_it_is_installed_and_works_by_its_names(tmp_path: Path) -> None:
    """``tests/with_plugins.py`` is played in a process that finds the example and a broken distribution."""
    source, target = tmp_path / "source", tmp_path / "target"
    shutil.copytree(EXAMPLE, source)  # the build writes beside its source
    pip = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-deps", "--no-index"]
    subprocess.run([*pip, "--no-build-isolation", "--target", str(target), str(source)], check=True, cwd=tmp_path)
    install_broken(target)
    path = os.pathsep.join([str(ROOT), str(target)])
    env = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(tmp_path / "cache")}
    env |= {"MPLCONFIGDIR": matplotlib.get_cachedir()}  # fonts are not looked for again
    play = [sys.executable, "-m", "pytest", "-n", "0", "-q", "-p", "no:cacheprovider", "-x"]
    done = subprocess.run(
        [*play, str(ROOT / "tests" / "with_plugins.py"), f"--basetemp={tmp_path / 'temp'}"],
        **{"cwd": ROOT, "env": env, "capture_output": True, "text": True, "check": False},
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]


def test_the_example_has_one_of_each_kind() -> None:
    groups = {registry.group for registry in REGISTRIES} | {agents_catalog.GROUP, rules_catalog.GROUP}
    assert set(declared()) == groups and all(len(points) == 1 for points in declared().values())


def test_the_page_quotes_the_example() -> None:
    """Every snippet stands in the example word for word, every file is quoted, and every group is named."""
    page = PAGE.read_text(encoding="utf-8")
    files = {path: path.read_text(encoding="utf-8") for path in (EXAMPLE / "kd_env_example").glob("*.py")}
    quoted = set()
    for snippet in re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL):
        homes = [path for path, text in files.items() if snippet in text]
        assert len(homes) == 1, f"in no file of the example:\n{snippet}"
        quoted.add(homes[0].name)
    assert quoted == {path.name for path in files} - {"__init__.py"}
    project = (EXAMPLE / "pyproject.toml").read_text(encoding="utf-8")
    assert all(block in project for block in re.findall(r"^```toml\n(.*?)^```", page, re.MULTILINE | re.DOTALL))
    assert set(re.findall(r"`(kd_env\.\w+)`", page)) == set(declared())
    for link in re.findall(r"\]\(([^)#]+)\)", page):
        assert (PAGE.parent / link).exists(), link


def test_a_decorator_is_enough_too() -> None:
    """What is registered in Python has a name, and a decision an environment id, without an entry point."""
    try:

        @DECISIONS.register("mine_alone")
        class Mine(SampleWeighting):
            name = "mine_alone"

        assert DECISIONS["mine_alone"] is Mine
        assert gym.spec("kd_env/MineAlone-v0").kwargs == {"decision": "mine_alone"}
    finally:
        gym.registry.pop("kd_env/MineAlone-v0", None)
        DECISIONS._items.pop("mine_alone", None)
