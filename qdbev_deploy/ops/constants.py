"""Numbers that the torch ops and their ONNX functions must agree on."""

from __future__ import annotations

EPSILON = 1e-5  # metres: what lies nearer to the camera's plane is not seen
# Points beside and behind a camera reach millions after the division; no attention offset brings them back into view.
# They are clamped so that nothing overflows where a later stage narrows the type.
CLAMP_LOW, CLAMP_HIGH = -2.0, 3.0
# In grid coordinates (-1..1 is the map) everything beyond this is outside, whatever the map's size; so is a NaN.
OUTSIDE = 3.0
