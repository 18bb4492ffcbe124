"""From a quantisation-aware-trained BEV detector to a proven engine in a vehicle."""

import os

# ONNX Runtime's Linux wheels gather usage data and send it unless this stands there when they are imported; its own
# call that turns it off comes too late. Whoever wants it sets the variable to 0.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__version__ = "0.1.0"
