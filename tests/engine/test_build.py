"""From a file to a bundle: what is refused, what a failed guard or proof leaves, interruptions, races."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from qdbev_deploy.engine import Bundle, build
from qdbev_deploy.engine.guard import Allowance
from qdbev_deploy.engine.interface import BuildOptions, BuildResult, Layer
from qdbev_deploy.engine.onnxruntime import OnnxRuntimeBackend
from qdbev_deploy.errors import ExitCode, QdbevError
from qdbev_deploy.export import export_onnx
from qdbev_deploy.graph.float_baseline import float_copy
from tests.drive import frames
from tests.engine.students import SPEC, Students
from tests.export.students import PLAIN, student


def built(path: Path, out: Path, **options: Any) -> Bundle:
    return build(path, out, **{"backend": "onnxruntime", "verify": False, **options})


def saved(students: Students, tmp_path: Path, change: Callable[[onnx.ModelProto], object]) -> Path:
    model = onnx.load(students.onnx)
    change(model)
    path = tmp_path / "changed.onnx"
    onnx.save(model, path)
    return path


def refused(path: Path, match: str, code: ExitCode = ExitCode.BAD_INPUT, **options: Any) -> QdbevError:
    """The build is refused, and nothing is left beside the file."""
    before = sorted(path.parent.iterdir())
    with pytest.raises(QdbevError, match=match) as caught:
        built(path, path.parent / "out.qdbev", **options)
    assert caught.value.exit_code == code
    assert sorted(path.parent.iterdir()) == before
    return caught.value


class TestTheFile:
    def test_int8_without_qdq(self, students: Students, tmp_path: Path) -> None:
        path = tmp_path / "float.onnx"
        onnx.save(float_copy(onnx.load(students.onnx)), path)
        error = refused(path, "float.onnx holds no QuantizeLinear")
        assert error.next_step == (
            f"qdbev-deploy calibrate --onnx {path} --recipe w8a8 --dataroot DIR -o {tmp_path}/float-int8.onnx && "
            f"qdbev-deploy build --onnx {tmp_path}/float-int8.onnx --int8"
        )

    def test_broken_files(self, students: Students, tmp_path: Path) -> None:
        path = tmp_path / "a.onnx"
        with pytest.raises(QdbevError, match="there is no file"):
            built(path, tmp_path / "out.qdbev")
        path.write_bytes(students.onnx.read_bytes()[:-100])
        refused(path, "is no whole ONNX file")
        path.write_text("{}")
        refused(path, "a.onnx")

    def test_inputs_of_another_contract(self, students: Students, tmp_path: Path) -> None:
        def rename(model: onnx.ModelProto) -> None:
            model.graph.input[3].name = "canbus"
            for node in model.graph.node:
                for index, name in enumerate(node.input):
                    node.input[index] = "canbus" if name == "can_bus" else name

        refused(
            saved(students, tmp_path, rename), r"has as input 4 'canbus', float32 \[18\]. Needed: input 4 'can_bus'"
        )

        def swap(model: onnx.ModelProto) -> None:
            inputs = list(model.graph.input)
            del model.graph.input[:]
            model.graph.input.extend([inputs[0], inputs[1], inputs[3], inputs[2], inputs[4]])

        refused(saved(students, tmp_path, swap), "has as input 3 'can_bus'")

        def shrink(model: onnx.ModelProto) -> None:
            model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 5

        refused(saved(students, tmp_path, shrink), r"has as input 1 'image', float32 \[1, 5, 3,")

        def dynamic(model: onnx.ModelProto) -> None:
            model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "batch"

        refused(saved(students, tmp_path, dynamic), r"'image', float32 \['batch', 6,")

        def retype(model: onnx.ModelProto) -> None:
            model.graph.output[1].type.tensor_type.elem_type = TensorProto.FLOAT16

        refused(saved(students, tmp_path, retype), "has as output 2 'outputs_classes', float16")

        def fewer(model: onnx.ModelProto) -> None:
            del model.graph.output[2]

        refused(saved(students, tmp_path, fewer), "has 2 outputs. Needed: output 3 'outputs_coords'")

        def more(model: onnx.ModelProto) -> None:
            model.graph.node.append(helper.make_node("Identity", ["use_prev_bev"], ["extra"], name="extra"))
            model.graph.output.append(helper.make_tensor_value_info("extra", TensorProto.FLOAT, [1]))

        refused(saved(students, tmp_path, more), "has a further output 'extra'")

    def test_a_file_that_does_not_say_its_variant(self, students: Students, tmp_path: Path) -> None:
        def forget(model: onnx.ModelProto) -> None:
            del model.metadata_props[:]

        path = saved(students, tmp_path, forget)
        error = refused(path, "does not say which variant it is")
        assert "--variant" in error.next_step
        refused(path, r"has as input 1 'image'.*variant 'tiny'", variant="tiny")
        refused(path, "unknown variant 'huge'", variant="huge")
        refused(students.onnx, "is a 'short'.*as --variant says", variant="tiny")

        def lie(model: onnx.ModelProto) -> None:
            helper.set_model_props(model, {"qdbev.variant": "[1, 2"})

        refused(saved(students, tmp_path, lie), "is no specification")

    def test_a_foreign_file_is_built_by_its_variant(
        self, students: Students, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """No metadata, nodes without names, no shapes of what lies within."""

        def forget(model: onnx.ModelProto) -> None:
            del model.metadata_props[:]
            del model.graph.value_info[:]
            for node in model.graph.node:
                node.name = ""

        monkeypatch.setitem(__import__("qdbev_deploy.contract", fromlist=["VARIANTS"]).VARIANTS, "short", SPEC)
        found = built(
            saved(students, tmp_path, forget), tmp_path / "out.qdbev", variant="short", verify=True,
            frames=students.drive,
        )  # fmt: skip
        assert found.manifest["parity"]["passed"] is True
        assert found.manifest["precision"]["asked_int8"] == students.bundle.manifest["precision"]["asked_int8"]
        assert "--variant short" in found.manifest["build"]["command"]

    def test_a_file_that_breaks_rules(self, students: Students, tmp_path: Path) -> None:
        def strip(model: onnx.ModelProto) -> None:
            del model.functions[:]

        error = refused(
            saved(students, tmp_path, strip), r"breaks \d+ rules of ort: \[missing-function\]", ExitCode.GUARD
        )
        assert "qdbev-deploy check" in error.next_step


class TestBaselines:
    def test_fp32_of_a_quantised_file_goes_without_its_grid(self, students: Students, tmp_path: Path) -> None:
        found = built(students.onnx, tmp_path / "base.qdbev", precision="fp32", verify=True, frames=students.drive)
        model = onnx.load(found.engine_path)
        assert not {"QuantizeLinear", "DequantizeLinear"} & {node.op_type for node in model.graph.node}
        precision = found.manifest["precision"]
        assert (precision["precision"], precision["asked_int8"], precision["emulated"]) == ("fp32", 0, False)
        assert found.manifest["parity"]["reference"] == "ONNX Runtime on the file without its Q/DQ"
        assert found.manifest["parity"]["passed"] is True

    def test_mlperf_io(self, tmp_path: Path) -> None:
        """use_prev_bev without axes and every decoder layer's outputs, as that harness feeds and reads them."""
        model, recipe = student(PLAIN)
        drive = list(frames(PLAIN, count=4))
        outputs = []
        for io in ("mlperf", "fp32"):
            path = tmp_path / f"{io}.onnx"
            export_onnx(model, path, recipe=recipe, verify=False, io=io)
            bundle = built(path, tmp_path / f"{io}.qdbev", verify=True, frames=drive)
            assert bundle.io == io
            with bundle.session() as session:
                outputs.append([session.step(frame.image, frame.lidar2img, frame.ego, frame.scene) for frame in drive])
            layers, flag = (PLAIN.decoder_layers, ()) if io == "mlperf" else (1, (1,))
            assert bundle.inputs[2].shape == flag
            assert [item.shape[0] for item in bundle.outputs[1:]] == [layers, layers]
        for every, last in zip(*outputs, strict=True):
            np.testing.assert_allclose(every.classes[-1:], last.classes, atol=1e-4)
            np.testing.assert_allclose(every.coords[-1:], last.coords, atol=1e-4)

    def test_a_file_of_mlperf_io_with_one_layer_is_refused(self, tmp_path: Path) -> None:
        model, recipe = student(PLAIN)
        path = tmp_path / "mlperf.onnx"
        export_onnx(model, path, recipe=recipe, verify=False, io="mlperf")
        proto = onnx.load(path)
        proto.graph.output[1].type.tensor_type.shape.dim[0].dim_value = 1
        onnx.save(proto, path)
        refused(path, r"as output 2 'outputs_classes', float32 \[1, 1, \d+, 10\].*io mlperf.*this release's")


