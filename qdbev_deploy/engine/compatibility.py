"""Whether this machine can run what a bundle's manifest describes, said before anything of it is loaded."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from typing import Any

from qdbev_deploy.engine.backends import backend_named
from qdbev_deploy.errors import ExitCode, QdbevError
from qdbev_deploy.machine import cuda_driver

AMPERE = (8, 0)  # from here on a plan built with --hardware-compatible runs


def why_not_here(manifest: Mapping[str, Any]) -> QdbevError | None:
    """The reason, with the command that builds it again; None where it runs."""
    if error := backend_named(manifest["backend"]).missing():
        return error
    for check in (_processor, _gpu, _tensorrt):
        if found := check(manifest):
            what, needed = found
            command = manifest["build"].get("command", "qdbev-deploy build")
            return QdbevError(what, needed, f"build it again here: {command}", exit_code=ExitCode.MISSING)
    return None


def _processor(manifest: Mapping[str, Any]) -> tuple[str, str] | None:
    """Engines tied to a GPU come with a plugin library, which is machine code of one kind of processor."""
    machine = manifest.get("machine", platform.machine())
    if manifest["gpu"] is None or machine == platform.machine():
        return None
    return f"the engine was built on {machine}, and this is {platform.machine()}", f"a machine with {machine}"


def _gpu(manifest: Mapping[str, Any]) -> tuple[str, str] | None:
    gpu = manifest["gpu"]
    if gpu is None:
        return None
    built = tuple(gpu.get("compute_capability", ()))
    driver = cuda_driver()
    here = driver.gpus if driver else ()
    if here and here[0].compute_capability == built:
        return None
    if here and manifest["build"]["options"].get("hardware_compatible") and here[0].compute_capability >= AMPERE:
        return None
    found = f"here is {here[0].name} ({_dotted(here[0].compute_capability)})" if here else "here is no GPU"
    return (
        f"the engine was built for {gpu.get('name', 'a GPU')} (compute capability {_dotted(built)}), and {found}",
        "a GPU of the same compute capability: a plan is machine code of one",
    )


def _dotted(version: tuple[Any, ...]) -> str:
    return ".".join(map(str, version)) or "not stated"


def _tensorrt(manifest: Mapping[str, Any]) -> tuple[str, str] | None:
    built = manifest["versions"].get("tensorrt")
    if manifest["backend"] != "tensorrt" or built is None:
        return None
    from qdbev_deploy.engine.tensorrt.releases import installed_version, numbers_of

    here = installed_version()
    wrote, reads = numbers_of(str(built)), numbers_of(here or "")
    later = manifest["build"]["options"].get("version_compatible")
    # The plugin library beside the plan is for one major version, whatever the plan itself could be read by.
    if any(reads) and (reads == wrote or (later and reads[0] == wrote[0] and reads >= wrote)):
        return None
    written_by = ".".join(map(str, wrote))
    return (
        f"the engine was built with TensorRT {built}, and TensorRT {here or 'of no known version'} is here",
        f"TensorRT {written_by} or a later {wrote[0]}: so far goes --version-compatible"
        if later
        else f"TensorRT {written_by}: a plan is read by the version that wrote it",
    )
