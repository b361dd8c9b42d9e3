"""The device of a run."""

from __future__ import annotations

import torch


def resolve_device(name: str) -> torch.device:
    """The device of a run.

    Raises:
        ValueError: a device that this machine does not have.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"device={name!r} is no device; valid: auto, cpu, cuda, cuda:<n>.") from error
    if device.type == "cuda" and (not torch.cuda.is_available() or (device.index or 0) >= torch.cuda.device_count()):
        count = torch.cuda.device_count()
        raise ValueError(
            f"device={name!r} is absent: this machine has {count} CUDA devices. Use device=cpu or device=auto."
        )
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"device={name!r} is not supported; valid: auto, cpu, cuda, cuda:<n>.")
    return device
