"""Benchmark documents made by hand, to the schema of `bench`."""

from __future__ import annotations

from typing import Any

import numpy as np


def bench_document(count: int = 2000, **changed: Any) -> dict[str, Any]:
    """A plausible run; a keyword replaces a top-level part."""
    rng = np.random.default_rng(7)
    samples = [float(value) for value in 31.0 + rng.gamma(2.0, 0.35, count)]
    samples[count // 3] = 58.25
    ordered = sorted(samples)

    def percentile(fraction: float, needed: int) -> dict[str, Any]:
        value = ordered[min(int(fraction * count), count - 1)]
        return {"value": value, "low": value * 0.995, "high": value * 1.01, "needed": needed, "enough": count >= needed}

    edges = [float(edge) for edge in np.histogram_bin_edges(samples, 60)]
    counts = [int(number) for number in np.histogram(samples, edges)[0]]
    document: dict[str, Any] = {
        "schema": "qdbev-bench/1",
        "tool": "qdbev-deploy 0.1.0",
        "date": "2026-11-20T11:30:00Z",
        "command": ["qdbev-deploy", "bench", "student.qdbev", "--frames", str(count)],
        "system": {"cpu": "A CPU", "cores": 8, "memory_bytes": 32_000_000_000, "os": "Linux", "gpu": None,
                   "versions": {"onnxruntime": "1.31.0", "python": "3.11"}},
        "bundle": {"name": "student", "manifest_sha256": "ab" * 32, "variant": "micro", "backend": "tensorrt",
                   "precision": "int8", "emulated": False, "precision_note": "", "image": "float32", "io": "fp32",
                   "engine_bytes": 6_400_000},
        "scenario": {"name": "stream", "options": {"rate_hz": 20, "confidence": 0.95},
                     "data": {"kind": "sequence", "source": "two scenes of a nuScenes", "frames": count, "resets": 2}},
        "warmup": {"frames": 30},
        "repeats": 3,
        "by_repeat": {"frames": [count - 2 * (count // 3), count // 3, count // 3], "medians_ms": [31.0, 31.1, 31.0],
                      "spread": 0.003},
        "partial": False,
        "latency_ms": {
            "samples": samples,
            "summary": {"count": count, "mean": float(np.mean(samples)), "std": float(np.std(samples)), "cov": 0.02,
                        "min": ordered[0], "p50": percentile(0.5, 30), "p90": percentile(0.9, 100),
                        "p95": percentile(0.95, 200), "p99": percentile(0.99, 1000),
                        "p99.9": percentile(0.999, 10_000), "max": ordered[-1]},
            "histogram": {"edges": edges, "counts": counts},
        },
        "stages_ms": {"host_prep": {"p50": 0.4, "mean": 0.41, "p99": 0.7, "max": 0.9}, "h2d": {"p50": 0.8, "p99": 1.0},
                      "preprocess": None, "enqueue": {"p50": 0.2}, "compute": {"p50": 29.0, "p99": 31.0},
                      "d2h": {"p50": 0.1}, "decode": {"p50": 0.9}},
        "stream": {"rate_hz": 20, "deadline_ms": 50.0, "arrived": count, "processed": count - 3, "dropped": 3,
                   "misses": 1},
        "memory": {"engine": {"weights_bytes": 6_000_000, "context_bytes": None, "io_bytes": 9_000_000},
                   "host": {"rss_bytes": 380_000_000, "peak_bytes": 410_000_000,
                            "growth": {"bytes_per_1000_frames": 812.0, "low": -3000.0, "high": 4600.0,
                                       "shown": False}},
                   "device": None,
                   "why_not": {"engine.context_bytes": "the backend cannot tell", "device": "no NVML"}},
        "power": {"sources": [], "why_not": {"RAPL": "the kernel does not let it be read"}},
        "overhead_us": {"mean": 12.0},
        "stability": {"stable": True, "reasons": []},
        "layers": [
            {"name": f"pts_bbox_head.transformer.encoder.layers.{i // 6}.ffns.0.layers.{i}/Gemm", "kind": "Gemm",
             "precision": ("int8", "float16", "", "mixed")[i % 4], "time_ms": 2.0 / (i + 1)}
            for i in range(60)
        ],
    }  # fmt: skip
    return {**document, **changed}
