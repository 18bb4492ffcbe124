"""The one exception the command line prints without a traceback, and the exit codes."""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum


class ExitCode(IntEnum):
    """What the process returns to the shell."""

    DONE = 0
    USAGE = 2
    BAD_INPUT = 3
    MISSING = 4  # something that this machine lacks
    GUARD = 5  # a guard or a verification failed
    INTERRUPTED = 130


class QdbevError(Exception):
    """An error a user can act on: what was found, what was needed, and what to do next.

    Each part is one sentence without its full stop; `next_step` is, where possible, a command to type.
    """

    def __init__(self, found: str, needed: str, next_step: str, *, exit_code: ExitCode = ExitCode.BAD_INPUT) -> None:
        super().__init__(found, needed, next_step)
        self.found = found
        self.needed = needed
        self.next_step = next_step
        self.exit_code = exit_code

    def __str__(self) -> str:
        return f"{self.found}. Needed: {self.needed}. Next: {self.next_step}"

    def to_dict(self) -> dict[str, str | int]:
        """The error as `--json` prints it."""
        return {
            "found": self.found,
            "needed": self.needed,
            "next_step": self.next_step,
            "exit_code": int(self.exit_code),
        }


def usage_error(command: str, found: str, needed: str) -> QdbevError:
    """Options of a command that do not fit together, or are out of range."""
    return QdbevError(found, needed, f"qdbev-deploy {command} --help", exit_code=ExitCode.USAGE)


def listed(items: Sequence[str], limit: int, separator: str = ", ") -> str:
    """The first items of a list for a sentence, and how many more there are."""
    more = f"{separator}and {len(items) - limit} more" if len(items) > limit else ""
    return separator.join(items[:limit]) + more
