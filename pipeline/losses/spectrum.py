"""Spectra of tokens on their grid, which several methods compare.

Transforms are orthonormal, so that a mean over frequencies does not grow with the grid, and in float32 whatever the
precision around them. The half of a real signal's spectrum that is computed is weighted to stand for the whole.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def spectral_alignment(projected: Tensor, target: Tensor, grid: tuple[int, int], axes: str = "grid") -> Tensor:
    """Eq. 11: mean absolute difference of the magnitudes of two spectra. (B, L, D), (B, L, D) -> scalar.

    The paper writes F and not over what. `axes` says it:
    "grid", two-dimensional over the token grid, channel by channel: frequencies are those of the fields;
    "tokens", one-dimensional over the tokens in a row, the literal reading of Z in R^(L x D): the end of a row of
    the grid is taken for the neighbour of the next one's beginning;
    "channels", one-dimensional over D, token by token, what a library's transform of (B, L, D) does unasked: a
    spectrum of an order that the teacher drew by chance.
    There is no time axis to choose: teachers stack frames in channels and mix them before Z_fused.
    """
    if axes == "tokens":
        grid = (1, grid[0] * grid[1])
    if axes == "channels":
        projected, target, grid = projected.mT, target.mT, (1, projected.shape[2])
    with torch.autocast(device_type=projected.device.type, enabled=False):
        alignment: Tensor = _Alignment.apply(projected, target, grid)
        return alignment


class _Alignment(torch.autograd.Function):
    """Eq. 11 with its gradient written out, which costs half of what differentiating step by step does.

    The gradient is the inverse transform of each difference's sign in the projection's phase. A magnitude of zero
    has no phase, and no gradient.
    """

    @staticmethod
    def forward(context: Any, projected: Tensor, target: Tensor, grid: tuple[int, int]) -> Tensor:
        spectrum = _spectrum(projected, grid)
        magnitude = _power(spectrum).sqrt_()
        difference = magnitude - _power(_spectrum(target, grid)).sqrt_()
        value = _mean_over_all(difference.abs(), grid)
        if context.needs_input_grad[0]:
            smallest = torch.finfo(magnitude.dtype).tiny
            spectrum *= difference.sign_().div_(magnitude.clamp_(min=smallest)).div_(projected.numel())
            context.save_for_backward(spectrum)
            context.grid = grid
        return value

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor | None, None, None]:
        if not context.needs_input_grad[0]:
            return None, None, None
        (spectrum,) = context.saved_tensors
        waves = torch.fft.irfft2(spectrum.movedim(-1, 1), s=context.grid, norm="ortho")
        return waves.mul_(gradients[0]).flatten(2).mT, None, None


def band_errors(projected: Tensor, target: Tensor, grid: tuple[int, int], cutoff: float) -> tuple[Tensor, Tensor]:
    """Mean squared differences of the high and of the low band of two sets of tokens, (B, L, D), on their grid.

    The bands are complementary masks of the two-dimensional spectrum: low within a radius of `cutoff` times the
    highest frequency along an axis, high beyond. By Parseval their means over the spectrum are those of the
    filtered tokens, and add up to the mean squared error.
    """
    with torch.autocast(device_type=projected.device.type, enabled=False):
        power = _power(_spectrum(projected - target, grid))
        low = (_radius(grid, power) <= cutoff)[None, :, :, None]
        return _mean_over_all(power * ~low, grid), _mean_over_all(power * low, grid)


def _spectrum(tokens: Tensor, grid: tuple[int, int]) -> Tensor:
    """(B, L, D) -> (B, h, w // 2 + 1, D), complex."""
    return torch.fft.rfft2(tokens.unflatten(1, grid), dim=(1, 2), norm="ortho")


def _power(spectrum: Tensor) -> Tensor:
    """Squared magnitudes, in a third of the time of `abs`, which keeps those below 1e-22 from vanishing in float32."""
    return spectrum.real.square() + spectrum.imag.square()


def _mean_over_all(values: Tensor, grid: tuple[int, int]) -> Tensor:
    """The mean of (B, h, w // 2 + 1, D) as if the other half of the spectrum stood there too."""
    return (values * _column_weights(grid[1], values)[None, None, :, None]).mean(dim=(0, 1, 3)).sum() / grid[1]


def _column_weights(width: int, like: Tensor) -> Tensor:
    """How often each column of the half spectrum stands in the full one, so that the mean is the full mean."""
    weights = torch.full((width // 2 + 1,), 2.0, dtype=like.dtype, device=like.device)
    weights[0] = 1.0
    if width % 2 == 0:
        weights[-1] = 1.0
    return weights


def _radius(grid: tuple[int, int], like: Tensor) -> Tensor:
    """(h, w // 2 + 1): each frequency's distance from zero; 1 is the highest along an axis, a wave of two tokens."""
    rows, columns = torch.fft.fftfreq(grid[0], 0.5), torch.fft.rfftfreq(grid[1], 0.5)
    return torch.hypot(rows[:, None], columns[None, :]).to(like.device)
