"""What every benchmark writes beside its numbers: the machine, the versions, the command."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shlex
import statistics
import sys
import time
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from qdbev_deploy.files import atomic_output

RESULTS = Path(__file__).parent / "results"
_PACKAGES = ("qdbev-deploy", "numpy", "torch", "onnx", "onnxruntime", "tensorrt", "opencv-python-headless")


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith(("model name", "Model")):
            return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def command() -> str:
    """The command line that runs this benchmark, without this machine's paths."""
    return shlex.join(["python", *sys.orig_argv[1:]])


def previous(name: str) -> dict[str, Any]:
    """The results that benchmarks/results/NAME.json holds; none where there is no such file."""
    path = RESULTS / f"{name}.json"
    return dict(json.loads(path.read_text(encoding="utf-8"))["results"]) if path.exists() else {}


def write(name: str, results: Any) -> Path:
    """Write benchmarks/results/NAME.json."""
    return write_to(RESULTS / f"{name}.json", results)


def write_to(path: Path, results: Any) -> Path:
    """Write a document of results, whole or not at all."""
    document = {
        "benchmark": path.stem,
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
        "command": command(),
        "machine": {"cpu": _cpu(), "cores": len(os.sched_getaffinity(0)), "system": platform.system()},
        "versions": _versions(),
        "results": results,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_output(path) as partial:
        partial.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    return path


def timed_ms(action: Callable[[], Any], *, runs: int, warmup: int = 1) -> dict[str, float]:
    """Median, minimum and maximum wall time of `action` in milliseconds."""
    for _ in range(warmup):
        action()
    samples = []
    for _ in range(runs):
        start = time.perf_counter()
        action()
        samples.append((time.perf_counter() - start) * 1e3)
    return {
        "median_ms": round(statistics.median(samples), 2),
        "min_ms": round(min(samples), 2),
        "max_ms": round(max(samples), 2),
        "runs": runs,
    }
