"""The semantic alignment of S2-KD alone, eq. 10: the row of its Table 4 without the spectral term.

The term is FitNet's hint loss on the Z_fused of the multimodal teacher; FitNet's own teacher has no text. What the two
differ by is therefore the text's.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from pipeline.losses.base import DistillationLoss


class Semantic(DistillationLoss):
    @property
    def weights(self) -> dict[str, float]:
        return {"semantic": self.lambda_}

    def terms(self, projected: Tensor, target: Tensor, grid: tuple[int, int]) -> dict[str, Tensor]:
        # channels first, as both lie in memory
        return {"semantic": F.mse_loss(projected.mT.float(), target.mT.float())}
