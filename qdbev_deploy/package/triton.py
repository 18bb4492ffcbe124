"""A bundle as a model repository of the Triton Inference Server: the server keeps prev_bev for each sequence.

Read in Triton's sources (core, tensorrt_backend, onnxruntime_backend) and followed here:

- Shapes are static and their leading 1 belongs to them, so max_batch_size is 0 and dims are whole shapes.
- A sequence's state is implicit: what bev_embed was becomes prev_bev of the sequence's next request, and stays
  where the backend put it. Input and output have a buffer each (use_same_buffer_for_input_output stays false), as
  the graph reads prev_bev in more than one place.
- CONTROL_SEQUENCE_START is true on a sequence's first request. use_prev_bev is its opposite: 0 there and 1 after, so
  fp32_false_true is [1, 0]. A control has the shape [1]: a flag without axes (--io mlperf) cannot be one.
- The strategy `oldest` lets many sequences share an instance, each waiting its turn; with `direct` and no batching an
  instance would belong to one sequence until it ends.
- A sequence that is idle for longer than max_sequence_idle_microseconds, by the server's clock, is dropped: its next
  request is refused unless it has START. Our session goes by the time stamps of the frames; the client joins the two.
- ONNX Runtime's backend sets no session.disable_quant_qdq, by which a bundle keeps Q/DQ from being rewritten, and its
  graph levels are -1 (basic), 1 (extended), 2 (none) and otherwise all. Every one but 2 rewrites Q/DQ, so that emulated
  int8 is served with 2: the file as it stands.
"""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from qdbev_deploy.contract import TensorSpec
from qdbev_deploy.engine.bundle import Bundle
from qdbev_deploy.engine.documents import CONTRACT, SUFFIX
from qdbev_deploy.errors import ExitCode, QdbevError
from qdbev_deploy.files import atomic_output
from qdbev_deploy.graph.files import sha256_of
from qdbev_deploy.package.readme import operator_readme
from qdbev_deploy.package.text_format import Message, Symbol, text_format
from qdbev_deploy.streaming import MAX_GAP_S

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_TYPES = {"float32": "TYPE_FP32", "float16": "TYPE_FP16", "uint8": "TYPE_UINT8"}
# (platform, the file that its backend looks for in a version's folder)
_PLATFORMS = {"tensorrt": ("tensorrt_plan", "model.plan"), "onnxruntime": ("onnxruntime_onnx", "model.onnx")}
_AS_IT_STANDS = 2  # the graph level at which ONNX Runtime's backend optimises nothing


@dataclass(frozen=True)
class TritonOptions:
    """How the server is to run it."""

    name: str | None = None  # of the model; None: the bundle's without its ending
    sequences: int = 8  # that may be open at the same time
    max_idle_s: float = MAX_GAP_S  # after which a sequence is forgotten


@dataclass(frozen=True)
class Repository:
    """What was written."""

    path: Path
    model: str
    files: tuple[str, ...]  # relative to the path


def write_triton(bundle: Bundle, out: str | os.PathLike[str], options: TritonOptions = TritonOptions()) -> Repository:
    """Write the repository; it appears whole or not at all. `bundle` was verified when it was opened."""
    target = Path(out)
    name = options.name if options.name is not None else bundle.name.removesuffix(SUFFIX)
    _require_options(bundle, options, name)
    _require_free(target)
    platform, engine_name = _PLATFORMS[bundle.backend]
    with atomic_output(target) as folder:
        version = folder / name / "1"
        version.mkdir(parents=True)
        _copy(bundle, bundle.engine_path.name, version / engine_name)
        plugins = [str(item) for item in bundle.manifest["extra_files"]]
        for plugin in plugins:
            _copy(bundle, plugin, version / plugin)
        config = text_format(triton_config(bundle, name, options))
        (folder / name / "config.pbtxt").write_text(f"# {platform}, made by qdbev-deploy package\n{config}", "utf-8")
        _copy(bundle, CONTRACT, folder / name / CONTRACT)
        (folder / "README.md").write_text(operator_readme(bundle, name, plugins, options.max_idle_s), "utf-8")
        _require_free(target)  # somebody else may have filled it meanwhile
        files = tuple(sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()))
    return Repository(target, name, files)


