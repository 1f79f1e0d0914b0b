"""The control of what the captions do: S2-KD as it is (eq. 10-12), from the teacher that has no text."""

from __future__ import annotations

from pipeline.losses.s2kd import S2KD


class S2KDVision(S2KD):
    teacher = "vision"
