"""Bundles for inference servers: a bundle becomes the model repository that a server loads."""

from qdbev_deploy.package.triton import TritonOptions, write_triton

__all__ = ["TritonOptions", "write_triton"]
