"""Objectives by name. Other distributions add theirs, of labelled rows, in the group ``kd_env.objectives``."""

from __future__ import annotations

from kd_env.core.registry import Registry
from kd_env.mdp.objectives.labels import LabelsObjective
from kd_env.mdp.objectives.text import TextObjective
from kd_env.mdp.problem import Objective
from kd_files.plugins import instance_of

OBJECTIVES: Registry[Objective] = Registry("objective", "kd_env.objectives", instance_of(LabelsObjective))
OBJECTIVES.register("labels")(LabelsObjective())
OBJECTIVES.register("text")(TextObjective())
