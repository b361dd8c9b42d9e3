"""Objectives by name."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from kd_env.mdp.objectives.labels import LabelsObjective
from kd_env.mdp.objectives.text import TextObjective
from kd_env.mdp.problem import Objective

OBJECTIVES: Mapping[str, Objective] = MappingProxyType({"labels": LabelsObjective(), "text": TextObjective()})
