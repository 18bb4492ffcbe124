"""A bundle is verified before anything in it is loaded: each file changed, each way out of the folder, each machine."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest

from qdbev_deploy.contract import stream_inputs
from qdbev_deploy.engine import Bundle, backends, bundle, compatibility
from qdbev_deploy.engine.backends import backend_named
from qdbev_deploy.engine.documents import CONTRACT, LAYERS, MANIFEST, contract_document
from qdbev_deploy.engine.source import read_source
from qdbev_deploy.errors import ExitCode, QdbevError
from qdbev_deploy.machine import Driver, Gpu
from tests.engine.students import SPEC, Students

FILES = ("model.onnx", "contract.json", "layers.json", "guard.json", "parity.json")


@pytest.fixture
def copied(students: Students, tmp_path: Path) -> Path:
    return Path(shutil.copytree(students.bundle.path, tmp_path / "copy.qdbev"))


@pytest.fixture(autouse=True)
def nothing_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a test here refuses, it refuses before a backend sees it."""

    def loaded(name: str) -> Any:
        raise AssertionError("a backend was asked to open a bundle that was not verified")

    monkeypatch.setattr(bundle, "backend_named", loaded)


def changed(folder: Path, change: Callable[[dict[str, Any]], object], name: str = MANIFEST) -> None:
    """Change a JSON file; of another file than the manifest, with its new hash in the manifest."""
    path = folder / name
    document = json.loads(path.read_text(encoding="utf-8"))
    change(document)
    path.write_text(json.dumps(document), encoding="utf-8")
    if name != MANIFEST:
        reseal(folder, name)


def reseal(folder: Path, name: str) -> None:
    content = (folder / name).read_bytes()
    entry = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    changed(folder, lambda manifest: manifest["files"].update({name: entry}))


def refused(folder: Path, match: str, code: ExitCode = ExitCode.BAD_INPUT) -> QdbevError:
    with pytest.raises(QdbevError, match=match) as caught:
        Bundle.open(folder)
    assert caught.value.exit_code == code
    return caught.value


def test_what_it_holds(students: Students) -> None:
    found = students.bundle
    assert {path.name for path in found.path.iterdir()} == {*FILES, MANIFEST}
    assert set(found.manifest["files"]) == set(FILES)
    assert found.spec == SPEC
    assert found.inputs == stream_inputs(SPEC)
    assert [output.name for output in found.outputs] == ["bev_embed", "outputs_classes", "outputs_coords"]
    assert found.backend == "onnxruntime"
    assert found.name == "student.qdbev"
    manifest = found.manifest
    assert manifest["schema"] == "qdbev-bundle/1"
    assert manifest["gpu"] is None
    assert manifest["provenance"]["recipe"]["name"] == "w4a6"
    assert manifest["provenance"]["onnx"]["sha256"] == hashlib.sha256(students.onnx.read_bytes()).hexdigest()
    assert manifest["build"]["command"] == (
        "qdbev-deploy build --onnx student.onnx --int8 --backend onnxruntime -o student.qdbev"
    )
    for name in (*FILES, MANIFEST):
        if name.endswith(".json"):
            text = (found.path / name).read_text(encoding="utf-8")
            assert str(students.onnx.parent) not in text, name
            # Names of ONNX Runtime's own nodes begin with a slash.
            assert name in (LAYERS, "guard.json") or '"/' not in text, name
    assert manifest["precision"]["emulated"] is True
    assert "onnxruntime-emulates-int8" in next(iter(manifest["precision"]["allowed"]))


def test_provenance_knows_weights_that_lie_beside_the_file(students: Students, tmp_path: Path) -> None:
    digests = set()
    for change in (0, 1):
        model = onnx.load(students.onnx)
        weight = next(item for item in model.graph.initializer if len(item.raw_data) > 1024)
        weight.raw_data = bytes([weight.raw_data[0] ^ change]) + weight.raw_data[1:]
        path = tmp_path / "m.onnx"
        onnx.save(model, path, save_as_external_data=True, location="m.data", size_threshold=1024)
        digests.add(read_source(path).provenance()["onnx"]["sha256"])
        (tmp_path / "m.data").unlink()
    assert len(digests) == 2


