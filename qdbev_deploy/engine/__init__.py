"""Backends behind one interface; build, precision guard, parity, bundles."""

from qdbev_deploy.engine.build import build
from qdbev_deploy.engine.bundle import Bundle, BundleSession

__all__ = ["Bundle", "BundleSession", "build"]
