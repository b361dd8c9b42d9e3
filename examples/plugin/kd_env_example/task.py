"""A task that brings its rows: opinions about films, in the words of the embedded task, so that its teacher fits."""

from __future__ import annotations

import numpy as np

from kd_env.data.tasks import Task

_SIZES = {"train": 400, "validation": 100}
_THINGS = ("the film", "the plot", "the cast", "the music", "the script", "the ending", "the story", "the camera")
_AGAINST, _FOR = ("awful", "boring", "cold", "dull", "messy", "stupid"), ("clever", "funny", "great", "lovely", "warm")


def read(split: str) -> dict[str, list[str]]:
    """The columns of a split; the same rows at every call."""
    rng = np.random.default_rng([7, list(_SIZES).index(split)])
    texts, labels = list[str](), list[str]()
    for row in range(_SIZES[split]):
        words = (_AGAINST, _FOR)[row % 2]
        parts = [f"{rng.choice(_THINGS)} was {rng.choice(words)}" for _ in range(rng.integers(1, 4))]
        texts.append(" , ".join(parts) + " .")
        labels.append(("negative", "positive")[row % 2])
    return {"text": texts, "opinion": labels}


OPINIONS = Task("opinions", ("text",), "opinion", ("negative", "positive"), ("worst_class", "accuracy"), read=read)