class TestWhatFails:
    def test_what_onnx_runtime_leaves_in_float_fails_the_guard(self, students: Students, tmp_path: Path) -> None:
        with pytest.raises(QdbevError, match="did not run in it") as caught:
            built(students.onnx, tmp_path / "out.qdbev", fused=True)
        assert caught.value.exit_code == ExitCode.GUARD
        assert "out.guard.json" in caught.value.next_step
        assert [path.name for path in tmp_path.iterdir()] == ["out.guard.json"]
        report = json.loads((tmp_path / "out.guard.json").read_text(encoding="utf-8"))
        assert report["schema"] == "qdbev-guard/1"
        assert report["passed"] is False
        assert 0 < report["ran_int8"] < report["asked_int8"]
        assert len(report["fell_back"]) == report["asked_int8"] - report["ran_int8"] - report["folded"]
        found = built(students.onnx, tmp_path / "out.qdbev", fused=True, allow=[Allowance("*", "tried on a desk")])
        assert found.manifest["precision"]["emulated"] is False
        assert found.manifest["precision"]["macs"]["int8"] > 0
        assert "--fused --allow '*:tried on a desk'" in found.manifest["build"]["command"]
        assert [path.name for path in tmp_path.iterdir()] == ["out.qdbev"]  # the old report is gone

    def test_an_engine_that_computes_otherwise_fails_the_proof(
        self, students: Students, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A convolution's weights are lost on the way into the bundle; the bisection finds it."""
        real = OnnxRuntimeBackend.build

        def broken(model: onnx.ModelProto) -> tuple[onnx.ModelProto, str]:
            model = onnx.ModelProto.FromString(model.SerializeToString())
            node = [node for node in model.graph.node if node.op_type == "Conv"][2]
            (scale,) = (n.input[1] for n in model.graph.node if n.output[0] == node.input[1])
            for tensor in model.graph.initializer:
                if tensor.name == scale:
                    tensor.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor) * 3, scale))
            return model, node.name

        def build_broken(self: Any, model: onnx.ModelProto, folder: Path, *rest: Any) -> BuildResult:
            result = real(self, model, folder, *rest)
            onnx.save(broken(model)[0], folder / "model.onnx")
            return result

        real_outputs = OnnxRuntimeBackend.outputs_of
        monkeypatch.setattr(OnnxRuntimeBackend, "build", build_broken)
        monkeypatch.setattr(
            OnnxRuntimeBackend, "outputs_of", lambda self, model, *rest: real_outputs(self, broken(model)[0], *rest)
        )
        with pytest.raises(QdbevError, match="does not compute what the file computes") as caught:
            built(students.onnx, tmp_path / "out.qdbev", verify=True, frames=students.drive, debug_parity=True)
        assert caught.value.exit_code == ExitCode.GUARD
        assert [path.name for path in tmp_path.iterdir()] == ["out.parity.json"]
        report = json.loads((tmp_path / "out.parity.json").read_text(encoding="utf-8"))
        assert report["passed"] is False
        assert report["frames"] == 8
        assert report["first_divergence"]["node"] == broken(onnx.load(students.onnx))[1]
        assert report["first_divergence"]["says"] in caught.value.found

    def test_a_layer_that_nobody_claims_fails(
        self, students: Students, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        real = OnnxRuntimeBackend.build

        def forgetful(self: Any, model: onnx.ModelProto, *rest: Any) -> BuildResult:
            result = real(self, model, *rest)
            kept = tuple(layer for layer in result.layers if "img_backbone.conv1/Conv" not in layer.nodes)
            return BuildResult(result.engine_file, kept, result.versions, opens_with=result.opens_with)

        monkeypatch.setattr(OnnxRuntimeBackend, "build", forgetful)
        with pytest.raises(QdbevError, match=r"img_backbone\.conv1/Conv \(unclaimed\)"):
            built(students.onnx, tmp_path / "out.qdbev", fused=True)

    def test_somebody_elses_reports_stay(self, students: Students, tmp_path: Path) -> None:
        """Of the same names: a folder, a file of others; they neither end a build nor are they lost."""
        (tmp_path / "out.guard.json").mkdir()
        (tmp_path / "out.parity.json").write_text('{"schema": "my own"}')
        with pytest.raises(QdbevError, match="did not run in it") as caught:
            built(students.onnx, tmp_path / "out.qdbev", fused=True)
        assert "out.guard-2.json" in caught.value.next_step
        assert json.loads((tmp_path / "out.guard-2.json").read_text(encoding="utf-8"))["passed"] is False
        built(students.onnx, tmp_path / "out.qdbev")
        assert {path.name for path in tmp_path.iterdir()} == {"out.guard.json", "out.parity.json", "out.qdbev"}
        assert (tmp_path / "out.parity.json").read_text() == '{"schema": "my own"}'

    def test_a_report_that_cannot_be_removed_fails_no_build(
        self, students: Students, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        report = tmp_path / "out.guard.json"
        report.write_text('{"schema": "qdbev-guard/1"}')
        real = Path.unlink

        def unlink(self: Path, missing_ok: bool = False) -> None:
            if self == report:
                raise PermissionError(13, "Permission denied", str(self))
            real(self, missing_ok=missing_ok)

        monkeypatch.setattr(Path, "unlink", unlink)
        assert built(students.onnx, tmp_path / "out.qdbev").path.is_dir()

    def test_what_is_not_proved_is_said(self, students: Students, tmp_path: Path) -> None:
        found = built(students.onnx, tmp_path / "out.qdbev")
        assert found.manifest["parity"]["passed"] is None
        assert any("state" in claim for claim in found.manifest["parity"]["not_proved"])
        assert not (found.path / "parity.json").exists()
        assert found.layers[0].time_ms is None

    def test_too_few_frames(self, students: Students, tmp_path: Path) -> None:
        with pytest.raises(QdbevError, match="3 frames") as caught:
            built(students.onnx, tmp_path / "out.qdbev", verify=True, frame_count=3)
        assert caught.value.exit_code == ExitCode.USAGE


class TestTheName:
    def test_only_a_bundle_is_replaced(self, students: Students, tmp_path: Path) -> None:
        folder = tmp_path / "mine.qdbev"
        folder.mkdir()
        (folder / "thesis.txt").write_text("years of work")
        for _ in range(2):
            with pytest.raises(QdbevError, match="is there and is no bundle"):
                built(students.onnx, folder)
            assert (folder / "thesis.txt").read_text() == "years of work"
            (folder / "manifest.json").write_text('{"schema": "something else"}')
        link = tmp_path / "link.qdbev"
        link.symlink_to(folder)
        with pytest.raises(QdbevError, match="is there and is no bundle"):
            built(students.onnx, link)
        file = tmp_path / "file.qdbev"
        file.touch()
        with pytest.raises(QdbevError, match="is there and is no bundle"):
            built(students.onnx, file)
        with pytest.raises(QdbevError, match=r"a name that ends with \.qdbev"):
            built(students.onnx, tmp_path / "plain")
        with pytest.raises(QdbevError, match="does not exist"):
            built(students.onnx, tmp_path / "none" / "a.qdbev")

    def test_a_bundle_is_replaced_whole(self, students: Students, tmp_path: Path) -> None:
        first = built(students.onnx, tmp_path / "a.qdbev")
        (first.path / "stale").touch()
        second = built(students.onnx, tmp_path / "a.qdbev", precision="fp32")
        assert second.manifest["build"]["options"]["precision"] == "fp32"
        assert not (second.path / "stale").exists()
        assert [path.name for path in tmp_path.iterdir()] == ["a.qdbev"]

    def test_a_name_that_is_taken_during_the_build(
        self, students: Students, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        real, out = OnnxRuntimeBackend.build, tmp_path / "a.qdbev"

        def slow(self: Any, *arguments: Any) -> BuildResult:
            out.mkdir()
            (out / "thesis.txt").touch()
            return real(self, *arguments)

        monkeypatch.setattr(OnnxRuntimeBackend, "build", slow)
        with pytest.raises(QdbevError, match="is there and is no bundle"):
            built(students.onnx, out)
        assert [path.name for path in out.iterdir()] == ["thesis.txt"]
        assert list(tmp_path.iterdir()) == [out]

    def test_a_name_that_is_taken_after_the_build(
        self, students: Students, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Another build may have replaced it, or be between its two renames: what was built is told all the same."""
        module = importlib.import_module("qdbev_deploy.engine.build")
        monkeypatch.setattr(module, "_forget", lambda path: shutil.rmtree(tmp_path / "a.qdbev", ignore_errors=True))
        found = built(students.onnx, tmp_path / "a.qdbev")
        assert found.path == tmp_path / "a.qdbev"
        assert not found.path.exists()
        assert found.manifest["parity"]["passed"] is None

    def test_the_default_is_the_files_name_here(
        self, students: Students, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        found = build(students.onnx, backend="onnxruntime", verify=False)
        assert found.path == Path("student.qdbev")
        assert (tmp_path / "student.qdbev" / "manifest.json").is_file()


COMMAND = [sys.executable, "-m", "qdbev_deploy.cli", "build", "--int8", "--backend", "onnxruntime", "--frames", "4"]
ALONE = {**os.environ, "OMP_NUM_THREADS": "1"}


@pytest.mark.parametrize(
    ("moment", "number", "times"),
    [
        ("at once", signal.SIGINT, 1), ("engine built", signal.SIGTERM, 1), ("parity", signal.SIGINT, 3),
        ("sealing", signal.SIGHUP, 1),
    ],
)  # fmt: skip
def test_a_signal_leaves_nothing(
    students: Students, tmp_path: Path, moment: str, number: signal.Signals, times: int
) -> None:
    """At any moment of the build, however often; a bundle that stood there stays as it was."""
    script = (
        "import contextlib, pathlib, signal, sys, time\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell's background job ignores it otherwise
        "from qdbev_deploy import cli\n"
        "import qdbev_deploy.engine.build\n"
        "module = sys.modules['qdbev_deploy.engine.build']\n"
        "def wait(*arguments, **more):\n"
        "    pathlib.Path(sys.argv[1]).touch()\n"
        "    try:\n"
        "        time.sleep(60)\n"
        "    finally:\n"
        "        time.sleep(0.3)\n"  # what tidies up takes its time, and is not disturbed
        "module._frames_for = lambda *_: contextlib.nullcontext(('noise', iter(())))\n"
        "moment = sys.argv[2]\n"
        "if moment == 'at once': module.read_source = wait\n"
        "if moment == 'engine built': module.judge = wait\n"
        "if moment == 'parity': module.prove = wait\n"
        "if moment == 'sealing': module.seal = wait\n"
        "sys.exit(cli.main(sys.argv[3:]))\n"
    )
    work = tmp_path / "work"
    work.mkdir()
    old = shutil.copytree(students.bundle.path, work / "out.qdbev")
    before = {path.name: path.read_bytes() for path in old.iterdir()}
    reached = tmp_path / "reached"
    scratch = tmp_path / "tmp"
    scratch.mkdir()
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(reached), moment, *COMMAND[3:], "--onnx", str(students.onnx),
         "-o", str(work / "out.qdbev"), *([] if moment == "parity" else ["--no-verify"])],
        stderr=subprocess.PIPE, env={**ALONE, "TMPDIR": str(scratch)}, text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while not reached.exists() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.05)
    for _ in range(times):
        process.send_signal(number)
        time.sleep(0.1)
    _, errors = process.communicate(timeout=60)
    assert reached.exists(), errors
    assert process.returncode == 128 + number, errors
    assert "Traceback" not in errors
    assert not list(scratch.iterdir())
    assert [path.name for path in work.iterdir()] == ["out.qdbev"]
    assert {path.name: path.read_bytes() for path in old.iterdir()} == before


def test_two_builds_into_one_name(students: Students, tmp_path: Path) -> None:
    """Whoever is last has it, whole; nothing of the other is left."""
    command = [*COMMAND, "--no-verify", "--onnx", str(students.onnx), "-o", str(tmp_path / "out.qdbev")]
    both = [subprocess.Popen(command, env=ALONE, stdout=subprocess.DEVNULL) for _ in range(2)]
    assert [process.wait(timeout=120) for process in both] == [0, 0]
    assert [path.name for path in tmp_path.iterdir()] == ["out.qdbev"]
    Bundle.open(tmp_path / "out.qdbev").engine().close()


def test_options_name_every_field() -> None:
    """A field that the rebuild command forgot would be lost."""
    from qdbev_deploy.engine.build import FLAGS

    assert {"precision", *FLAGS} == set(BuildOptions.__dataclass_fields__)
    assert Layer("a", "b", "", ()).time_ms is None
