"""A block that leaves the random state of the process as it was, so that what is measured changes no result."""

from __future__ import annotations

import random
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def untouched(threads: int | None = None) -> Iterator[None]:
    """Put back the global generators of Python, NumPy and torch and the number of threads; warnings are not shown.

    Args:
        threads: of torch within the block; None leaves them.
    """
    state, legacy, torch_state, before = (
        random.getstate(),
        np.random.get_state(),
        torch.get_rng_state(),
        torch.get_num_threads(),
    )
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None
    if threads is not None:
        torch.set_num_threads(threads)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the job itself will give them
            yield
    finally:
        random.setstate(state)
        np.random.set_state(legacy)
        torch.set_rng_state(torch_state)
        if cuda is not None:
            torch.cuda.set_rng_state_all(cuda)
        torch.set_num_threads(before)
