"""Names of rows that stand in files: the split, the place there, and a hash of the texts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

import numpy as np

from kd_env.data.tasks import Rows

TRAIN = "train"
"""The split of the official train rows in ids; dev splits have their own names."""


def row_ids(rows: Rows, split: str, index: Sequence[int] | np.ndarray) -> list[str]:
    """Ids such as ``train:17:3fa9c2d1`` of rows of one official split.

    The number counts the rows of the file from 0. The last part is the beginning of the SHA-256 of the row's texts, a
    JSON list of one or two in UTF-8 (``json.dumps(texts, ensure_ascii=False)``): answers to another text of the same
    number, of a file that has changed or of another data set, are not taken for this row's.

    Args:
        rows: all rows of the split, in the order of its file.
        split: ``train`` or the name of a dev split.
        index: numbers of the rows that are named.
    """
    ids = []
    for row in np.asarray(index).tolist():
        texts = [rows.first[row]] if rows.second is None else [rows.first[row], rows.second[row]]
        content = hashlib.sha256(json.dumps(texts, ensure_ascii=False).encode()).hexdigest()[:8]
        ids.append(f"{split}:{row}:{content}")
    return ids
