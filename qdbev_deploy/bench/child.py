"""What another process of the benchmark does: make frames, run an instance, be a load, run under LoadGen."""

from __future__ import annotations

import json
import os
import select
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

from qdbev_deploy.errors import ExitCode, QdbevError

Say = Callable[[dict[str, Any]], None]


def main() -> int:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    out: TextIO = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print must not stand between our lines

    def say(message: dict[str, Any]) -> None:
        out.write(json.dumps(message) + "\n")
        out.flush()

    request = json.loads(sys.stdin.readline())
    try:
        _ACTIONS[request["action"]](request, say)
    except QdbevError as error:
        say({"event": "error", "error": error.to_dict()})
        return int(error.exit_code)
    except ModuleNotFoundError as error:
        if request["action"] != "frames":
            raise
        lacking = QdbevError(
            f"the Python package '{error.name}', with which frames are made, is not installed",
            "the extra 'data', or frames that were made on another machine",
            "pip install 'qdbev-deploy[data]'; or bench --save-samples DIR elsewhere, and --samples DIR here",
            exit_code=ExitCode.MISSING,
        )
        say({"event": "error", "error": lacking.to_dict()})
        return int(lacking.exit_code)
    return int(ExitCode.DONE)


def _frames(request: dict[str, Any], say: Say) -> None:
    from qdbev_deploy.bench.samples import SampleRequest, make_samples, save
    from qdbev_deploy.contract import VariantSpec

    spec = VariantSpec.from_dict(request["spec"])
    save(make_samples(SampleRequest(**request["request"]), spec, request["image"]), Path(request["out"]))
    say({"event": "result"})


def _parent_is_through() -> bool:
    """Whether the parent has said or closed anything since: an instance that is measured no longer may stop."""
    return bool(select.select([sys.stdin], [], [], 0)[0])


def _instance(request: dict[str, Any], say: Say) -> None:
    from qdbev_deploy.bench.clock import WallClock
    from qdbev_deploy.bench.measure import Hooks, Measurement, Plan, measure_engine, silent
    from qdbev_deploy.bench.recording import Recording
    from qdbev_deploy.bench.samples import load
    from qdbev_deploy.bench.system import System
    from qdbev_deploy.bench.watch import find_sensors
    from qdbev_deploy.engine import Bundle

    bundle = Bundle.open(request["bundle"])
    samples = load(Path(request["samples"]))
    sensors = find_sensors()

    def wait_for_all() -> None:
        say({"event": "ready"})
        sys.stdin.readline()

    def stay_busy(system: System) -> None:
        """The others are measured beside a load that goes on, also when this instance was the fastest."""
        say({"event": "measured"})
        spare = Recording(1)
        index = 0
        while not _parent_is_through():
            spare.rewind()
            system.run(index, spare)
            index += 1

    engine = bundle.engine()
    measurement: Measurement = measure_engine(
        engine, bundle, samples, Plan.from_dict(request["plan"]), WallClock(), sensors, silent,
        hooks=Hooks(wait_for_all, stay_busy),
    )  # fmt: skip
    say({"event": "result", "measurement": measurement.to_dict(), "missing": sensors.missing,
         "peak_bytes": _peak(sensors)})  # fmt: skip
    engine.close()
    sensors.close()


def _peak(sensors: Any) -> int | None:
    process = sensors.named("process memory")
    return None if process is None else process.peak_bytes()


def _burn(request: dict[str, Any], say: Say) -> None:
    from qdbev_deploy.bench.load import burn

    burn(request["on"], lambda: say({"event": "ready"}), _parent_is_through)


def _loadgen(request: dict[str, Any], say: Say) -> None:
    from qdbev_deploy.bench.loadgen import run_under_loadgen

    say({"event": "result", **run_under_loadgen(request)})


_ACTIONS: dict[str, Callable[[dict[str, Any], Say], None]] = {
    "frames": _frames, "instance": _instance, "burn": _burn, "loadgen": _loadgen,
}  # fmt: skip

if __name__ == "__main__":
    sys.exit(main())
