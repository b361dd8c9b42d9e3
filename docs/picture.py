"""The picture of the house: rooms on their floors, with a line for every import that does not follow from others."""

from __future__ import annotations

import ast
import re
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from docs import house

Rooms = Mapping[str, frozenset[str]]

PLACES = {
    "kd_env.numerics": (0, 1),
    "kd_env.models": (1, 2),
    "kd_env.teachers": (0, 2),
    "kd_env.finetuning": (2, 3),
    "kd_env.mdp": (0, 2),
    "agents.rules": (1, 2),
}
"""First and last column of rooms that do not share their floor evenly: so no line has to cross a room."""
TOWERS = (("agents", 0.0, 4, 1.7, "#fbe3c8"), ("kd_env", 7.1, 3, 2.45, "#d7e8f7"))
"""Each package with its left edge, its columns, their width and its colour."""
ROOF = "#dcefdc"
WALL, LINE = "#52606d", "#7b8794"
CENTRE: dict[str, Any] = {"ha": "center", "va": "center"}
INCHES = 1.2
"""Of one unit of the picture: a floor's height."""
NOTE = (
    "agents and kd_env never import each other:\npolicies read names and places from the env object.\n\n"
    "An arrow points from a room to one that it imports from;\nthose that follow from other arrows are left out.\n"
    "Every import points down."
)


class Box(NamedTuple):
    """One room of the picture, in units of the picture."""

    name: str
    left: float
    right: float
    bottom: float
    top: float
    colour: str


def rooms() -> dict[str, frozenset[str]]:
    """Which room imports from which lower one: the folders of ``kd_env`` that have a floor, and all of ``agents``."""
    places = {f"kd_env.{name}": level for level, floor in enumerate(house.FLOORS) for name in floor}
    targets: dict[str, set[str]] = {name: set() for name in places}
    for module, imported in house.import_graph("kd_env").items():
        mine = house.room(module)
        if mine in places:
            others = {house.room(target) for target in imported} & places.keys()
            targets[mine] |= {other for other in others if places[other] < places[mine]}
    agents = house.room_graph(house.import_graph("agents"))
    return {name: frozenset(others) for name, others in (targets | agents).items()}


def lines(graph: Rooms) -> list[tuple[str, str]]:
    """The imports that do not follow from others (the transitive reduction), from room to room."""

    def reached(name: str) -> frozenset[str]:
        return graph[name].union(*(reached(target) for target in graph[name]))

    return sorted(
        (name, target)
        for name, targets in graph.items()
        for target in targets
        if not any(target in reached(other) for other in targets)
    )


def floors() -> dict[str, list[list[str]]]:
    """Rooms of each tower by floor, bottom first: of ``kd_env`` as the rules say, of ``agents`` as they import."""
    heights = house.heights({name: targets for name, targets in rooms().items() if name.startswith("agents.")})
    agents: list[list[str]] = [[] for _ in range(1 + max(heights.values()))]
    for name in sorted(heights):
        agents[heights[name]].append(name)
    return {"agents": agents, "kd_env": [[f"kd_env.{name}" for name in floor] for floor in house.FLOORS]}


def boxes() -> list[Box]:
    """Every room's place, the roof (``cli``) last."""
    placed = []
    for package, left, columns, width, colour in TOWERS:
        for level, floor in enumerate(floors()[package]):
            for index, name in enumerate(floor):
                first, last = PLACES.get(name, (index * columns / len(floor), (index + 1) * columns / len(floor)))
                edges = (left + first * width + 0.06, left + last * width - 0.06)
                placed.append(Box(name, *edges, level, level + 0.68, colour))
    top = max(box.top for box in placed) + 0.14
    return [*placed, Box("cli", min(b.left for b in placed), max(b.right for b in placed), top, top + 0.68, ROOF)]


def purpose(name: str) -> str:
    """What a room is for: the first paragraph of its file or of its ``__init__.py``."""
    path = house.ROOT.joinpath(*name.split("."))
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return re.sub(r":\w+:|`", "", text.split("\n\n")[0].replace("\n", " "))


