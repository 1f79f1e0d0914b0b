"""What errors have in common that are summed as OpenSTL does, for comparison with numbers printed by that library."""

from __future__ import annotations

from pipeline.metrics.base import Metric

SUMMED = (
    "in physical units, summed over variables and grid points, mean over windows and lead times, no latitude weights"
)


class OpenSTL(Metric):
    """OpenSTL's `metric` without spatial_norm (Tan et al. 2023): mean over windows and frames, *sum* over the rest."""

    across_variables = False
    sums_variables = True