def _copy(bundle: Bundle, name: str, target: Path) -> None:
    """Copy a file of the bundle, and verify the copy: the original may have changed since the bundle was opened."""
    shutil.copyfile(bundle.path / name, target)
    if sha256_of(target) != bundle.manifest["files"][name]["sha256"]:
        raise QdbevError(
            f"{bundle.name}: {name} was changed while it was packaged", "a bundle that nobody writes to",
            "run the command again",
        )  # fmt: skip


def _require_options(bundle: Bundle, options: TritonOptions, name: str) -> None:
    def refuse(found: str, needed: str, next_step: str) -> QdbevError:
        return QdbevError(found, needed, next_step, exit_code=ExitCode.USAGE)

    if not _NAME.fullmatch(name):
        raise refuse(
            f"the model name {name!r}", "letters, digits, '_', '-' and '.', as a folder's name", "pass --name student"
        )
    if not 1 <= options.sequences <= 100_000:
        raise refuse(f"--sequences {options.sequences}", "1 to 100000", "pass how many vehicles are served at a time")
    if not 0.001 <= options.max_idle_s <= 86_400:
        raise refuse(f"--max-idle {options.max_idle_s:g}", "0.001 to 86400 seconds", "pass --max-idle 2")
    if bundle.io == "mlperf":
        raise QdbevError(
            f"{bundle.name} takes use_prev_bev as a tensor without axes (--io mlperf)",
            "a flag of shape [1], the only one that Triton gives to a model",
            "qdbev-deploy export --checkpoint student.pt --io fp32 -o student.onnx, and build that",
        )


def _require_free(target: Path) -> None:
    if target.is_symlink() or (target.exists() and (not target.is_dir() or any(target.iterdir()))):
        raise QdbevError(
            f"{target} is there and is not empty", "a free name or an empty folder",
            "choose another folder with --triton, or remove it yourself",
        )  # fmt: skip


def triton_config(bundle: Bundle, name: str, options: TritonOptions) -> Message:
    """config.pbtxt as a message of Triton's model_config.proto."""
    image, state, flag, can_bus, lidar2img = bundle.inputs
    new_state, *heads = bundle.outputs
    on_gpu = bundle.backend == "tensorrt" or bundle.manifest["build"]["opens_with"].get("provider", "").startswith(
        "CUDA"
    )
    fields: list[tuple[str, object]] = [
        ("name", name),
        ("platform", _PLATFORMS[bundle.backend][0]),
        ("max_batch_size", 0),
        ("input", [_tensor(spec) for spec in (image, can_bus, lidar2img)]),
        ("output", [_tensor(spec) for spec in heads]),
        ("sequence_batching", (
            ("max_sequence_idle_microseconds", round(options.max_idle_s * 1e6)),
            ("oldest", (("max_candidate_sequences", options.sequences),)),
            ("control_input", [(
                ("name", flag.name),
                ("control", [(("kind", Symbol("CONTROL_SEQUENCE_START")), ("fp32_false_true", [1, 0]))]),
            )]),
            ("state", [(
                ("input_name", state.name),
                ("output_name", new_state.name),
                ("data_type", Symbol(_TYPES[state.dtype])),
                ("dims", list(state.shape)),
                # Not read, as use_prev_bev is 0 on a first frame; memory that was never written is nobody's business.
                ("initial_state", [(
                    ("data_type", Symbol(_TYPES[state.dtype])),
                    ("dims", list(state.shape)),
                    ("zero_data", True),
                    ("name", "before the first frame"),
                )]),
            )]),
        )),
        ("instance_group", [(("count", 1), ("kind", Symbol("KIND_GPU" if on_gpu else "KIND_CPU")))]),
        ("version_policy", (("latest", (("num_versions", 1),)),)),
    ]  # fmt: skip
    if bundle.manifest["precision"].get("emulated"):
        fields.append(("optimization", (("graph", (("level", _AS_IT_STANDS),)),)))
    thread_count = bundle.manifest["build"]["options"].get("threads")
    if thread_count:
        threads = (("key", "intra_op_thread_count"), ("value", (("string_value", str(thread_count)),)))
        fields.append(("parameters", [threads]))
    return tuple(fields)


def _tensor(spec: TensorSpec) -> Message:
    return (("name", spec.name), ("data_type", Symbol(_TYPES[spec.dtype])), ("dims", list(spec.shape)))
