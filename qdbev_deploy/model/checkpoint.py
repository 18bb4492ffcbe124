"""Checkpoints, official ones and ours: read without executing anything, checked key by key, written whole."""

from __future__ import annotations

import hashlib
import os
import pickle
import re
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from qdbev_deploy import __version__
from qdbev_deploy.contract import VARIANTS, VariantSpec, variant
from qdbev_deploy.errors import QdbevError
from qdbev_deploy.files import atomic_output
from qdbev_deploy.model.bevformer import BEVFormer, build_model

FORMAT = "qdbev-deploy checkpoint"
FORMAT_VERSION = 1
# base with its optimiser's state is under 1 GB; what claims to be larger than this is not a BEVFormer.
MAX_UNPACKED_BYTES = 4 << 30
_RETRAIN = "check where the file came from, or download it again"


@dataclass(frozen=True)
class Checkpoint:
    """The contents of a checkpoint file."""

    state_dict: dict[str, Tensor]
    spec: VariantSpec | None  # where the file says so; official files do not
    meta: dict[str, Any]
    recipe: dict[str, Any] | None = None  # of a quantised student


def _limit(file_bytes: int) -> int:
    """Bytes that a file of this size may unpack to. torch stores records as they are; others compress a little."""
    return min(MAX_UNPACKED_BYTES, 16 * file_bytes + (1 << 20))


def _guard_size(path: Path) -> None:
    """Refuse what would unpack to far more than the file holds, or what was damaged on its way here."""
    size = path.stat().st_size
    if size > MAX_UNPACKED_BYTES:
        raise QdbevError(f"{path} has {size:,} bytes", f"at most {MAX_UNPACKED_BYTES:,} in a checkpoint", _RETRAIN)
    if not zipfile.is_zipfile(path):
        return  # the format torch had before 1.6: its tensors lie in the file as they are
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
            # torch does not compare the records' checksums; one flipped bit would become a weight of 1e29.
            sound = unpacked > _limit(size) or archive.testzip() is None
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError, OSError) as error:
        raise _damaged(path, error) from error
    if not sound:
        raise _damaged(path, ValueError("a record's checksum does not match its bytes"))
    if unpacked > _limit(size):
        raise QdbevError(
            f"{path} has {size:,} bytes and would unpack to {unpacked:,}",
            "a checkpoint as torch.save writes it",
            _RETRAIN,
        )


def _damaged(path: Path, error: Exception) -> QdbevError:
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    reason = reason.split(". ")[0][:160]  # torch goes on about what may have happened
    if isinstance(error, pickle.UnpicklingError):  # torch's text is about how to load it all the same
        reason = "its pickle is none that torch.save writes"
    elif reason.isdigit() or isinstance(error, (KeyError, IndexError)):  # a byte that is no instruction of pickle's
        reason = "it is no pickle"
    return QdbevError(
        f"{path} cannot be read as a checkpoint ({reason.rstrip('.')})",
        "a whole file as torch.save writes it",
        _RETRAIN,
    )


