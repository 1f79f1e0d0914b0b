"""Blocks that models share: convolutions that know a globe, padding to a multiple, SimVP's first frame encoder.

And what any block can become: one that is computed again in the backward pass, for want of memory.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint


class Recomputable(nn.Module, ABC):
    """A block that may forget what it computes and compute it again when its gradient is asked for.

    Of a forward pass it then keeps its input alone. The second computation draws the same random numbers and leaves
    running statistics alone, so losses, gradients and states are what they are without it. Source: Chen et al. 2016,
    "Training Deep Nets with Sublinear Memory Cost".
    """

    recomputed = False

    @abstractmethod
    def compute(self, images: Tensor) -> Tensor:
        """What a module's `forward` is otherwise."""

    def forward(self, images: Tensor) -> Tensor:
        if not (self.recomputed and torch.is_grad_enabled()):
            return self.compute(images)
        output: Tensor = checkpoint(self.compute, images, use_reentrant=False, context_fn=self._contexts)
        return output

    def _contexts(self) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _BuffersKept(self)


def recompute_blocks(model: nn.Module) -> int:
    """Has every `Recomputable` in the model computed again in the backward pass; returns how many there are."""
    blocks = [module for module in model.modules() if isinstance(module, Recomputable)]
    for block in blocks:
        block.recomputed = True
    return len(blocks)


class _BuffersKept(AbstractContextManager[None]):
    """Meanwhile the block updates copies of its buffers: batch norm's statistics have taken in this batch already.

    It is entered once for each gradient that runs through one graph.
    """

    def __init__(self, block: nn.Module) -> None:
        self.modules = list(block.modules())
        self.kept: list[dict[str, Tensor | None]] = []

    def __enter__(self) -> None:
        self.kept = [dict(module._buffers) for module in self.modules]
        for module, buffers in zip(self.modules, self.kept, strict=True):
            copies = {name: None if value is None else value.clone() for name, value in buffers.items()}
            module._buffers.update(copies)

    def __exit__(self, *_: object) -> None:
        for module, buffers in zip(self.modules, self.kept, strict=True):
            module._buffers.update(buffers)


class GridConv2d(nn.Conv2d):
    """A "same" convolution whose columns wrap around where the grid is periodic in longitude.

    Rows are padded with zeros. Stride and dilation as in `nn.Conv2d`; the kernel must be odd.
    """

    def __init__(self, width_in: int, width_out: int, kernel: int, *, periodic: bool, **options: Any) -> None:
        super().__init__(width_in, width_out, kernel, **options)
        self.reach = self.dilation[0] * (kernel - 1) // 2
        self.periodic = periodic
        self.padding = (self.reach, 0) if periodic else (self.reach, self.reach)

    def forward(self, input: Tensor) -> Tensor:
        if self.periodic:
            input = wrap_columns(input, self.reach, self.reach)
        return super().forward(input)


class GridDoubling2d(nn.ConvTranspose2d):
    """A 3x3 transposed convolution of stride 2, the counterpart of a `GridConv2d` of stride 2.

    Doubles rows and columns; columns wrap around where the grid is periodic in longitude.
    """

    def __init__(self, width_in: int, width_out: int, *, periodic: bool) -> None:
        super().__init__(width_in, width_out, 3, stride=2, padding=1, output_padding=1)
        self.periodic = periodic

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        columns = 2 * input.shape[-1]
        if self.periodic:  # the last column also takes from the first one, its neighbour around the globe
            input = wrap_columns(input, 0, 1)
        return super().forward(input)[..., :columns]


class StridedEncoder(nn.Module):
    """The first SimVP's encoder of frames: 3x3 convolutions of stride 1, 2, 1, 2, ...

    Each with GroupNorm(2) and LeakyReLU(0.2); the first one's output is the skip. Source: Gao et al. 2022, "SimVP".
    `blocks` is even; the grid shrinks by `2 ** (blocks / 2)`, which must divide it.
    """

    def __init__(self, variables: int, width: int, blocks: int, *, periodic: bool) -> None:
        super().__init__()
        self.first = NormedConv(GridConv2d(variables, width, 3, periodic=periodic))
        self.others = nn.Sequential(
            *(NormedConv(GridConv2d(width, width, 3, periodic=periodic, stride=1 + i % 2)) for i in range(1, blocks))
        )

    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """(N, C, H, W) -> latent (N, width, h, w) and skip (N, width, H, W)."""
        skip = self.first(frames)
        return self.others(skip), skip


class StridedDecoder(nn.Module):
    """The mirror image of `StridedEncoder`; the skip is concatenated before the last convolution."""

    def __init__(self, variables: int, width: int, blocks: int, *, periodic: bool) -> None:
        super().__init__()
        layers: list[GridDoubling2d | GridConv2d] = [
            GridConv2d(width, width, 3, periodic=periodic) if i % 2 else GridDoubling2d(width, width, periodic=periodic)
            for i in range(blocks - 1)
        ]
        self.layers = nn.Sequential(*map(NormedConv, layers))
        self.last = NormedConv(GridConv2d(2 * width, width, 3, periodic=periodic))
        self.readout = nn.Conv2d(width, variables, 1)

    def forward(self, latent: Tensor, skip: Tensor) -> Tensor:
        """(N, width, h, w) and (N, width, H, W) -> (N, C, H, W)."""
        frames: Tensor = self.readout(self.last(torch.cat([self.layers(latent), skip], dim=1)))
        return frames


class NormedConv(Recomputable, nn.Sequential):
    """A convolution, plain or transposed, GroupNorm(2) and LeakyReLU(0.2)."""

    def __init__(self, conv: nn.Conv2d | nn.ConvTranspose2d) -> None:
        super().__init__(conv, nn.GroupNorm(2, conv.out_channels), nn.LeakyReLU(0.2))

    def compute(self, images: Tensor) -> Tensor:
        return nn.Sequential.forward(self, images)


