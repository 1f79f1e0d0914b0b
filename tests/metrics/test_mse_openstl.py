from __future__ import annotations

import scores.continuous

from pipeline.metrics.mse_openstl import MSEOpenSTL
from tests.metrics.openstl import check_sums


def test_it_is_the_error_of_scores_times_the_number_of_values_summed() -> None:
    check_sums(MSEOpenSTL, scores.continuous.mse)
