"""A float ONNX file quantised without training and without torch: where Q/DQ stand, observing, inserting."""

from qdbev_deploy.ptq.float_file import FloatFile

__all__ = ["FloatFile"]