def _unpickle(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        names = re.findall(r"GLOBAL ([A-Za-z_][\w.]*\.\w+)", str(error))
        if not names:
            raise _damaged(path, error) from error
        raise QdbevError(
            f"{path} asks to run code on loading ({names[0]}); it was not executed",
            "a checkpoint of plain tensors, numbers and strings",
            "where you trust it, save its weights alone: torch.save({'state_dict': model.state_dict()}, 'weights.pth')",
        ) from error
    except (RuntimeError, EOFError, ValueError, KeyError, TypeError, AttributeError, OSError, MemoryError) as error:
        raise _damaged(path, error) from error


def _state_dict_of(content: Any, path: Path) -> dict[str, Tensor]:
    candidate = content.get("state_dict", content) if isinstance(content, dict) else None
    if not isinstance(candidate, dict) or not candidate:
        raise QdbevError(
            f"{path} holds a {type(content).__name__} without a state_dict",
            "a dictionary with 'state_dict', or a state dict itself",
            _RETRAIN,
        )
    for key, value in candidate.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise QdbevError(
                f"{path} has the entry {key!r} of type {type(value).__name__} among its weights",
                "tensors under string keys",
                _RETRAIN,
            )
    return candidate


_OLD_DCN_KEY = re.compile(r"\.conv2_offset\.(weight|bias)$")


def _canonical_key(key: str) -> str:
    """Wrapper prefixes go; the deformable offsets' name of old mmcv becomes today's."""
    return _OLD_DCN_KEY.sub(r".conv2.conv_offset.\1", key.removeprefix("module."))


def read_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """Read a checkpoint file without executing any of it; nothing is checked against a model yet."""
    path = Path(path)
    if not path.is_file():
        raise QdbevError(f"there is no file {path}", "a checkpoint (.pth or .pt)", "check the path")
    _guard_size(path)
    content = _unpickle(path)
    state_dict = {_canonical_key(key): value for key, value in _state_dict_of(content, path).items()}
    spec, meta, recipe = None, content.get("meta", {}), None
    if content.get("format") == FORMAT:
        if content.get("version") != FORMAT_VERSION:
            raise QdbevError(
                f"{path} is a checkpoint of format version {content.get('version')}",
                f"version {FORMAT_VERSION}",
                "use the release of qdbev-deploy that wrote it",
            )
        spec, recipe = VariantSpec.from_dict(content.get("variant")), content.get("recipe")
    return Checkpoint(state_dict, spec, meta if isinstance(meta, dict) else {}, recipe)


_MODELS_ON_META: dict[VariantSpec, dict[str, Tensor]] = {}


def expected_tensors(spec: VariantSpec) -> dict[str, Tensor]:
    """Keys, shapes and dtypes of a variant's state dict, without memory for the weights."""
    if spec not in _MODELS_ON_META:
        with torch.device("meta"):
            _MODELS_ON_META[spec] = BEVFormer(spec).state_dict()
    return _MODELS_ON_META[spec]


def _is_plain(tensor: Tensor, like: Tensor) -> bool:
    """An ordinary array of numbers in memory, of the same kind as the one that it is to fill."""
    return (
        tensor.layout == torch.strided
        and tensor.device.type == "cpu"
        and not tensor.is_quantized
        and tensor.is_floating_point() == like.is_floating_point()
        and not tensor.is_complex()
    )


def mismatch(expected: dict[str, Tensor], state_dict: dict[str, Tensor]) -> tuple[int, str]:
    """How many keys do not fit, and the first of them in words. (0, "") where all fit."""
    missing = [key for key in expected if key not in state_dict and not key.endswith("num_batches_tracked")]
    reshaped = [key for key in expected if key in state_dict and state_dict[key].shape != expected[key].shape]
    strange = [key for key in expected if key in state_dict and not _is_plain(state_dict[key], expected[key])]
    if strange:
        tensor = state_dict[strange[0]]
        kind = (
            f"{str(tensor.layout).removeprefix('torch.')} {str(tensor.dtype).removeprefix('torch.')} on {tensor.device}"
        )
        return len(strange) + len(missing), f"'{strange[0]}' is a tensor of another kind ({kind})"
    if reshaped:
        key = reshaped[0]
        first = f"'{key}' has shape {_shape(state_dict[key])} where {_shape(expected[key])} is needed"
    elif missing:
        first = f"'{missing[0]}' of shape {_shape(expected[missing[0]])} is missing"
    else:
        first = ""
    return len(missing) + len(reshaped), first


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"


def fitting_variant(state_dict: dict[str, Tensor]) -> str | None:
    """The name of the shipped variant that these weights fit without a mismatch."""
    return next((name for name, spec in VARIANTS.items() if not mismatch(expected_tensors(spec), state_dict)[0]), None)


def misfit(path: Path, what: str, count: int, first: str, advice: str) -> QdbevError:
    """The error for weights that do not fit: the first key in full, the number of the others."""
    more = f" (and {count - 1} more keys do not fit)" if count > 1 else ""
    return QdbevError(f"{path} does not fit {what}: {first}{more}", f"the weights of {what}", advice)


def require_finite(path: Path, state_dict: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    for key in expected:
        tensor = state_dict.get(key)
        if tensor is None or not tensor.is_floating_point():
            continue
        bad = int((~torch.isfinite(tensor)).sum())
        if key.endswith("running_var"):
            bad += int((tensor < 0).sum())
        if bad:
            raise QdbevError(
                f"{path} has {bad} of {tensor.numel()} numbers in '{key}' that no weight can be",
                "finite weights",
                "take an earlier checkpoint: the training that wrote this one had diverged",
            )


def _infer_variant(path: Path, checkpoint: Checkpoint) -> VariantSpec:
    if checkpoint.spec is not None:
        return checkpoint.spec
    fitting = fitting_variant(checkpoint.state_dict)
    if fitting:
        return VARIANTS[fitting]
    counts = {name: mismatch(expected_tensors(spec), checkpoint.state_dict) for name, spec in VARIANTS.items()}
    nearest = min(counts, key=lambda name: counts[name][0])
    count, first = counts[nearest]
    raise QdbevError(
        f"{path} fits no variant; nearest is '{nearest}' with {count} keys that do not fit, the first: {first}",
        "the weights of one of " + ", ".join(VARIANTS),
        "check which model this file belongs to",
    )


def load_checkpoint(
    path: str | os.PathLike[str],
    variant_or_spec: str | VariantSpec | None = None,
    *,
    checkpoint: Checkpoint | None = None,
) -> BEVFormer:
    """A model in evaluation mode with the weights of `path`: an official .pth, or one of ours.

    Without a variant, a checkpoint of ours says which it is, and an official one is recognised by its shapes. Keys the
    model does not know are ignored (training left-overs); one that is missing, mis-shaped or not finite is an error.
    `checkpoint` is the file's content where it has been read already.
    """
    path = Path(path)
    checkpoint = checkpoint or read_checkpoint(path)
    if checkpoint.recipe is not None:
        raise QdbevError(
            f"{path} is a quantised student", "a float checkpoint", "load it with qdbev_deploy.quant.load_model"
        )
    spec = variant(variant_or_spec) if variant_or_spec is not None else _infer_variant(path, checkpoint)
    expected = expected_tensors(spec)
    count, first = mismatch(expected, checkpoint.state_dict)
    if count:
        fitting = fitting_variant(checkpoint.state_dict)
        advice = f"use --variant {fitting}: it fits this file" if fitting else "check what it is: no variant fits it"
        raise misfit(path, f"variant '{spec.name}'", count, first, advice)
    require_finite(path, checkpoint.state_dict, expected)
    model = build_model(spec)
    load_known(model, checkpoint.state_dict)
    model.meta = checkpoint.meta
    return model.eval()


def load_known(model: nn.Module, state_dict: dict[str, Tensor]) -> None:
    """Load what the model knows of a state dict that was found to fit; the rest is left alone."""
    known = model.state_dict().keys()
    model.load_state_dict({key: value for key, value in state_dict.items() if key in known}, strict=False)


def weights_digest(model: nn.Module) -> str:
    """Identifies a model's weights, whatever file they came from."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def save_checkpoint(
    path: str | os.PathLike[str],
    model: BEVFormer,
    meta: dict[str, Any] | None = None,
    recipe: dict[str, Any] | None = None,
) -> None:
    """Write a checkpoint that says which variant, and which recipe, it is; it appears whole or not at all."""
    content = {
        **({"recipe": recipe} if recipe is not None else {}),
        "format": FORMAT,
        "version": FORMAT_VERSION,
        "variant": model.spec.to_dict(),
        "meta": {"qdbev_deploy": __version__, **(meta or {})},
        "state_dict": model.state_dict(),
    }
    # To an open file: given a path, torch would write the temporary name into the archive.
    with atomic_output(path) as partial, partial.open("wb") as file:
        torch.save(content, file)
