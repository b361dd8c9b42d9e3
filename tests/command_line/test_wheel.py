"""A wheel as it is installed: no package of a common name, the commands, and both names of ours understood."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PARTS = ("agents", "cli", "configs", "kd_env", "kd_files", "setup.py", "pyproject.toml", "README.md", "LICENSE")
SEEN = """
import json, sys, warnings
# The checkout, where it is installed to be edited, would be found first.
sys.meta_path[:] = [finder for finder in sys.meta_path if "editable" not in repr(finder).lower()]
import kd_env
with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    import agents
    from agents.rules.catalog import RULES
import kd_env_agents
from kd_env_agents.rules import catalog
from kd_env_cli import MODULE, main
from kd_env_cli.settings.compose import compose
found = {
    "one": agents is kd_env_agents and RULES is catalog.RULES,
    "told": [str(one.message) for one in told if one.category is FutureWarning],
    "place": kd_env_agents.__file__,
    "module": MODULE,
    "status": main.main(["--version"]),
    "budget": compose("config", ["experiment=quick"])["env"]["budget"],
    "loaded": sorted(name for name in sys.modules if name.split(".")[0] in ("cli", "configs")),
}
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder into which a wheel of a copy of the sources was unpacked."""
    source, made, place = (tmp_path_factory.mktemp(name) for name in ("source", "made", "place"))
    for name in PARTS:
        path = ROOT / name
        if path.is_dir():
            shutil.copytree(path, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(path, source / name)
    command = (
        "-m",
        "pip",
        "wheel",
        "-q",
        "--no-deps",
        "--no-build-isolation",
        "--no-index",
        "-w",
        str(made),
        str(source),
    )
    subprocess.run([sys.executable, *command], check=True, capture_output=True)
    [wheel] = made.glob("kd_env-*.whl")
    zipfile.ZipFile(wheel).extractall(place)
    return place


def test_nothing_in_a_wheel_has_a_common_name(installed: Path) -> None:
    names = {path.name for path in installed.iterdir() if not path.name.endswith(".dist-info")}
    assert names == {"kd_env", "kd_env_agents", "kd_env_cli", "kd_env_configs", "kd_files"}
    [script] = installed.glob("*.dist-info/entry_points.txt")
    assert "kd-env = kd_env_cli.main:main" in script.read_text(encoding="utf-8")
    old = re.compile(r"^\s*(from|import) (agents|cli|configs)\b", re.MULTILINE)
    sources = list(installed.rglob("*.py"))
    assert len(sources) > 300 and not [path for path in sources if old.search(path.read_text(encoding="utf-8"))]
    kept = {path.relative_to(ROOT / "configs") for path in (ROOT / "configs").rglob("*.yaml")}
    assert {path.relative_to(installed / "kd_env_configs") for path in installed.rglob("*.yaml")} == kept
    assert all((installed / name / "py.typed").is_file() for name in names - {"kd_env_configs"})


def test_it_works_under_its_names_and_understands_those_of_a_checkout(installed: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    done = subprocess.run(
        [sys.executable, "-c", SEEN], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    found = json.loads(done.stdout.splitlines()[-1])
    told = "The package 'agents' of kd-env is called 'kd_env_agents' where kd-env is installed: import that one."
    assert found["one"] and found["told"] == [told] and Path(found["place"]).is_relative_to(installed)
    assert found["module"] == "kd_env_cli.main" and found["status"] == 0 and found["budget"] > 0
    assert found["loaded"] == []


def test_a_checkout_understands_the_names_of_a_wheel() -> None:
    import kd_env_agents  # type: ignore[import-not-found]
    from kd_env_agents.rules import catalog  # type: ignore[import-not-found]

    import agents
    from agents.rules import catalog as ours

    assert kd_env_agents is agents and catalog is ours and agents.__spec__.name == "agents"
    with pytest.raises(ModuleNotFoundError, match="kd_env_elsewhere"):
        __import__("kd_env_elsewhere")
