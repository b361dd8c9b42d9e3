"""What is written for those who carry on is true: paths, groups and commands exist, and all of them are those of CI."""

from __future__ import annotations

import importlib.util
import re
import shlex
import tomllib
from itertools import combinations
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
import yaml
from PIL import Image

import kd_env
from agents import catalog as agents_catalog
from agents.rules import catalog as rules_catalog
from docs import house, picture
from kd_env.decisions import ids

ROOT = Path(__file__).resolve().parent.parent
PYPROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PAGES = ("CONTRIBUTING.md", "docs/architecture.md")
ELSEWHERE = {"../shared", "glue/", "models/"}
"""Paths in the pages that are no part of the repository."""


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def shell_lines(text: str) -> list[str]:
    """Lines of the shell blocks of a page."""
    blocks = re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.splitlines()]


def code_words(page: str) -> list[str]:
    """What stands between backticks in the running text of a page."""
    return re.findall(r"`([^`]+)`", re.sub(r"^```.*?^```", "", read(page), flags=re.MULTILINE | re.DOTALL))


def make_targets() -> dict[str, list[str]]:
    """Commands of every target of the Makefile."""
    targets: dict[str, list[str]] = {}
    for line in read("Makefile").splitlines():
        if name := re.match(r"([a-z]+):", line):
            targets[name[1]] = []
        elif line.startswith("\t"):
            targets[list(targets)[-1]].append(line.strip())
    return targets


def ci_checks() -> list[str]:
    """Commands of ``.ci/run`` after those that it takes from the README."""
    return read(".ci/run").split("\ndone\n")[1].splitlines()


@pytest.mark.parametrize("page", PAGES)
def test_paths_exist(page: str) -> None:
    text = read(page)
    links = [(ROOT / page).parent / target for target in re.findall(r"\]\(([^)]+)\)", text)]
    assert links and all(link.exists() for link in links)
    paths = {word for word in code_words(page) if re.fullmatch(r"[\w./-]*/[\w./-]*", word)} - ELSEWHERE
    assert len(paths) > 20
    assert not {path for path in paths if not (ROOT / path).exists() and path not in gym.registry}
    names = re.findall(r"`([\w.]+)` in\s+`([\w/]+\.py)`", text)
    names += [(name, path) for path, name in re.findall(r"`(tests/[\w/]+\.py)`, `(\w+)`", text)]
    assert names
    for name, path in names:
        assert re.search(rf"\b{name.split('.')[-1]}\b", read(path)), f"{name} is not in {path}"


def test_every_room_is_described() -> None:
    table = read("CONTRIBUTING.md").split("| room |")[1].split("\n\n")[0]
    rooms = [f"kd_env/{room}" for floor in house.FLOORS for room in floor]
    assert re.findall(r"^\| `([^`]+)` \|", table, re.MULTILINE) == ["kd_files", *rooms, "agents", "cli", "configs"]


def test_entry_point_groups_are_those_of_the_code() -> None:
    groups = {agents_catalog.GROUP, rules_catalog.GROUP, ids.GROUP}
    for path in house.sources("kd_env"):
        groups |= set(re.findall(r'Registry\([^)]*"(kd_env\.\w+)"', path.read_text(encoding="utf-8")))
    assert {word for word in code_words("CONTRIBUTING.md") if re.fullmatch(r"kd_env\.\w+", word)} == groups


def test_commands_exist() -> None:
    inline = [word for word in code_words("CONTRIBUTING.md") if word.startswith(("make ", "pytest ", "python "))]
    lines = [*shell_lines(read("CONTRIBUTING.md")), *inline]
    assert len(lines) > len(inline) > 0
    for words in (shlex.split(line, comments=True) for line in lines):
        if words[0] == "make":
            assert words[1:] and set(words[1:]) <= make_targets().keys(), words
        elif words[0] == "pytest":
            assert any((ROOT / word).is_file() for word in words[1:]), words
        elif words[:2] == ["python", "-m"]:
            assert importlib.util.find_spec(words[2]), words
        else:
            assert words == ["pre-commit", "install"], words


def test_make_runs_what_ci_runs() -> None:
    targets = make_targets()
    assert [*targets["lint"], *targets["types"], *targets["docs"]] == ci_checks()
    # .ci/run takes the rest from the README: installation and tests.
    assert " && ".join([*targets["install"], *targets["test"]]) == shell_lines(read("README.md"))[1]
    assert targets["ci"] == [".ci/run"] and targets["coverage"] == ["pytest --cov"]
    assert re.findall(r"^\.PHONY: (.*)$", read("Makefile"), re.MULTILINE)[0].split() == list(targets)


def test_hooks_run_what_ci_runs() -> None:
    (repository,) = yaml.safe_load(read(".pre-commit-config.yaml"))["repos"]
    assert repository["repo"] == "local"
    # The site takes longer than a commit should wait.
    assert [hook["entry"] for hook in repository["hooks"]] == ci_checks()[:-1]
    assert ci_checks()[-1].startswith("mkdocs ")
    assert all(hook["language"] == "system" and not hook["pass_filenames"] for hook in repository["hooks"])


def test_tests_are_not_slowed_by_coverage() -> None:
    assert "--cov" not in PYPROJECT["tool"]["pytest"]["ini_options"]["addopts"]
    types = make_targets()["types"][-1]
    packages = {name for name in types.removeprefix("mypy ").removesuffix(".py").split()}
    assert set(PYPROJECT["tool"]["coverage"]["run"]["source_pkgs"]) == packages


def test_one_version_and_one_licence() -> None:
    citation, project = yaml.safe_load(read("CITATION.cff")), PYPROJECT["project"]
    assert citation["version"] == project["version"] == kd_env.__version__
    assert citation["license"] == project["license"] and citation["keywords"] == project["keywords"]
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    assert re.findall(r"^## \[([^\]]+)\]", read("CHANGELOG.md"), re.MULTILINE)[0] == project["version"]


def test_the_picture_is_of_this_house() -> None:
    with Image.open(ROOT / "docs" / "house.png") as image:
        drawn = image.info["Description"]
    assert drawn == picture.description(), "the rooms have changed: run python -m docs.house"


def test_no_room_of_the_picture_hides_another() -> None:
    boxes = picture.boxes()
    for one, other in combinations(boxes, 2):
        apart = one.right <= other.left or other.right <= one.left or one.top <= other.bottom or other.top <= one.bottom
        assert apart, f"{one.name} lies on {other.name}: give them places in docs/picture.py"
    bottoms = {box.name: box.bottom for box in boxes}
    assert all(bottoms[room] > bottoms[target] for room, target in picture.lines(picture.rooms()))
