from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.layers import (
    DilatedDepthwiseConv2d,
    GridConv2d,
    GridDoubling2d,
    Normaliser,
    StridedDecoder,
    StridedEncoder,
    drop_path,
    pad_to_multiple,
    padded_size,
    wrap_columns,
)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def reference(layer: GridConv2d, images: Tensor) -> Tensor:
    """The same convolution by the library on images that were extended by hand, column by column."""
    reach, width = layer.reach, images.shape[-1]
    if layer.periodic:
        images = torch.stack([images[..., column % width] for column in range(-reach, width + reach)], dim=-1)
    else:
        images = F.pad(images, (reach, reach))
    images = F.pad(images, (0, 0, reach, reach))
    return F.conv2d(images, layer.weight, layer.bias, layer.stride, 0, layer.dilation, layer.groups)


@pytest.mark.parametrize("periodic", [True, False])
@pytest.mark.parametrize(
    ("kernel", "dilation", "stride", "shape"), [(3, 1, 1, (5, 7)), (3, 1, 2, (6, 8)), (5, 2, 1, (4, 3))]
)
def test_a_grid_convolution_wraps_columns_and_pads_rows_with_zeros(
    kernel: int, dilation: int, stride: int, shape: tuple[int, int], periodic: bool
) -> None:
    layer = GridConv2d(2, 3, kernel, periodic=periodic, dilation=dilation, stride=stride).double()
    images = noise(2, 2, *shape)
    torch.testing.assert_close(layer(images), reference(layer, images))


@pytest.mark.parametrize("periodic", [True, False])
@pytest.mark.parametrize("shape", [(9, 20), (6, 11), (3, 5), (1, 1)])
def test_the_depthwise_convolution_equals_the_librarys_forward_and_backward(
    shape: tuple[int, int], periodic: bool
) -> None:
    layer = DilatedDepthwiseConv2d(3, 7, periodic=periodic, dilation=3).double()
    images = noise(2, 3, *shape).requires_grad_()
    expected = reference(layer, images)
    output = layer(images)
    torch.testing.assert_close(output, expected)
    towards = noise(*output.shape, seed=1)
    leaves = (images, *layer.parameters())
    for mine, theirs in zip(
        torch.autograd.grad(output, leaves, towards), torch.autograd.grad(expected, leaves, towards), strict=True
    ):
        torch.testing.assert_close(mine, theirs)


