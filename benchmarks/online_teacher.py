"""How many times faster a distillation step is with cached features than with the teacher run online, at paper sizes.

    python -m benchmarks.online_teacher --batch 2 --repeats 3

The teacher is SimVP of 75 M parameters, the student the U-Net of 5.1 M, 12 -> 12 frames of two variables on 32 x 64.
Steps alternate on the same windows; medians of wall and CPU time and their ratio are printed.
"""

from __future__ import annotations

import argparse
import contextlib
import tempfile
from pathlib import Path

from benchmarks.distill_step import CACHED, ONLINE, Setup, measure, print_steps, settings_with, sized


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--overlay", type=Path, default=Path("experiments/paper_scale.yaml"))
    parser.add_argument("--frames", type=int, default=12)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    settings = sized(settings_with(options.overlay), options.frames, options.batch)
    with tempfile.TemporaryDirectory() as temporary, contextlib.chdir(temporary):
        setup = Setup(settings, rows=32, columns=64)
        medians = measure(setup, options.repeats, (CACHED, ONLINE))
        print_steps(setup, medians)
    cached, online = medians[CACHED], medians[ONLINE]
    print(f"ratio online / cached: {online.wall / cached.wall:.1f}, of CPU time {online.cpu / cached.cpu:.1f}")


if __name__ == "__main__":
    main()
