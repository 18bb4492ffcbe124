"""One cold start, timed from inside: interpreter, imports, verification, load, first frame. Run as a program."""

import time

_STARTED_NS = time.perf_counter_ns()

import json  # noqa: E402
import sys  # noqa: E402


def main() -> int:
    from pathlib import Path

    from qdbev_deploy.boxes import decode
    from qdbev_deploy.engine import Bundle
    from qdbev_deploy.engine.interface import StreamOptions
    from qdbev_deploy.errors import QdbevError

    imported_ns = time.perf_counter_ns()
    request = json.loads(sys.argv[1])
    try:
        bundle = Bundle.open(request["bundle"])
        spec = bundle.spec
        verified_ns = time.perf_counter_ns()
        with bundle.session(StreamOptions(**request["options"])) as session:
            loaded_ns = time.perf_counter_ns()

            # A camera has its frame in memory already: reading it from a file is no part of the start.
            from qdbev_deploy.bench.samples import load

            frame = load(Path(request["samples"])).frames[0]
            read_ns = time.perf_counter_ns()
            output = session.step(frame.image, frame.lidar2img, frame.ego, frame.scene)
            boxes = decode(output.classes, output.coords, spec)
            done_ns = time.perf_counter_ns()
    except QdbevError as error:
        print(json.dumps({"error": error.to_dict()}))
        return int(error.exit_code)
    moments = {
        "started": _STARTED_NS, "imported": imported_ns, "verified": verified_ns, "loaded": loaded_ns,
        "read": read_ns, "done": done_ns,
    }  # fmt: skip
    print(json.dumps({"moments_ns": moments, "boxes": len(boxes)}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