def test_the_contract_says_what_a_runtime_needs(students: Students) -> None:
    contract = students.bundle.contract
    assert [tensor["name"] for tensor in contract["inputs"]] == [
        "image", "prev_bev", "use_prev_bev", "can_bus", "lidar2img",
    ]  # fmt: skip
    assert contract["decode"]["max_boxes"] == SPEC.max_boxes
    assert contract["decode"]["post_center_range"] == list(SPEC.post_center_range)
    assert contract["preprocess"]["mean"] == list(SPEC.preprocess.mean)
    assert contract["preprocess"]["in_graph"] is False
    assert contract["cameras"][0] == "CAM_FRONT"
    assert len(contract["classes"]) == len(contract["box_code"]) == 10


@pytest.mark.parametrize("name", [*FILES, MANIFEST])
def test_a_changed_byte_is_seen(copied: Path, name: str) -> None:
    content = bytearray((copied / name).read_bytes())
    middle = len(content) // 2
    content[middle] ^= 1
    (copied / name).write_bytes(content)
    if name == MANIFEST:  # which nothing hashes: it is read with suspicion, and says what it can of the files
        content[0] ^= 1
        (copied / name).write_bytes(content)
        refused(copied, "manifest.json is no JSON")
        return
    refused(copied, f"{name} was changed: its sha256 is another")


@pytest.mark.parametrize("name", [*FILES, MANIFEST])
def test_a_missing_or_cut_file_is_seen(copied: Path, name: str) -> None:
    whole = (copied / name).read_bytes()
    (copied / name).write_bytes(whole[:-7])
    refused(copied, "manifest.json is no JSON" if name == MANIFEST else f"{name} has .* bytes")
    (copied / name).unlink()
    refused(copied, f"{name} is not there")


@pytest.mark.parametrize("name", [*FILES, MANIFEST])
def test_a_link_is_no_file(copied: Path, tmp_path: Path, name: str) -> None:
    elsewhere = tmp_path / "elsewhere"
    (copied / name).rename(elsewhere)
    (copied / name).symlink_to(elsewhere)
    refused(copied, f"{name} is a link")


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "a/../../outside", "..", ".hidden", "a\\b", "", "a/b"])
def test_no_name_leaves_the_folder(copied: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "outside").write_text("x")
    entry = {"bytes": 1, "sha256": hashlib.sha256(b"x").hexdigest()}
    changed(copied, lambda manifest: manifest["files"].update({name: entry}))
    refused(copied, "names of files in the bundle's own folder")


@pytest.mark.parametrize("field", ["engine_file", "extra_files"])
@pytest.mark.parametrize("name", ["../outside", "unlisted.onnx", MANIFEST])
def test_only_what_is_listed_is_loaded(copied: Path, field: str, name: str) -> None:
    (copied / "unlisted.onnx").write_bytes((copied / "model.onnx").read_bytes())
    changed(copied, lambda manifest: manifest.update({field: [name] if field == "extra_files" else name}))
    refused(copied, "does not list")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda m: m.update(schema="qdbev-bundle/2"), "of schema 'qdbev-bundle/2'.*install the qdbev-deploy"),
        (lambda m: m.update(schema="other"), "of schema 'other'"),
        (lambda m: m.pop("schema"), "of schema None"),
        (lambda m: m.pop("files"), "no usable field 'files'"),
        (lambda m: m.update(build={}), "no usable field 'build.options'"),
        (lambda m: m.update(extra_files="model.onnx"), "no usable field 'extra_files'"),
        (lambda m: m.update(extra_files=[1]), "no usable field 'extra_files'"),
        (lambda m: m.update(engine_file=["model.onnx"]), "no usable field 'engine_file'"),
        (lambda m: m.update(gpu="H200"), "no usable field 'gpu'"),
        (lambda m: m.pop("gpu"), "no usable field 'gpu'"),
        (lambda m: m["build"]["opens_with"].update(fused=True), "no usable field 'build.opens_with'"),
        (lambda m: m.update(backend="tflite"), "for the backend 'tflite'"),
        (lambda m: m["files"].pop("layers.json"), "does not list 'layers.json'"),
        (lambda m: m["files"].update({"model.onnx": {}}), "size and sha256 of model.onnx"),
        (lambda m: m["files"].update({"model.onnx": {"bytes": True, "sha256": 3}}), "size and sha256 of model.onnx"),
    ],
)
def test_a_manifest_that_is_none(copied: Path, change: Callable[[dict[str, Any]], object], match: str) -> None:
    changed(copied, change)
    refused(copied, match)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("extra_files", [[]]), ("gpu.compute_capability", None), ("gpu.compute_capability", 8),
        ("gpu.compute_capability", [8]), ("gpu.compute_capability", ["8", "7"]), ("gpu.name", 5),
        ("build.options.threads", "lots"), ("build.options.threads", 10**12), ("build.options.threads", -5),
        ("build.options.threads", True), ("build.options.fused", "no"), ("build.options.precision", "int3"),
        ("build.options.version_compatible", 1), ("build.opens_with.provider", [1]), ("build.opens_with", []),
        ("build.notes", "text"), ("machine", 5), ("versions", {"onnxruntime": 1}), ("build.command", 5),
        ("build.command", "qdbev-deploy build --onnx a.onnx; rm -rf x"), ("build.command", "rm -rf x"),
        ("build.command", "qdbev-deploy build --onnx $(reboot)"), ("build.command", "qdbev-deploy build '\x1b[2J'"),
        ("build.command", "qdbev-deploy build 'a\nb'"), ("build.command", "qdbev-deploy build 'a"),
        ("build.notes", ["\x1b[2Jnothing to see"]),
    ],
)  # fmt: skip
def test_a_field_that_is_none(copied: Path, field: str, value: Any) -> None:
    def damage(manifest: dict[str, Any]) -> None:
        if field.startswith("gpu"):
            manifest["gpu"] = {"name": "Orin", "compute_capability": [8, 7]}
        *parts, name = field.split(".")
        for part in parts:
            manifest = manifest[part]
        manifest[name] = value

    changed(copied, damage)
    error = refused(copied, f"no usable field '{field}'")
    assert "\x1b" not in str(error)


