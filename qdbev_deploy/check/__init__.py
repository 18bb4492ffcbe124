"""Static checks of an ONNX file for a target: rules, coverage, size and a roofline. Needs neither torch nor a GPU."""

from qdbev_deploy.check.report import CheckReport, check_model, check_onnx

__all__ = ["CheckReport", "check_model", "check_onnx"]
