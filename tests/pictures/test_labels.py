"""What is written on pictures."""

from __future__ import annotations

import numpy as np

from pipeline import pictures

MINUS = "\N{MINUS SIGN}"


def test_frames_are_labelled_with_their_time_or_its_distance_to_the_last() -> None:
    times = np.array(["2001-01-01T06:00:00", "2001-01-01T18:00:00", "2001-01-02T06:00:00"], "datetime64[s]")
    assert pictures.frame_labels(times, True) == ["2001-01-01 06:00", "2001-01-01 18:00", "2001-01-02 06:00"]
    assert pictures.frame_labels(times, False) == [f"t{MINUS}24 h", f"t{MINUS}12 h", "t"]
    assert pictures.frame_labels(times[::2], False) == [f"t{MINUS}1 d", "t"]
    assert pictures.frame_labels(times[0] + np.arange(2) * np.timedelta64(90, "s"), False) == [f"t{MINUS}90 s", "t"]
    assert pictures.frame_labels(times[0] + np.arange(2), True)[1] == "2001-01-01 06:00:01"
    assert pictures.frame_labels(times.astype("datetime64[ms]"), True) == pictures.frame_labels(times, True)
    assert pictures.frame_labels(times.astype("datetime64[ms]"), False) == pictures.frame_labels(times, False)
    tenths = times[0].astype("datetime64[ms]") + np.arange(3) * np.timedelta64(100, "ms")
    assert pictures.frame_labels(tenths, False) == [f"t{MINUS}0.2 s", f"t{MINUS}0.1 s", "t"]
    assert pictures.frame_labels(tenths, True)[1] == "2001-01-01 06:00:00.100"
