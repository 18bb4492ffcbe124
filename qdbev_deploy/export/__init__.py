"""From a model in torch to one ONNX file that carries its integers, with a report that proves it."""

from qdbev_deploy.export.exporter import ExportReport, export_onnx
from qdbev_deploy.export.options import ExportOptions

__all__ = ["ExportOptions", "ExportReport", "export_onnx"]
