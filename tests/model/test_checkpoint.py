"""Checkpoints: what is read, what is refused and in which words."""

from __future__ import annotations

import os
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from qdbev_deploy.contract import VARIANTS
from qdbev_deploy.errors import ExitCode, QdbevError
from qdbev_deploy.model import build_model, load_checkpoint, save_checkpoint
from qdbev_deploy.model.checkpoint import fitting_variant, read_checkpoint


@pytest.fixture(scope="module")
def micro() -> dict[str, torch.Tensor]:
    return dict(build_model("micro", seed=0).state_dict())


def written(folder: Path, content: Any) -> Path:
    path = folder / "checkpoint.pth"
    torch.save(content, path)
    return path


def refusal(path: Path, variant: str | None = None) -> QdbevError:
    before = sorted(path.parent.rglob("*"))
    with pytest.raises(QdbevError) as caught:
        load_checkpoint(path, variant)
    assert caught.value.exit_code == ExitCode.BAD_INPUT
    assert sorted(path.parent.rglob("*")) == before  # nothing was written
    assert "\n" not in caught.value.found
    return caught.value


def test_our_checkpoint_comes_back_whole(tmp_path: Path, micro: dict[str, torch.Tensor]) -> None:
    model = build_model("micro", seed=3)
    save_checkpoint(tmp_path / "a.pt", model, {"epoch": 4})
    checkpoint = read_checkpoint(tmp_path / "a.pt")
    assert checkpoint.spec == VARIANTS["micro"]
    assert checkpoint.meta["epoch"] == 4
    loaded = load_checkpoint(tmp_path / "a.pt")
    assert not loaded.training
    ours, theirs = model.state_dict(), loaded.state_dict()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_official_tiny_is_recognised_by_its_shapes(tmp_path: Path) -> None:
    model = build_model("tiny", seed=0)
    official = {
        "meta": {"epoch": 24, "CLASSES": ("car",), "config": "..."},
        "state_dict": OrderedDict((f"module.{key}", value) for key, value in model.state_dict().items()),
        "optimizer": {"state": {}, "param_groups": []},
    }
    loaded = load_checkpoint(written(tmp_path, official))
    assert loaded.spec.name == "tiny"
    key = "img_backbone.layer4.0.conv2.weight"
    assert torch.equal(loaded.state_dict()[key], model.state_dict()[key])


def test_tolerances_of_the_loader(tmp_path: Path) -> None:
    model = build_model("small", seed=0)
    state = {}
    for key, value in model.state_dict().items():
        if not key.endswith("num_batches_tracked"):  # (a) may be absent
            state[key.replace("conv2.conv_offset", "conv2_offset")] = value  # (b) old mmcv's name
    state["grid_mask.something"] = torch.zeros(3)  # (c) unknown keys are ignored
    loaded = load_checkpoint(written(tmp_path, {"state_dict": state}), "small")
    key = "img_backbone.layer3.5.conv2.conv_offset.bias"
    assert torch.equal(loaded.state_dict()[key], model.state_dict()[key])


def test_a_wrong_variant_names_key_shapes_and_the_one_that_fits(tmp_path: Path, micro: dict[str, torch.Tensor]) -> None:
    error = refusal(written(tmp_path, {"state_dict": micro}), "tiny")
    assert " has shape " in error.found
    assert " where " in error.found
    assert error.next_step.startswith("use --variant micro")


def test_a_missing_key_is_named_with_its_shape(tmp_path: Path, micro: dict[str, torch.Tensor]) -> None:
    state = {key: value for key, value in micro.items() if key != "img_neck.lateral_convs.0.conv.weight"}
    error = refusal(written(tmp_path, {"state_dict": state}), "micro")
    assert "'img_neck.lateral_convs.0.conv.weight' of shape 128x128x1x1 is missing" in error.found


def test_a_misshapen_key_is_named_with_both_shapes(tmp_path: Path, micro: dict[str, torch.Tensor]) -> None:
    state = {**micro, "img_backbone.conv1.weight": torch.zeros(32, 3, 5, 5)}
    error = refusal(written(tmp_path, {"state_dict": state}), "micro")
    assert "'img_backbone.conv1.weight' has shape 32x3x5x5 where 32x3x7x7 is needed" in error.found


def test_another_model(tmp_path: Path) -> None:
    error = refusal(written(tmp_path, {"state_dict": {"features.0.weight": torch.zeros(3, 3)}}))
    assert "fits no variant" in error.found
    assert fitting_variant({}) is None


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite(tmp_path: Path, micro: dict[str, torch.Tensor], value: float) -> None:
    weight = micro["img_neck.fpn_convs.0.conv.bias"].clone()
    weight[3] = value
    error = refusal(written(tmp_path, {"state_dict": {**micro, "img_neck.fpn_convs.0.conv.bias": weight}}), "micro")
    assert "1 of 128 numbers in 'img_neck.fpn_convs.0.conv.bias'" in error.found


