"""Pages that explain a benchmark or an engine: one self-contained file each, drawn by our own small functions."""

from qdbev_deploy.report.graph import write_graph
from qdbev_deploy.report.page import write_report

__all__ = ["write_graph", "write_report"]
