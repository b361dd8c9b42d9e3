"""A module once more, as the library builds it, over the same tensors: with the library's attention or with ours."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from kd_env.models.library.reading import quiet_transformers
from kd_env.models.pooling import PooledClassifier


def library_copy(module: Any, attention: str | None) -> Any:
    """A module of the same class and configuration, built by the library anew, that shares every tensor; in eval mode.

    Args:
        module: of the library, or a :class:`PooledClassifier`; layers that were exchanged in it are taken over.
        attention: name of an attention function; None lets the library choose, as it does for everybody.
    """
    if isinstance(module, PooledClassifier):
        pooled = copy.copy(module)
        pooled._modules = {**module._modules, "encoder": library_copy(module.encoder, attention)}
        return pooled.eval()
    config = copy.deepcopy(module.config)
    config._attn_implementation = attention
    with quiet_transformers(), torch.device("meta"):  # no memory: tensors are those of the module
        built = type(module)(config)
    _share(built, module)
    return built.eval()


def _share(built: nn.Module, module: nn.Module) -> None:
    built._parameters, built._buffers = dict(module._parameters), dict(module._buffers)
    for name, child in module._modules.items():
        same = built._modules.get(name)
        if child is not None and type(child) is type(same):
            assert same is not None
            _share(same, child)
        else:
            built._modules[name] = child
    for name in set(built._modules) - set(module._modules):  # the pooler of an encoder that was made without one
        delattr(built, name)
        setattr(built, name, getattr(module, name, None))