@pytest.mark.parametrize("name", [LAYERS, CONTRACT, "guard.json"])
def test_a_report_is_no_engine(copied: Path, name: str) -> None:
    changed(copied, lambda manifest: manifest.update(engine_file=name))
    refused(copied, f"the engine loads {name}")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda m: m["parity"].update(passed=False), "'parity.passed' what parity.json does not"),
        (lambda m: m["parity"].update(frames=10_000), "'parity.frames'"),
        (lambda m: m.update(parity={}), "'parity.box_center_m'"),
        (lambda m: m["precision"].update(passed=False), "'precision.passed' what guard.json does not"),
        (lambda m: m["precision"].update(emulated=False), "'precision.emulated'"),
        (lambda m: m["precision"].update(precision="fp32"), "'precision.precision'"),
        (lambda m: m["precision"].update(ran_int8=99), "'precision.ran_int8'"),
        (lambda m: m["precision"].update(macs=[]), "'precision.macs'"),
        (lambda m: m.update(precision={}), "'precision.allowed'"),
        (lambda m: m["files"].pop("guard.json"), "does not list 'guard.json'"),
        (lambda m: m["files"].pop("parity.json"), "speaks of a parity, and there is no parity.json"),
    ],
)
def test_a_manifest_that_says_other_than_its_reports(
    copied: Path, change: Callable[[dict[str, Any]], object], match: str
) -> None:
    changed(copied, change)
    refused(copied, match)


@pytest.mark.parametrize(
    ("name", "change", "match"),
    [
        ("guard.json", lambda d: d.update(passed=False), "the precision guard did not pass"),
        ("guard.json", lambda d: d["nodes"][0].update(allowed=""), "the precision guard did not pass"),
        ("guard.json", lambda d: d.update(nodes=3), "no list of nodes"),
        ("guard.json", lambda d: d.update(schema="other"), "not of schema 'qdbev-guard/1'"),
        ("parity.json", lambda d: d.update(passed=False), "parity did not pass"),
        ("parity.json", lambda d: d.update(failures=["far off"]), "parity did not pass"),
        ("parity.json", lambda d: d.pop("same_state"), "is not whole"),
        ("parity.json", lambda d: d.update(own_state=[]), "is not whole"),
        ("parity.json", lambda d: d.update(schema="other"), "not of schema 'qdbev-engine-parity/1'"),
    ],
)
def test_a_report_that_did_not_pass(copied: Path, name: str, change: Any, match: str) -> None:
    """With its hash in the manifest, as somebody would write it who wants the bundle to be used all the same."""
    changed(copied, change, name)
    refused(copied, match)


