"""BEVFormer in plain PyTorch: variants, the model, checkpoints."""

from qdbev_deploy.contract import VARIANTS, BackboneSpec, PreprocessSpec, VariantSpec
from qdbev_deploy.model.bevformer import BEVFormer, build_model
from qdbev_deploy.model.checkpoint import load_checkpoint, save_checkpoint

__all__ = [
    "VARIANTS",
    "BEVFormer",
    "BackboneSpec",
    "PreprocessSpec",
    "VariantSpec",
    "build_model",
    "load_checkpoint",
    "save_checkpoint",
]
