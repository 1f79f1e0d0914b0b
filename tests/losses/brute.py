"""Discrete Fourier transforms written out as sums in float64, over the whole spectrum, and tokens to try them on."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[np.float64]
GRIDS = [(4, 8), (5, 7), (6, 9), (3, 2), (1, 5), (4, 1), (1, 1), (16, 32)]


def pair(grid: tuple[int, int], width: int = 3, samples: int = 2, seed: int = 0) -> tuple[Tensor, Tensor]:
    """(B, L, D) twice."""
    generator = torch.Generator().manual_seed(seed)
    shape = (samples, grid[0] * grid[1], width)
    return torch.randn(shape, generator=generator), torch.randn(shape, generator=generator) * 2 + 0.5


def transform(size: int) -> NDArray[np.complex128]:
    """The orthonormal DFT as a matrix."""
    order = np.arange(size)
    return np.exp(-2j * np.pi * order[:, None] * order / size) / np.sqrt(size)


def spectrum(tokens: Array, grid: tuple[int, int], axes: str = "grid") -> NDArray[np.complex128]:
    """(B, L, D) -> the whole spectrum over the named axes, in any shape."""
    _, length, width = tokens.shape
    if axes == "tokens":
        return np.asarray(np.einsum("kl,bld->bkd", transform(length), tokens))
    if axes == "channels":
        return np.asarray(np.einsum("kd,bld->blk", transform(width), tokens))
    images = tokens.reshape(len(tokens), *grid, width)
    return np.asarray(np.einsum("ui,vj,bijd->buvd", transform(grid[0]), transform(grid[1]), images))


def spectral(projected: Array, target: Array, grid: tuple[int, int], axes: str = "grid") -> float:
    """Mean over samples, every frequency of the full spectrum and channels of | |F(P)| - |F(Z)| |."""
    magnitudes = [np.abs(spectrum(tokens, grid, axes)) for tokens in (projected, target)]
    return float(np.abs(magnitudes[0] - magnitudes[1]).mean())


def radius(grid: tuple[int, int]) -> Array:
    """(h, w): distance of a frequency from zero; 1 is the highest along an axis."""
    signed = [np.array([min(k, size - k) for k in range(size)]) / (size / 2) for size in grid]
    return np.asarray(np.sqrt(signed[0][:, None] ** 2 + signed[1][None, :] ** 2))


def filtered(tokens: Array, grid: tuple[int, int], cutoff: float, low: bool) -> NDArray[np.complex128]:
    """The tokens with one band alone, transformed there and back."""
    inside = (radius(grid) <= cutoff) if low else (radius(grid) > cutoff)
    kept = spectrum(tokens, grid) * inside[None, :, :, None]
    back = [transform(size).conj() for size in grid]
    return np.asarray(np.einsum("iu,jv,buvd->bijd", back[0], back[1], kept))