def test_the_depthwise_convolution_passes_gradcheck() -> None:
    layer = DilatedDepthwiseConv2d(2, 3, periodic=True, dilation=2).double()
    images = noise(1, 2, 4, 6).requires_grad_()

    def forward(images: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return torch.func.functional_call(layer, {"weight": weight, "bias": bias}, (images,))

    assert torch.autograd.gradcheck(forward, (images, *layer.parameters()))


def test_the_depthwise_convolution_is_the_librarys_own_on_a_plane() -> None:
    layer = DilatedDepthwiseConv2d(4, 7, periodic=False, dilation=3)
    library = nn.Conv2d(4, 4, 7, padding=9, dilation=3, groups=4)
    library.load_state_dict(layer.state_dict())
    images = noise(2, 4, 10, 12).float()
    torch.testing.assert_close(layer(images), library(images))


def test_the_depthwise_convolution_trains_under_autocast() -> None:
    layer = DilatedDepthwiseConv2d(4, 7, periodic=True, dilation=3)
    images = noise(2, 4, 8, 16).float()
    (expected,) = torch.autograd.grad(layer(images).square().sum(), [layer.weight])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = layer(images.bfloat16()).float().square().sum()
    (gradient,) = torch.autograd.grad(loss, [layer.weight])
    torch.testing.assert_close(gradient, expected, rtol=0.05, atol=0.05 * float(expected.abs().max()))


@pytest.mark.parametrize("shape", [(4, 6), (3, 1), (1, 5)])
def test_doubling_is_the_librarys_on_a_plane_and_wraps_on_a_globe(shape: tuple[int, int]) -> None:
    plane, globe = (GridDoubling2d(2, 3, periodic=periodic).double() for periodic in (False, True))
    globe.load_state_dict(plane.state_dict())
    images, (height, width) = noise(2, 2, *shape), shape
    library = F.conv_transpose2d(images, plane.weight, plane.bias, stride=2, padding=1, output_padding=1)
    assert torch.equal(plane(images), library)
    around = F.conv_transpose2d(
        images.repeat(1, 1, 1, 3), plane.weight, plane.bias, stride=2, padding=1, output_padding=1
    )
    torch.testing.assert_close(globe(images), around[..., 2 * width : 4 * width])
    assert globe(images).shape == (2, 3, 2 * height, 2 * width)


@pytest.mark.parametrize("periodic", [True, False])
@pytest.mark.parametrize("blocks", [2, 4, 6])
def test_the_strided_encoder_halves_and_the_decoder_doubles_as_often(blocks: int, periodic: bool) -> None:
    encoder = StridedEncoder(3, 4, blocks, periodic=periodic).double()
    decoder = StridedDecoder(5, 4, blocks, periodic=periodic).double()
    frames, stride = noise(2, 3, 8, 16), 2 ** (blocks // 2)
    latent, skip = encoder(frames)
    assert latent.shape == (2, 4, 8 // stride, 16 // stride)
    assert skip.shape == (2, 4, 8, 16)
    assert decoder(latent, skip).shape == (2, 5, 8, 16)
    turned = decoder(*encoder(frames.roll(stride, -1)))
    assert torch.allclose(turned, decoder(latent, skip).roll(stride, -1)) is periodic


def test_the_strided_decoder_reads_latent_and_skip_pixel_by_pixel() -> None:
    decoder = StridedDecoder(2, 4, 2, periodic=False).double()
    latent, skip = noise(1, 4, 4, 8), noise(1, 4, 8, 16, seed=1)
    plain = decoder(latent, skip)
    for changed in (decoder(latent + noise(1, 4, 4, 8, seed=2), skip), decoder(latent, skip + skip.square())):
        assert (changed - plain).abs().min() > 1e-9


def test_drop_path_works_while_training_only_and_keeps_the_mean() -> None:
    residual = torch.ones(4000, 1, 1, 1)
    dropped = drop_path(residual, 0.5, training=True)
    assert set(dropped.flatten().tolist()) == {0.0, 2.0}
    assert float(dropped.mean()) == pytest.approx(1, abs=0.1)
    assert drop_path(residual, 0.5, training=False) is residual
    assert drop_path(residual, 0.0, training=True) is residual


def test_drop_path_drops_whole_samples() -> None:
    dropped = drop_path(torch.ones(64, 3, 5), 0.5, training=True)
    assert (dropped.amax((1, 2)) == dropped.amin((1, 2))).all()


@pytest.mark.parametrize(("left", "right"), [(0, 0), (2, 1), (5, 5), (7, 0), (0, 13), (16, 17)])
def test_columns_wrap_around_as_often_as_needed(left: int, right: int) -> None:
    images = noise(1, 2, 3, 5)
    expected = images[..., [column % 5 for column in range(-left, 5 + right)]]
    assert torch.equal(wrap_columns(images, left, right), expected)


def test_padding_repeats_the_last_row_and_wraps_or_repeats_columns() -> None:
    images = noise(2, 3, 5, 7)
    for periodic, columns in ((True, [*range(7), 0]), (False, [*range(7), 6])):
        padded = pad_to_multiple(images, 4, periodic)
        assert torch.equal(padded, images[..., [*range(5), 4, 4, 4], :][..., columns])
        assert padded.shape[-2:] == padded_size((5, 7), 4) == (8, 8)


def test_a_grid_that_divides_is_left_alone() -> None:
    images = noise(1, 1, 4, 8)
    assert pad_to_multiple(images, 4, True) is images
    assert padded_size((4, 8), 4) == (4, 8)


def test_the_normaliser_gives_z_scores_by_variable_and_takes_them_back() -> None:
    normaliser = Normaliser(2)
    normaliser.set([10.0, -3.0], [2.0, 0.5])
    fields = torch.stack([torch.full((4, 5), 14.0), torch.full((4, 5), -2.0)])[None, None]
    scores = normaliser(fields)
    assert torch.equal(scores[0, 0, :, 0, 0], torch.tensor([2.0, 2.0]))
    assert torch.equal(normaliser.inverse(scores), fields)
    assert set(normaliser.state_dict()) == {"mean", "std"}  # saved with the model
