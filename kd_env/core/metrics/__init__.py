"""How predictions are judged over a whole split, never averaged over mini-batches; constant predictions give 0.

Other distributions add a :class:`Metric` with ``@METRICS.register`` or the entry-point group ``kd_env.metrics``.
"""

from kd_env.core.metrics import classes, scores
from kd_env.core.metrics.base import METRICS, SHARE, Metric, bounds_of, check_metrics, compute
from kd_env.core.metrics.classes import per_class
from kd_env.core.metrics.ranks import auc

__all__ = [
    "METRICS",
    "SHARE",
    "Metric",
    "auc",
    "bounds_of",
    "check_metrics",
    "classes",
    "compute",
    "per_class",
    "scores",
]
