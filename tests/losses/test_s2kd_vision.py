"""The control: S2-KD's own terms, from the teacher that has no text."""

from __future__ import annotations

import torch

from pipeline.losses.s2kd import S2KD
from pipeline.losses.s2kd_vision import S2KDVision


def test_it_has_the_terms_and_weights_of_s2kd_and_another_teacher() -> None:
    torch.manual_seed(0)
    projected, target = torch.randn(2, 2, 8, 3)
    control, method = S2KDVision(0.5, 0.1), S2KD(0.5, 0.1)
    assert control.terms(projected, target, (2, 4)) == method.terms(projected, target, (2, 4))
    assert control.weights == method.weights
    assert (control.teacher, method.teacher) == ("vision", "multimodal")
    assert control.options == method.options