class Payload:
    """What a hostile file would carry."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


def test_a_pickle_that_wants_to_run_code_is_not_executed(tmp_path: Path, micro: dict[str, torch.Tensor]) -> None:
    marker = tmp_path / "executed"
    error = refusal(written(tmp_path, {"state_dict": micro, "meta": Payload(marker)}))
    assert "asks to run code on loading" in error.found
    assert "mkdir" in error.found
    assert not marker.exists()


def test_a_bare_hostile_pickle_is_not_executed(tmp_path: Path) -> None:
    path = tmp_path / "bare.pth"
    path.write_bytes(pickle.dumps(Payload(tmp_path / "executed"), protocol=2))
    refusal(path)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("keep", [0.0, 0.3, 0.99])
def test_truncated(tmp_path: Path, micro: dict[str, torch.Tensor], keep: float) -> None:
    path = written(tmp_path, {"state_dict": micro})
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * keep)])
    assert "cannot be read as a checkpoint" in refusal(path).found


def test_corrupt(tmp_path: Path) -> None:
    path = tmp_path / "noise.pth"
    path.write_bytes(bytes(range(256)) * 64)
    refusal(path)


def test_a_damaged_record_is_noticed(tmp_path: Path, micro: dict[str, torch.Tensor]) -> None:
    path = written(tmp_path, {"state_dict": micro})
    with zipfile.ZipFile(path) as archive:
        records = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    largest = max(records, key=lambda name: len(records[name]))
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in records.items():
            archive.writestr(name, content[: len(content) // 2] if name == largest else content)
    refusal(path, "micro")


def test_one_flipped_bit_is_noticed(tmp_path: Path, micro: dict[str, torch.Tensor]) -> None:
    path = written(tmp_path, {"state_dict": micro})
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert "checksum" in refusal(path, "micro").found


KINDS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "sparse": lambda weight: weight.to_sparse(),
    "on no device": lambda weight: weight.to("meta"),
    "complex": lambda weight: weight.to(torch.complex64),
    "integers": lambda weight: weight.to(torch.int32),
}


@pytest.mark.parametrize("kind", KINDS)
def test_tensors_of_another_kind(tmp_path: Path, micro: dict[str, torch.Tensor], kind: str) -> None:
    key = "img_backbone.conv1.weight"
    error = refusal(written(tmp_path, {"state_dict": {**micro, key: KINDS[kind](micro[key])}}), "micro")
    assert f"'{key}' is a tensor of another kind" in error.found


def test_a_negative_variance(tmp_path: Path, micro: dict[str, torch.Tensor]) -> None:
    key = "img_backbone.bn1.running_var"
    error = refusal(written(tmp_path, {"state_dict": {**micro, key: -micro[key]}}), "micro")
    assert f"32 of 32 numbers in '{key}'" in error.found


def test_saving_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    model = build_model("micro", seed=0)
    save_checkpoint(tmp_path / "a.pt", model)
    save_checkpoint(tmp_path / "b.pt", model)
    assert (tmp_path / "a.pt").read_bytes() == (tmp_path / "b.pt").read_bytes()


def test_a_zip_bomb_is_refused_before_it_unpacks(tmp_path: Path) -> None:
    path = tmp_path / "bomb.pth"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02}q\x00.")
        with archive.open("archive/data/0", "w", force_zip64=True) as record:
            for _ in range(64):
                record.write(bytes(1 << 20))
    assert path.stat().st_size < 200_000
    assert "would unpack to" in refusal(path).found


def test_no_file(tmp_path: Path) -> None:
    assert "there is no file" in refusal(tmp_path / "absent.pth").found


@pytest.mark.parametrize("content", [[1, 2], {"state_dict": {}}, {"state_dict": {"a": "b"}}, torch.zeros(3)])
def test_not_a_state_dict(tmp_path: Path, content: Any) -> None:
    refusal(written(tmp_path, content))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("embed_dim", "many"),
        ("bev_hw", [50]),
        ("heads", 0),
        ("encoder_layers", 10**6),
        ("x", 1),
        ("embed_dim", 2**40),
        ("dropout", 7.0),
        ("pc_range", [float("nan")] * 6),
        ("queries", 10**9),
    ],
)
def test_a_forged_specification(tmp_path: Path, micro: dict[str, torch.Tensor], field: str, value: Any) -> None:
    spec = {**VARIANTS["micro"].to_dict(), field: value}
    content = {"format": "qdbev-deploy checkpoint", "version": 1, "variant": spec, "state_dict": micro}
    refusal(written(tmp_path, content))


def test_a_newer_format_version(tmp_path: Path, micro: dict[str, torch.Tensor]) -> None:
    content = {"format": "qdbev-deploy checkpoint", "version": 2, "state_dict": micro}
    assert "format version 2" in refusal(written(tmp_path, content)).found


def test_a_failed_save_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(content: Any, file: Any) -> None:
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(tmp_path / "a.pt", build_model("micro"))
    assert list(tmp_path.iterdir()) == []
