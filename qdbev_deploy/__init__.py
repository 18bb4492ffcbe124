"""From a quantisation-aware-trained BEV detector to a proven engine in a vehicle."""

__version__ = "0.1.0"