@pytest.mark.parametrize("text", ["", "[]", "null", '"text"', '{"schema": NaN}', "\xff", "[" * 100_000])
def test_a_manifest_that_is_no_object(copied: Path, text: str) -> None:
    (copied / MANIFEST).write_bytes(text.encode("latin-1"))
    refused(copied, r"is no JSON|of schema None")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda c: c.update(contract_version=2), "of version 2.*install the qdbev-deploy"),
        (lambda c: c.update(io="bf16"), "io 'bf16'"),
        (lambda c: c["inputs"][0]["shape"].__setitem__(1, 5), "'inputs' what does not follow"),
        (lambda c: c["spec"].update(queries=7), "what does not follow"),
        (lambda c: c["spec"].update(queries="many"), "variant.queries"),
        (lambda c: c.pop("spec"), "field 'variant' is a NoneType"),
        (lambda c: c["decode"].update(max_boxes=1), "'decode' what does not follow"),
    ],
)
def test_a_contract_that_contradicts_itself(copied: Path, change: Any, match: str) -> None:
    changed(copied, change, CONTRACT)
    refused(copied, match)


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.update(schema="other"),
        lambda d: d["layers"][0].pop("kind"),
        lambda d: d["layers"][0].update(unheard=1),
        lambda d: d["layers"].append("text"),
        lambda d: d.pop("layers"),
    ],
)
def test_layers_that_are_none(copied: Path, change: Any) -> None:
    changed(copied, change, LAYERS)
    refused(copied, "layers.json")


def test_layers_come_back_as_they_were(students: Students) -> None:
    assert Bundle.open(students.bundle.path).layers == students.bundle.layers


def test_what_is_no_bundle(tmp_path: Path) -> None:
    refused(tmp_path / "none.qdbev", "there is no folder")
    (tmp_path / "file.qdbev").touch()
    refused(tmp_path / "file.qdbev", "is a file")
    refused(tmp_path, "manifest.json is not there")


def test_a_model_that_is_none_though_its_hash_is_right(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle, "backend_named", backend_named)
    whole = (copied / "model.onnx").read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"no model"):
        (copied / "model.onnx").write_bytes(content)
        reseal(copied, "model.onnx")
        with pytest.raises(QdbevError, match=r"ONNX Runtime cannot load model\.onnx|the model's input") as caught:
            Bundle.open(copied).engine()
        assert caught.value.exit_code == ExitCode.BAD_INPUT


