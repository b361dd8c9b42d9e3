"""The course of an episode as a picture, for ``render_mode="rgb_array"``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Panels = Mapping[str, Mapping[str, NDArray[Any]]]
"""By title of a panel: its lines by name, each a number of every replica ``[N]``, NaN where there is none yet."""

_INCHES, _DOTS = (6.4, 2.0), 100
"""Size of a panel, and points of the picture per inch."""


class Course:
    """What N replicas went through since their episodes began; drawn without pyplot, so without a display."""

    def __init__(self, count: int) -> None:
        self._points: list[list[tuple[int, dict[str, dict[str, float]]]]] = [[] for _ in range(count)]

    def begin(self, replicas: Iterable[int]) -> None:
        """Forget the episodes before."""
        for replica in replicas:
            self._points[int(replica)] = []

    def add(self, replicas: Iterable[int], updates: NDArray[Any], panels: Panels) -> None:
        """Note where the replicas are now, after ``updates [N]`` of their budget."""
        for replica in (int(index) for index in replicas):
            values = {
                title: {name: float(line[replica]) for name, line in lines.items()} for title, lines in panels.items()
            }
            self._points[replica].append((int(updates[replica]), values))

    def picture(self, replica: int) -> NDArray[np.uint8]:
        """Its episode so far, ``[height, width, 3]``: a panel below the other, updates from left to right."""
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        points = self._points[replica]
        titles = list(points[0][1])
        figure = Figure(figsize=(_INCHES[0], _INCHES[1] * len(titles)), dpi=_DOTS, layout="constrained")
        canvas: Any = FigureCanvasAgg(figure)
        for axes, title in zip(figure.subplots(len(titles), squeeze=False, sharex=True)[:, 0], titles, strict=True):
            for name in points[0][1][title]:
                values = [panels[title][name] for _, panels in points]
                axes.plot([updates for updates, _ in points], values, marker=".", label=name)
            axes.set_title(title, fontsize=8)
            axes.tick_params(labelsize=7)
            axes.grid(alpha=0.3)
            axes.legend(fontsize=6, loc="center left", bbox_to_anchor=(1.0, 0.5))
        axes.set_xlabel("updates", fontsize=8)
        canvas.draw()
        return np.asarray(canvas.buffer_rgba())[..., :3].copy()
