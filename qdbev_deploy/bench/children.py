"""Other processes of the benchmark, from the parent's side: one JSON document a line, and none outlives its parent."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import IO, Any

from qdbev_deploy.bench import samples as sample_library
from qdbev_deploy.bench.samples import SampleRequest, Samples
from qdbev_deploy.contract import VariantSpec
from qdbev_deploy.errors import ExitCode, QdbevError

_LAST_WORDS = 2000  # characters of what a process said before it died


class Child:
    """A process that runs one action of `bench.child`. Leaving the context ends it."""

    def __init__(self, request: dict[str, Any]) -> None:
        self._said: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  closed in __exit__
        self._action = str(request["action"])
        self._process = subprocess.Popen(
            [sys.executable, "-m", "qdbev_deploy.bench.child"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=self._said, text=True,
        )  # fmt: skip
        self.tell(request)

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except OSError:  # what was not yet read by the one that is gone
                    continue
        self._said.close()

    @property
    def pid(self) -> int:
        return self._process.pid

    def tell(self, message: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(message) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._death() from None

    def expect(self, event: str) -> dict[str, Any]:
        """The next message, which must be of that kind; the child's own error is raised here."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise self._death()
        message: dict[str, Any] = json.loads(line)
        if message["event"] == "error":
            error = message["error"]
            raise QdbevError(
                error["found"], error["needed"], error["next_step"], exit_code=ExitCode(error["exit_code"])
            )  # fmt: skip
        if message["event"] != event:
            raise RuntimeError(f"a benchmark process said '{message['event']}' where '{event}' was due")
        return message

    def _death(self) -> QdbevError:
        code = self._process.wait()
        self._said.seek(0)
        words = " ".join(self._said.read().decode(errors="replace")[-_LAST_WORDS:].split())
        return QdbevError(
            f"the benchmark's process '{self._action}' ended with exit code {code}" + (f": {words}" if words else ""),
            "a process that lives as long as it is needed; one that was killed most often ran out of memory",
            "free memory, or ask for fewer frames or instances",
            exit_code=ExitCode.MISSING,
        )


def prepare_samples(request: SampleRequest, spec: VariantSpec, image_form: str, folder: Path) -> Samples:
    """Frames made by a process of their own, so that its libraries and their memory are not in what is measured."""
    message = {
        "action": "frames", "request": vars(request), "spec": spec.to_dict(), "image": image_form, "out": str(folder),
    }  # fmt: skip
    with Child(message) as child:
        child.expect("result")
    return sample_library.load(folder)