def description() -> str:
    """All that the picture says, as text: it is written into the file, which so tells of an earlier house."""
    names = [box.name for box in boxes()]
    contents = [" ".join([f"{name}: {purpose(name)}", *_folders(name)]) for name in names]
    return "\n".join([*contents, *(f"{name} -> {target}" for name, target in lines(rooms()))])


def draw(path: Path) -> None:
    """Write the picture as PNG.

    Raises:
        ValueError: a file of ``kd_env`` imports upwards, which no floor can show.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    if wrong := house.upward_imports(house.import_graph("kd_env")):
        raise ValueError(f"The house has no floors while files import upwards: {wrong}; see tests/test_house.py.")
    placed = {box.name: box for box in boxes()}
    right, top = placed["cli"].right, placed["cli"].top
    figure = Figure(figsize=(INCHES * (right + 0.2), INCHES * (top + 0.45)))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(-0.1, right + 0.1)
    axes.set_ylim(-0.35, top + 0.1)
    axes.set_axis_off()
    for name, target in lines(rooms()):
        _arrow(axes, placed[name], placed[target])
    for box in placed.values():
        _room_box(axes, box)
    for package, left, columns, width, _ in TOWERS:
        axes.text(left + columns * width / 2, -0.2, f"{package}/", fontsize=13, weight="bold", **CENTRE)
    lowest = max(box.top for box in placed.values() if box.name.startswith("agents."))
    place = (placed["agents.common"].left + placed["agents.common"].right) / 2
    axes.text(place, (lowest + placed["cli"].bottom) / 2, NOTE, fontsize=11, **CENTRE)
    FigureCanvasAgg(figure)
    figure.savefig(path, dpi=100, metadata={"Description": description(), "Software": None})


def _folders(name: str) -> list[str]:
    """Folders inside a room."""
    path = house.ROOT.joinpath(*name.split("."))
    return sorted(inner.parent.name for inner in path.glob("*/__init__.py")) if path.is_dir() else []


def _room_box(axes: Any, box: Box) -> None:
    from matplotlib.patches import FancyBboxPatch

    width, middle = box.right - box.left, (box.left + box.right) / 2
    shape = "round,pad=0,rounding_size=0.06"
    corner = (box.left, box.bottom)
    axes.add_patch(FancyBboxPatch(corner, width, box.top - box.bottom, boxstyle=shape, fc=box.colour, ec=WALL))
    title = "train_agent.py, cli/" if box.name == "cli" else box.name.split(".")[-1]
    axes.text(middle, box.top - 0.12, title, fontsize=11, weight="bold", **CENTRE)
    inner = _folders(box.name)
    text = "\n".join(textwrap.wrap(purpose(box.name), int(width * 15.2)))
    axes.text(middle, box.top - (0.29 if inner else 0.43), text, fontsize=9, linespacing=1.15, **CENTRE)
    if inner:
        labels = "    ".join(f"{name}/" for name in inner)
        axes.text(middle, box.bottom + 0.13, labels, fontsize=9.5, style="italic", color="#243b53", **CENTRE)


def _arrow(axes: Any, upper: Box, lower: Box) -> None:
    """From the floor of one room to the ceiling of another: upright where one stands above the other, else slanted."""
    left, right = max(upper.left, lower.left), min(upper.right, lower.right)
    start = end = (left + right) / 2
    if left >= right:
        # Close to the edge above and well inside below: so it passes between the rooms of a floor that it skips.
        leftwards = upper.left > lower.left
        start = upper.left + 0.06 if leftwards else upper.right - 0.06
        end = lower.right - 0.3 if leftwards else lower.left + 0.3
    style = {"arrowstyle": "-|>", "color": LINE, "lw": 1.3, "shrinkA": 0, "shrinkB": 0}
    axes.annotate("", (end, lower.top), (start, upper.bottom), arrowprops=style)
