"""MLP-Mixer over frames stacked in channels.

Source: Tolstikhin et al. 2021, "MLP-Mixer: An all-MLP Architecture for Vision": patches become tokens; each layer
mixes the tokens of every channel, then the channels of every token, each by an MLP behind a LayerNorm and around a
shortcut; a last LayerNorm. Instead of the class head a linear map of each token to its patch of the forecast. The
hidden width is half the channels' in the token MLP and four times in the channel MLP, as there.

The number of parameters depends on the grid. For the paper's 6.2 million, with patches of 4:

    frames and variables     grid       width, layers
    12 -> 12, 1              32 x 64    320, 7
    12 -> 12, 2              32 x 64    318, 7
    4 -> 4, 2                32 x 32    432, 4
    4 -> 4, 2                64 x 64    420, 4

Token MLPs hold a weight for every pair of places, so the grid is fixed, and a globe's longitude has a seam: nothing
here can tell that the last column lies beside the first. The latent that P projects is the tokens behind the last
LayerNorm. A method of several levels gets them, the tokens after half of the layers, and the embedded patches.
"""

from __future__ import annotations

from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline import models
from pipeline.errors import UserError
from pipeline.layers import pad_to_multiple, padded_size
from pipeline.models import Problem
from pipeline.students.base import Level, Student


class MLPMixer(Student):
    class Sizes(models.Sizes):
        width: int = Field(320, gt=0, multiple_of=2)  # channels of a token
        layers: int = Field(7, gt=0)
        patch: int = Field(4, gt=0)  # rows and columns of the grid that are one token

    def __init__(self, problem: Problem, sizes: Sizes) -> None:
        super().__init__(problem)
        channels_in, channels_out = problem.t_in * problem.variables, problem.t_out * problem.variables
        height, width = padded_size((problem.height, problem.width), sizes.patch)
        self.patch, self.grid = sizes.patch, (height // sizes.patch, width // sizes.patch)
        self.levels = (Level(sizes.width, self.grid),) * 3
        self.embed = nn.Conv2d(channels_in, sizes.width, sizes.patch, stride=sizes.patch)
        layers = [Mixing(self.grid[0] * self.grid[1], sizes.width) for _ in range(sizes.layers)]
        self.first, self.second = nn.Sequential(*layers[: len(layers) // 2]), nn.Sequential(*layers[len(layers) // 2 :])
        self.norm = nn.LayerNorm(sizes.width)
        self.readout = nn.Linear(sizes.width, channels_out * sizes.patch**2)

    def predict(self, images: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        self._check_grid(images)
        height, width = images.shape[-2:]
        embedded = self.embed(pad_to_multiple(images, self.patch, self.problem.periodic))
        middle = self.first(embedded.flatten(2).transpose(1, 2))
        tokens = self.norm(self.second(middle))
        forecast = F.pixel_shuffle(self._mapped(self.readout(tokens)), self.patch)
        return forecast[..., :height, :width], (self._mapped(tokens), self._mapped(middle), embedded)

    def _mapped(self, tokens: Tensor) -> Tensor:
        """(B, L, D) -> (B, D, h, w)."""
        return tokens.transpose(1, 2).unflatten(2, self.grid)

    def _check_grid(self, images: Tensor) -> None:
        built, given = (self.problem.height, self.problem.width), tuple(images.shape[-2:])
        if given != built:
            raise UserError(
                f"this mlp_mixer was trained on a grid of {built[0]} x {built[1]} and is given one of "
                f"{given[0]} x {given[1]}; its token MLPs know no other grid: distill it again, or take another student"
            )


class Mixing(nn.Module):
    """One layer: token mixing, then channel mixing."""

    def __init__(self, tokens: int, width: int) -> None:
        super().__init__()
        self.token_norm, self.channel_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.token_mlp = _mlp(tokens, width // 2)
        self.channel_mlp = _mlp(width, 4 * width)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, L, D) -> (B, L, D)."""
        tokens = tokens + self.token_mlp(self.token_norm(tokens).transpose(1, 2)).transpose(1, 2)
        mixed: Tensor = tokens + self.channel_mlp(self.channel_norm(tokens))
        return mixed


def _mlp(width: int, hidden: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))
