from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from pipeline.models import Problem, parameter_count
from pipeline.teachers import earthfarseer
from pipeline.teachers.base import build
from pipeline.teachers.earthfarseer import EarthFarseer, FourierBlock, Inception, InceptionUNet, SpectralFilter
from tests.teachers.tiny import inputs_of, lively, teacher, words


def test_at_the_papers_size_it_has_the_papers_parameters() -> None:
    paper = earthfarseer.PAPER_PROBLEM, earthfarseer.PAPER_SIZES
    with torch.device("meta"):
        model = build("earthfarseer", *paper, text_width=384, layers=2, heads=8)
    assert parameter_count(model) == pytest.approx(125.8e6, rel=0.01)


def test_without_alignment_it_is_as_large_as_what_the_public_code_trains() -> None:
    sizes = EarthFarseer.Sizes.model_validate(earthfarseer.PAPER_SIZES | {"temporal_depth": 12})
    with torch.device("meta"):
        model = EarthFarseer(earthfarseer.PAPER_PROBLEM, sizes)
    assert parameter_count(model) == pytest.approx(122.8e6, abs=0.05e6)


def test_a_finer_grid_costs_positions_only() -> None:
    def count(side: int) -> int:
        problem = Problem.model_validate(earthfarseer.PAPER_PROBLEM.model_dump() | {"height": side, "width": side})
        with torch.device("meta"):
            return parameter_count(EarthFarseer(problem, EarthFarseer.Sizes.model_validate(earthfarseer.PAPER_SIZES)))

    assert count(128) - count(32) == (8 * 8 - 2 * 2) * 768


@pytest.mark.parametrize("grid", [(4, 7), (5, 4), (1, 6), (3, 3)])
def test_the_spectral_filter_is_an_mlp_on_the_full_transforms_coefficients(grid: tuple[int, int]) -> None:
    torch.manual_seed(0)
    layer, images = SpectralFilter(6), torch.randn(2, *grid, 6)
    with torch.no_grad():
        filtered = layer(images) - layer.local(images)
        spectrum = torch.fft.fft2(images.double(), dim=(1, 2), norm="ortho")
        parts = []
        for block in range(2):
            hidden = spectrum[..., 3 * block : 3 * block + 3]
            for weight, bias, rectified in (
                (layer.weight_1, layer.bias_1, True),
                (layer.weight_2, layer.bias_2, False),
            ):
                hidden = hidden @ torch.view_as_complex(weight[:, block].movedim(0, -1).contiguous()).to(hidden.dtype)
                hidden = hidden + bias[0, block] + 1j * bias[1, block]
                hidden = torch.complex(F.relu(hidden.real), F.relu(hidden.imag)) if rectified else hidden
            parts.append(hidden)
        half = torch.cat(parts, dim=-1)[:, :, : grid[1] // 2 + 1]
        expected = torch.fft.irfft2(half, s=grid, dim=(1, 2), norm="ortho")
    assert filtered.abs().max() > 1e-3
    torch.testing.assert_close(filtered.double(), expected, rtol=1e-4, atol=1e-5)


def test_an_afno_blocks_mlp_ends_in_a_mean_over_neighbours_as_adaptive_pooling_takes_it() -> None:
    torch.manual_seed(0)
    block, images = FourierBlock(4), torch.randn(2, 3, 5, 4)
    filtered = images + block.filter(images)
    hidden = F.gelu(block.expand(block.norm(filtered)))
    pooled = F.adaptive_avg_pool1d(hidden.flatten(1, 2), 4).unflatten(1, (3, 5))
    torch.testing.assert_close(block(images), filtered + pooled)


def test_an_inception_block_sums_its_kernels() -> None:
    torch.manual_seed(0)
    block, images = Inception(3, 8, 16, periodic=False), torch.randn(2, 3, 5, 6)
    hidden = block.project(images)
    expected = torch.zeros(2, 16, 5, 6)
    for branch, kernel in zip(block.branches, (3, 5, 7, 11), strict=True):
        weight, bias, scale, shift = branch.parameters()
        convolved = F.conv2d(hidden, weight, bias, padding=kernel // 2, groups=8)
        expected += F.leaky_relu(F.group_norm(convolved, 8, scale, shift), 0.2)
    torch.testing.assert_close(block(images), expected)


def test_inception_blocks_climb_with_the_skips_from_deep_to_shallow() -> None:
    torch.manual_seed(0)
    net, images = InceptionUNet(4, 8, 3, periodic=True), torch.randn(1, 4, 4, 6)
    first = net.encoder[0](images)
    second = net.encoder[1](first)
    deep, levels = net.down(images)
    assert torch.equal(deep, net.encoder[2](second))
    expected = net.decoder[1](torch.cat([net.decoder[0](deep), second], dim=1))
    expected = net.decoder[2](torch.cat([expected, first], dim=1))
    assert torch.equal(net.up(deep, levels), expected)


def test_its_convolutions_turn_with_the_globe() -> None:
    model = lively(teacher("earthfarseer"))
    assert isinstance(model, EarthFarseer)
    frames = inputs_of(model).flatten(0, 1)
    torch.testing.assert_close(
        model.shortcut(frames.roll(4, -1)), model.shortcut(frames).roll(4, -1), rtol=1e-3, atol=1e-4
    )


def test_the_fourier_transformer_runs_again_in_every_turn_with_the_same_weights() -> None:
    model = teacher("earthfarseer", {"interactions": 3})
    assert isinstance(model, EarthFarseer)
    calls: list[int] = []
    model.exchange.distant.register_forward_hook(lambda *_: calls.append(1))
    model(inputs_of(model), words())
    assert len(calls) == 7


def test_the_filter_computes_in_single_precision_whatever_is_around_it() -> None:
    torch.manual_seed(0)
    layer, images = SpectralFilter(8), torch.randn(1, 4, 6, 8).bfloat16()
    torch.nn.init.zeros_(layer.local.weight)
    torch.nn.init.zeros_(layer.local.bias)
    expected = layer(images.float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(layer(images), expected)


def test_a_forecast_is_tedevs_residual_decoded_with_the_skip_plus_that_of_the_simvp() -> None:
    model = lively(teacher("earthfarseer", width=14))
    assert isinstance(model, EarthFarseer)
    scores = inputs_of(model)
    fused, skip = model.encode(scores)
    fused = torch.randn_like(fused)
    latent = model.inception.up(fused, skip.levels) + skip.latent
    decoded = model.decoder(latent.unflatten(1, (2, -1)).flatten(0, 1), skip.frames) + skip.forecast
    assert decoded.shape[-2:] == (8, 16)
    assert torch.equal(model.decode(fused, skip), decoded[..., :14].unflatten(0, (2, 2)))
