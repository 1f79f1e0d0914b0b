"""A window's input frames -> PNG pictures made for a model's eyes, drawn by worker processes ahead of the model.

Maps are north up (on a plane, y up), with ticks along the axes, the time of each frame, the variable's name and
units, and a colour bar. One colour scale a variable, fixed by the training statistics, holds for every window, so
that a colour always means the same value. Pillow draws them, since a figure of matplotlib takes ten times as long.

A sheet wider than MOST_WIDTH is laid out in several blocks below each other, each with as many frames as the next
but for the last. Planes more than four times as wide as high, such as tunnels, are drawn twice as wide.

A picture is an array of bytes: LEVELS colours of the fields, then GREYS from black to white for what is
written. What pictures of one record have in common is drawn once (`Board`); a window only adds its maps
and time labels. Equal windows give equal bytes.
"""

from pipeline.pictures.ahead import AHEAD, Drawn, drawn_ahead
from pipeline.pictures.board import ByIdentity
from pipeline.pictures.colours import scales
from pipeline.pictures.labels import degrees_east, degrees_north, frame_labels, number, shown_units
from pipeline.pictures.layout import frames_side_by_side
from pipeline.pictures.window import LATER_VERSION, VERSION, UndrawableError, draw, drawing

__all__ = [
    "AHEAD",
    "LATER_VERSION",
    "VERSION",
    "ByIdentity",
    "Drawn",
    "UndrawableError",
    "degrees_east",
    "degrees_north",
    "draw",
    "drawing",
    "drawn_ahead",
    "frame_labels",
    "frames_side_by_side",
    "number",
    "scales",
    "shown_units",
]
