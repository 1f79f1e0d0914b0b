"""FitNet: the mean squared error between the teacher's hint and the student's regressed guess.

Source: Romero et al. 2015, "FitNets: Hints for Thin Deep Nets", eq. 3, trained together with the task as
S2-KD compares it. The hint is the Z_fused of the teacher without text: FitNet is what can be had without captions and
without spectra. `semantic` is the same loss on the multimodal teacher, `s2kd_vision` S2-KD on this one.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from pipeline.losses.base import DistillationLoss


class FitNet(DistillationLoss):
    teacher = "vision"

    @property
    def weights(self) -> dict[str, float]:
        return {"hint": self.lambda_}

    def terms(self, projected: Tensor, target: Tensor, grid: tuple[int, int]) -> dict[str, Tensor]:
        # channels first, as both lie in memory
        return {"hint": F.mse_loss(projected.mT.float(), target.mT.float())}
