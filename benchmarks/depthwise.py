"""The dilated depthwise convolution of a gSTA block against `nn.Conv2d` of the same shape, forward and backward.

    python -m benchmarks.depthwise --width 96 --rows 16 --columns 32

`pipeline.layers.DilatedDepthwiseConv2d` writes the weight's gradient as matrix products; the library's own takes
most of a block's time on a CPU. Both give the same values (checked). Runs alternate; medians and their ratio are
printed.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from torch import Tensor, nn

from pipeline.layers import DilatedDepthwiseConv2d


def seconds_of(layer: nn.Module, images: Tensor) -> float:
    """One forward and backward pass."""
    layer.zero_grad()
    images.grad = None
    start = time.perf_counter()
    layer(images).square().sum().backward()
    return time.perf_counter() - start


def check_same(ours: nn.Module, library: nn.Module, images: Tensor) -> None:
    gradients = []
    for layer in (ours, library):
        seconds_of(layer, images)
        gradients.append([images.grad, *(parameter.grad for parameter in layer.parameters())])
    for mine, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-3 * float(theirs.abs().max()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--width", type=int, default=96)
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--columns", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=15)
    options = parser.parse_args()
    torch.manual_seed(0)
    ours = DilatedDepthwiseConv2d(options.width, 7, periodic=False, dilation=3)
    library = nn.Conv2d(options.width, options.width, 7, padding=9, dilation=3, groups=options.width)
    library.load_state_dict(ours.state_dict())
    images = torch.randn(options.batch, options.width, options.rows, options.columns, requires_grad=True)
    check_same(ours, library, images)
    seconds: dict[str, list[float]] = {"ours": [], "nn.Conv2d": []}
    for _ in range(options.repeats):
        for name, layer in (("ours", ours), ("nn.Conv2d", library)):
            seconds[name].append(seconds_of(layer, images))
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    for name, median in medians.items():
        print(f"{name:10} {1e3 * median:8.1f} ms  (median of {options.repeats}, {torch.get_num_threads()} threads)")
    print(f"ratio ours / nn.Conv2d: {medians['ours'] / medians['nn.Conv2d']:.2f}")


if __name__ == "__main__":
    main()