def test_a_model_of_another_contract(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A contract that is whole in itself, beside a model that is another's."""
    monkeypatch.setattr(bundle, "backend_named", backend_named)
    other = contract_document(SPEC, "fp16", "uint8")
    changed(copied, lambda contract: contract.update(json.loads(json.dumps(other))), CONTRACT)
    with pytest.raises(
        QdbevError, match=r"the model's input image, prev_bev: \[\('float32'.*the bundle's contract says"
    ):
        Bundle.open(copied).engine()


def test_a_change_after_opening_is_seen(copied: Path) -> None:
    found = Bundle.open(copied)
    (copied / "model.onnx").write_bytes(b"x" * (copied / "model.onnx").stat().st_size)
    with pytest.raises(QdbevError, match="was changed"):
        found.engine()


class TestMachine:
    """A plan is for one GPU and one TensorRT; what cannot run here says so, with the command that builds it again."""

    @pytest.fixture
    def plan(self, copied: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """The copy, dressed as a plan that was built on an Orin; this machine has the backend it needs."""

        def dress(manifest: dict[str, Any]) -> None:
            manifest.update(
                backend="tensorrt", versions={"tensorrt": "10.3.0"},
                gpu={"name": "Orin", "compute_capability": [8, 7]},
            )  # fmt: skip
            manifest["precision"]["emulated"] = False

        changed(copied, dress)

        class Usable:
            def missing(self) -> None:
                return None

        monkeypatch.setattr(compatibility, "backend_named", lambda name: Usable())
        self.here(monkeypatch, (8, 7), "10.3.0")
        return copied

    def here(self, monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int] | None, version: str | None) -> None:
        gpus = () if capability is None else (Gpu("A GPU", capability, 1 << 30),)
        monkeypatch.setattr(compatibility, "cuda_driver", lambda: Driver((12, 6), gpus))
        monkeypatch.setattr("qdbev_deploy.engine.tensorrt.releases.installed_version", lambda: version)

    def test_the_same_machine(self, plan: Path) -> None:
        assert Bundle.open(plan).backend == "tensorrt"

    @pytest.mark.parametrize("capability", [(8, 6), (9, 0), None])
    def test_another_gpu(self, plan: Path, monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int] | None) -> None:
        self.here(monkeypatch, capability, "10.3.0")
        error = refused(plan, "was built for Orin .compute capability 8.7.", ExitCode.MISSING)
        assert "qdbev-deploy build --onnx student.onnx --int8" in error.next_step
        assert Bundle.open(plan, to_run=False).backend == "tensorrt"  # to look at it, any machine will do

    def test_a_plan_for_later_gpus(self, plan: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        changed(plan, lambda manifest: manifest["build"]["options"].update(hardware_compatible=True))
        self.here(monkeypatch, (9, 0), "10.3.0")
        Bundle.open(plan)
        self.here(monkeypatch, (7, 5), "10.3.0")
        refused(plan, "was built for Orin", ExitCode.MISSING)

    @pytest.mark.parametrize("version", ["10.3.1", "10.4.0", "8.6.1", "", None])
    def test_another_tensorrt(self, plan: Path, monkeypatch: pytest.MonkeyPatch, version: str | None) -> None:
        self.here(monkeypatch, (8, 7), version)
        error = refused(plan, "was built with TensorRT 10.3.0", ExitCode.MISSING)
        assert "build it again here" in error.next_step
        # Two unknown ones are not the same.
        changed(plan, lambda manifest: manifest["versions"].update(tensorrt="some"))
        refused(plan, "was built with TensorRT some", ExitCode.MISSING)

    def test_a_plan_for_later_releases(self, plan: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        changed(plan, lambda manifest: manifest["build"]["options"].update(version_compatible=True))
        self.here(monkeypatch, (8, 7), "10.13.3")
        Bundle.open(plan)
        self.here(monkeypatch, (8, 7), "10.3.0.26")
        Bundle.open(plan)
        for version in ("11.0.0", "10.2.9", "8.6.1", "10", "", None):  # older ones do not read what later ones wrote
            self.here(monkeypatch, (8, 7), version)
            error = refused(plan, "was built with TensorRT 10.3.0", ExitCode.MISSING)
            assert "TensorRT 10.3.0 or a later 10" in error.needed

    def test_another_kind_of_processor(self, plan: Path) -> None:
        changed(plan, lambda manifest: manifest.update(machine="riscv64"))
        refused(plan, "was built on riscv64", ExitCode.MISSING)

    def test_a_backend_that_is_missing(self, plan: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        lacking = QdbevError("no libcuda", "a driver", "install it", exit_code=ExitCode.MISSING)

        class Lacking:
            def missing(self) -> QdbevError:
                return lacking

        monkeypatch.setattr(compatibility, "backend_named", lambda name: Lacking())
        refused(plan, "no libcuda", ExitCode.MISSING)

    def test_a_changed_plan_is_a_changed_plan_wherever_it_was_built(self, plan: Path) -> None:
        (plan / "model.onnx").unlink()
        refused(plan, "is not there")
        with pytest.raises(QdbevError, match="is not there"):
            Bundle.open(plan, to_run=False)


class TestChoice:
    """--backend: what is named is used or missing; auto says what it took and why."""

    class Fake:
        def __init__(self, name: str, error: QdbevError | None = None) -> None:
            self.name, self.error = name, error

        def missing(self) -> QdbevError | None:
            return self.error

    def choose(self, monkeypatch: pytest.MonkeyPatch, name: str, *lacking: str) -> Any:
        error = QdbevError("the driver finds no GPU", "a GPU", "doctor", exit_code=ExitCode.MISSING)
        monkeypatch.setattr(backends, "backend_named", lambda n: self.Fake(n, error if n in lacking else None))
        return backends.choose(name)

    def test_auto_takes_tensorrt_where_it_is(self, monkeypatch: pytest.MonkeyPatch) -> None:
        choice = self.choose(monkeypatch, "auto")
        assert choice.backend.name == "tensorrt"
        assert choice.says == "backend tensorrt: a GPU and TensorRT are here"

    def test_auto_says_why_it_did_not(self, monkeypatch: pytest.MonkeyPatch) -> None:
        choice = self.choose(monkeypatch, "auto", "tensorrt")
        assert choice.backend.name == "onnxruntime"
        assert choice.says == "backend onnxruntime, as TensorRT cannot be used: the driver finds no GPU"
        assert "\n" not in choice.says

    def test_a_named_one_never_falls_back(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with pytest.raises(QdbevError, match="the driver finds no GPU") as caught:
            self.choose(monkeypatch, "tensorrt", "tensorrt")
        assert caught.value.exit_code == ExitCode.MISSING
        assert self.choose(monkeypatch, "onnxruntime", "tensorrt").backend.name == "onnxruntime"

    def test_auto_with_neither(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with pytest.raises(QdbevError):
            self.choose(monkeypatch, "auto", "tensorrt", "onnxruntime")

    def test_an_unknown_one(self) -> None:
        with pytest.raises(QdbevError, match="unknown backend 'openvino'") as caught:
            backends.choose("openvino")
        assert caught.value.exit_code == ExitCode.USAGE
