"""Build options as TensorRT takes them; what this release or machine has no such thing for is refused."""

from __future__ import annotations

from typing import Any

from qdbev_deploy.engine.interface import BuildOptions
from qdbev_deploy.engine.tensorrt.releases import Release
from qdbev_deploy.errors import ExitCode, QdbevError

_VERBOSITY = {"none": "NONE", "names": "LAYER_NAMES_ONLY", "detailed": "DETAILED"}
MAX_OPTIMIZATION_LEVEL = 5


def refuse_foreign(options: BuildOptions) -> None:
    """Options that make sense for ONNX Runtime alone, and numbers that make sense nowhere."""
    if options.threads is not None:
        raise QdbevError("--threads with the tensorrt backend", "an option that TensorRT has", "leave --threads out",
                         exit_code=ExitCode.USAGE)  # fmt: skip
    if options.fused:
        raise QdbevError(
            "--fused with the tensorrt backend",
            "an option that TensorRT has: it always fuses Q/DQ",
            "leave --fused out",
            exit_code=ExitCode.USAGE,
        )
    if options.workspace_mb is not None and options.workspace_mb < 1:
        raise QdbevError(f"a workspace of {options.workspace_mb} MB", "at least 1 MB", "pass --workspace 2048",
                         exit_code=ExitCode.USAGE)  # fmt: skip
    level = options.optimization_level
    if level is not None and not 0 <= level <= MAX_OPTIMIZATION_LEVEL:
        raise QdbevError(
            f"optimisation level {level}",
            f"0 to {MAX_OPTIMIZATION_LEVEL}",
            "leave --opt-level out, which means 3",
            exit_code=ExitCode.USAGE,
        )
    if options.dla_core is not None and options.precision == "fp32":
        raise QdbevError("--fp32 on a DLA core", "int8 or fp16, which a DLA computes in", "leave --dla out",
                         exit_code=ExitCode.USAGE)  # fmt: skip


def refuse_unguarded(options: BuildOptions, *, quantised: bool) -> None:
    """A quantised engine that does not tell what its layers ran in: known before the minutes that it takes to build."""
    if quantised and options.profile_verbosity != "detailed":
        raise QdbevError(
            f"--profile-verbosity {options.profile_verbosity} for a quantised file",
            "detailed: without it an engine does not tell what its layers ran in, and the precision guard refuses it",
            "leave --profile-verbosity out, which means detailed",
            exit_code=ExitCode.USAGE,
        )


def refuse_dla_where_there_is_none(options: BuildOptions, release: Release) -> None:
    """DLA by release, as NVIDIA's release notes have it: until 10.7, and again on JetPack 7.2.2 from 11.4.1 on."""
    at = release.numbers
    if options.dla_core is None or at < (10, 8) or at >= (11, 4, 1):
        return
    raise QdbevError(
        f"--dla {options.dla_core} with TensorRT {release.version}, which has no DLA",
        "TensorRT up to 10.7, or 11.4.1 and later (AGX Orin, JetPack 7.2.2): those between have none",
        "leave --dla out",
        exit_code=ExitCode.MISSING,
    )


def is_strongly_typed(release: Release, options: BuildOptions) -> bool:
    """Whether types come from the file. 8.6 has flags alone, 11 types alone; of 10, DLA takes layers by flags."""
    return release.major >= 11 or (release.major == 10 and options.dla_core is None)


def tactic_mask(trt: Any, names: tuple[str, ...]) -> int:
    """The sources as the bits that TensorRT takes; a name that this release does not know is refused."""
    members = dict(trt.TacticSource.__members__)
    mask = 0
    for name in names:
        if name.upper() not in members:
            raise QdbevError(
                f"tactic source '{name}'",
                f"one of {', '.join(members)}, which TensorRT {trt.__version__} has",
                "leave --tactic-sources out, or correct it",
                exit_code=ExitCode.USAGE,
            )
        mask |= 1 << int(members[name.upper()])
    return mask


def _dla(trt: Any, builder: Any, config: Any, core: int) -> None:
    if not 0 <= core < builder.num_DLA_cores:
        raise QdbevError(
            f"DLA core {core} on a machine with {builder.num_DLA_cores}",
            "a DLA core that is there: Orin has 0 and 1, Thor and desktop GPUs none",
            "leave --dla out",
            exit_code=ExitCode.MISSING,
        )
    config.default_device_type = trt.DeviceType.DLA
    config.DLA_core = core
    config.set_flag(trt.BuilderFlag.GPU_FALLBACK)


def apply(trt: Any, builder: Any, config: Any, options: BuildOptions, release: Release, *, quantised: bool) -> None:
    """Set the options. `quantised`: the file has Q/DQ, for which flags must allow int8."""
    flags = trt.BuilderFlag
    # Float32 means float32: what is left in it is geometry, and a baseline that others are held against.
    config.clear_flag(flags.TF32)
    if not is_strongly_typed(release, options):
        if quantised:
            config.set_flag(flags.INT8)
        if options.precision != "fp32":
            config.set_flag(flags.FP16)
            config.set_flag(flags.OBEY_PRECISION_CONSTRAINTS)
    if options.workspace_mb is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_mb << 20)
    if options.optimization_level is not None:
        config.builder_optimization_level = options.optimization_level
    if options.dla_core is not None:
        _dla(trt, builder, config, options.dla_core)
    if options.version_compatible:
        config.set_flag(flags.VERSION_COMPATIBLE)
    if options.hardware_compatible:
        config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.AMPERE_PLUS
    if options.tactic_sources is not None and not config.set_tactic_sources(tactic_mask(trt, options.tactic_sources)):
        raise QdbevError(
            f"tactic sources {', '.join(options.tactic_sources) or '(none)'}",
            f"sources that TensorRT {trt.__version__} can do without the others",
            "leave --tactic-sources out",
        )
    config.profiling_verbosity = getattr(trt.ProfilingVerbosity, _VERBOSITY[options.profile_verbosity])
