"""What TensorRT says: its errors are kept, so that the sentence that explains a failure is in the failure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from qdbev_deploy.errors import ExitCode, QdbevError

_KEPT = 50  # a failing build repeats itself
_WARNINGS = 3  # the last ones, where no error says why

_logs: dict[Any, Log] = {}  # by TensorRT module


class Log:
    """The lines of one TensorRT; `logger` is what its functions take."""

    def __init__(self, trt: Any) -> None:
        self._errors: list[str] = []
        self._warnings: list[str] = []
        keep, warnings = self._errors, self._warnings
        severity = trt.ILogger.Severity
        serious = (severity.ERROR, severity.INTERNAL_ERROR)

        class Logger(trt.ILogger):  # type: ignore[misc]
            def __init__(self) -> None:
                trt.ILogger.__init__(self)

            def log(self, severity: Any, msg: str) -> None:
                if severity in serious and len(keep) < _KEPT and msg not in keep:
                    keep.append(msg)
                elif severity == trt.ILogger.Severity.WARNING:
                    warnings[:] = [*warnings[1 - _WARNINGS :], msg]

        self.logger: Any = Logger()

    def take(self) -> list[str]:
        """The errors since the last call; where there were none, the last warnings."""
        taken = list(self._errors or self._warnings)
        self._errors.clear()
        self._warnings.clear()
        return taken

    def made(self, what: str, make: Callable[[], Any]) -> Any:
        """One of TensorRT's objects. Where it cannot make one, its bindings raise a TypeError that says nothing."""
        self.take()
        try:
            return make()
        except TypeError as error:
            if "nullptr" not in str(error):
                raise
            raise self.failure(
                f"TensorRT made no {what}",
                "a GPU that it can use, with a driver that is new enough for it",
                "qdbev-deploy doctor --for tensorrt",
                exit_code=ExitCode.MISSING,
            ) from error

    def failure(
        self, what: str, needed: str, next_step: str, *, exit_code: ExitCode = ExitCode.BAD_INPUT
    ) -> QdbevError:
        """`what`, with what TensorRT said of it."""
        said = "; ".join(line.strip().rstrip(".") for line in self.take())
        return QdbevError(f"{what}: {said}" if said else what, needed, next_step, exit_code=exit_code)


def log_of(trt: Any) -> Log:
    """The one log of a process: TensorRT wants one logger for all of its objects."""
    if trt not in _logs:
        _logs[trt] = Log(trt)
    return _logs[trt]
