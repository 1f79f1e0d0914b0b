from __future__ import annotations

import scores.continuous

from pipeline.metrics.mae_openstl import MAEOpenSTL
from tests.metrics.openstl import check_sums


def test_it_is_the_error_of_scores_times_the_number_of_values_summed() -> None:
    check_sums(MAEOpenSTL, scores.continuous.mae)
