"""The house in numbers and in a picture: which file imports which, in which rooms, on how many floors.

``python -m docs.house`` prints the numbers and writes ``docs/house.png``; ``tests/test_house.py`` keeps the rules.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("kd_files", "kd_env", "agents", "cli")
FLOORS = (
    ("core",),
    ("config", "data", "knowledge"),
    ("models", "numerics"),
    ("teachers", "finetuning"),
    ("mdp",),
    ("decisions",),
    ("envs",),
    ("evaluation",),
)
"""Rooms of ``kd_env`` from the bottom up: a file may import its own room and rooms of lower floors."""

Graph = Mapping[str, frozenset[str]]


def sources(*packages: str) -> list[Path]:
    """Every Python file of some packages or folders."""
    return sorted(path for package in packages for path in (ROOT / package).rglob("*.py"))


def module_name(path: Path) -> str:
    """The dotted name of a file."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def imported_names(path: Path) -> frozenset[str]:
    """What a file imports anywhere, inside functions and under ``TYPE_CHECKING`` too, as dotted names."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return frozenset(names)


@cache
def import_graph(*packages: str) -> dict[str, frozenset[str]]:
    """For every module those of the same packages that it imports; ``from package import module`` is the module."""
    paths = {module_name(path): path for path in sources(*packages)}
    graph = {}
    for name, path in paths.items():
        targets = {target for target in imported_names(path) if target in paths}
        # ``from kd_env.core import trees`` names the package on the way to its module only.
        on_the_way = {t for t in targets if any(other.startswith(f"{t}.") for other in targets)}
        graph[name] = frozenset(targets - on_the_way - {name})
    return graph


def room(module: str) -> str:
    """The room of a module: the folder under its package; the decisions, a folder each, are one room."""
    return ".".join(module.split(".")[:2])


def circles(graph: Graph) -> list[list[str]]:
    """Groups of nodes that reach each other, largest first (Tarjan 1972)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    groups: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for target in graph[node]:
            if target not in index:
                visit(target)
                low[node] = min(low[node], low[target])
            elif target in stack:
                low[node] = min(low[node], index[target])
        if low[node] == index[node]:
            group = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            if len(group) > 1:
                groups.append(sorted(group))

    for node in graph:
        if node not in index:
            visit(node)
    return sorted(groups, key=len, reverse=True)


def room_graph(graph: Graph) -> dict[str, frozenset[str]]:
    """Which room imports from which; the packages' own ``__init__`` files are left out."""
    rooms: dict[str, set[str]] = {}
    for module, targets in graph.items():
        if "." in module:
            rooms.setdefault(room(module), set()).update(room(target) for target in targets if "." in target)
    return {name: frozenset(targets - {name}) for name, targets in rooms.items()}


def heights(graph: Graph) -> dict[str, int]:
    """Floor of every node: 0 for those that import nothing, else one above the highest that it imports.

    Raises:
        ValueError: the graph has a circle.
    """
    if groups := circles(graph):
        raise ValueError(f"There are no floors where files import each other in a circle: {groups}.")
    floors: dict[str, int] = {}

    def floor(node: str) -> int:
        if node not in floors:
            floors[node] = 1 + max((floor(target) for target in graph[node]), default=-1)
        return floors[node]

    for node in graph:
        floor(node)
    return floors


def upward_imports(graph: Graph) -> list[tuple[str, str]]:
    """Imports of ``kd_env`` from a room to one that stands above or beside it."""
    order = {name: place for place, floor in enumerate(FLOORS) for name in floor}
    wrong = []
    for module, targets in graph.items():
        for target in targets:
            mine, other = (name.split(".")[1] if "." in name else "" for name in (module, target))
            if mine in order and other in order and mine != other and order[other] >= order[mine]:
                wrong.append((module, target))
    return wrong


def lengths(paths: Iterable[Path]) -> dict[str, int]:
    """Lines of files, by their path from the root."""
    return {str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines()) for path in paths}


def summary() -> dict[str, object]:
    """The numbers of the house."""
    graph = import_graph(*PACKAGES)
    rooms = {name: targets for name, targets in room_graph(graph).items()}
    lines = lengths(sources(*PACKAGES))
    return {
        "files": len(lines),
        "lines": sum(lines.values()),
        "median lines of a file": median(lines.values()),
        "files above 300 lines": sum(count > 300 for count in lines.values()),
        "circles of files": len(circles(graph)),
        "rooms": len(rooms),
        "circles of rooms": len(circles(rooms)),
        "floors": None if circles(rooms) else 1 + max(heights(rooms).values()),
        "imports upwards in kd_env": len(upward_imports(graph)),
    }


if __name__ == "__main__":
    from docs import picture

    for title, value in summary().items():
        print(f"{title}: {value}")
    picture.draw(ROOT / "docs" / "house.png")