def drop_path(residual: Tensor, rate: float, training: bool) -> Tensor:
    """Leaves the residual out for a share `rate` of the samples while training, and keeps its mean.

    Source: Huang et al. 2016, "Deep Networks with Stochastic Depth".
    """
    if not training or rate == 0:
        return residual
    kept = torch.rand(len(residual), *(1,) * (residual.ndim - 1), device=residual.device) >= rate
    return residual * kept / (1 - rate)


class DilatedDepthwiseConv2d(GridConv2d):
    """A depthwise "same" convolution whose backward pass does not dominate a training step on a CPU.

    There the library's own weight gradient of a dilated depthwise convolution takes most of a gSTA block's
    time; written as matrix products, a pass forward and back takes about half as long (`benchmarks/depthwise.py`).
    """

    def __init__(self, width: int, kernel: int, *, periodic: bool, dilation: int) -> None:
        super().__init__(width, width, kernel, periodic=periodic, groups=width, dilation=dilation)

    def forward(self, input: Tensor) -> Tensor:
        if input.device.type != "cpu":
            return super().forward(input)
        if self.periodic:
            padded = F.pad(wrap_columns(input, self.reach, self.reach), (0, 0, self.reach, self.reach))
        else:
            padded = F.pad(input, (self.reach,) * 4)
        output: Tensor = _DilatedDepthwise.apply(padded, self.weight, self.bias, self.dilation[0])
        return output


class _DilatedDepthwise(torch.autograd.Function):
    """Valid depthwise convolution of padded images with the gradients as a convolution and matrix products.

    Under autocast it stays in float32: its own gradient would meet operands of two precisions.
    """

    @staticmethod
    @torch.amp.custom_fwd(device_type="cpu", cast_inputs=torch.float32)
    def forward(context: Any, padded: Tensor, weight: Tensor, bias: Tensor, dilation: int) -> Tensor:
        context.save_for_backward(padded, weight)
        context.dilation = dilation
        return F.conv2d(padded, weight, bias, groups=len(weight), dilation=dilation)

    @staticmethod
    @torch.amp.custom_bwd(device_type="cpu")
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        (gradient,) = gradients
        padded, weight = context.saved_tensors
        reach = context.dilation * (weight.shape[-1] - 1)
        to_images = F.conv2d(
            F.pad(gradient, (reach,) * 4), weight.flip(2, 3), groups=len(weight), dilation=context.dilation
        )
        to_weight = _weight_gradient(padded, gradient, weight.shape[-1], context.dilation)
        return to_images, to_weight, gradient.sum((0, 2, 3)), None


def _weight_gradient(padded: Tensor, gradient: Tensor, kernel: int, dilation: int) -> Tensor:
    """(C, 1, k, k): how gradient and image correlate at each of the kernel's offsets.

    For each kernel row one matrix product over samples and rows correlates every output column with every
    image column; a kernel column's weight is the sum of one diagonal of it.
    """
    _, width, rows, columns = gradient.shape
    images = padded.transpose(0, 1)
    right = gradient.transpose(0, 1).reshape(width, -1, columns).transpose(1, 2)
    lines = []
    for row in range(kernel):
        left = images[:, :, row * dilation : row * dilation + rows].reshape(width, -1, padded.shape[-1])
        products = torch.bmm(right, left)
        lines.append(torch.stack([products.diagonal(i * dilation, 1, 2).sum(-1) for i in range(kernel)], dim=-1))
    return torch.stack(lines, dim=1)[:, None]


class Normaliser(nn.Module):
    """z-scores per variable by the training split's statistics, and back; so that callers hold physical units."""

    mean: Tensor
    std: Tensor

    def __init__(self, variables: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(variables, 1, 1))
        self.register_buffer("std", torch.ones(variables, 1, 1))

    def set(self, mean: Any, std: Any) -> None:
        """Takes the training mean and standard deviation, each (C,), in physical units."""
        self.mean.copy_(torch.as_tensor(mean, dtype=torch.float32)[:, None, None])
        self.std.copy_(torch.as_tensor(std, dtype=torch.float32)[:, None, None])

    def forward(self, fields: Tensor) -> Tensor:
        return (fields - self.mean) / self.std

    def inverse(self, scores: Tensor) -> Tensor:
        return scores * self.std + self.mean


def wrap_columns(images: Tensor, left: int, right: int) -> Tensor:
    """Extends (N, C, H, W) by columns from the other side, going around as often as a narrow grid needs."""
    width = images.shape[-1]
    if max(left, right) <= width:  # all that the library's circular padding can do
        return F.pad(images, (left, right, 0, 0), mode="circular")
    turns = -(-left // width)
    tiled = images.repeat(1, 1, 1, turns + 1 + -(-right // width))
    return tiled.narrow(-1, turns * width - left, left + width + right)


def pad_to_multiple(images: Tensor, multiple: int, periodic: bool) -> Tensor:
    """Extends (N, C, H, W) at the bottom and right so that H and W divide by `multiple`.

    Rows repeat the last one; columns wrap around on a periodic grid, else repeat the last one.
    """
    height, width = images.shape[-2:]
    below, right = -height % multiple, -width % multiple
    if below:
        images = F.pad(images, (0, 0, 0, below), mode="replicate")
    if right:
        images = wrap_columns(images, 0, right) if periodic else F.pad(images, (0, right, 0, 0), mode="replicate")
    return images


def padded_size(size: tuple[int, int], multiple: int) -> tuple[int, int]:
    """The size of a grid after `pad_to_multiple`."""
    return size[0] + -size[0] % multiple, size[1] + -size[1] % multiple
