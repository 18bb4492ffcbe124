"""The one progress bar of all commands: on stderr, only where somebody looks at it, with the time left."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def progress_bar(
    what: str, total: int | None, *, shown: bool = True, threaded: bool = True
) -> Iterator[Callable[..., None]]:
    """Yield `update(done=None, total=None, note="")`; without `done` it counts one further.

    Not `threaded`, it is drawn by `update` alone, so that nothing runs beside what is measured.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (
        TextColumn(what), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[note]}"), TimeRemainingColumn(),
    )  # fmt: skip
    hidden = not (shown and console.is_terminal)
    with Progress(*columns, console=console, transient=True, disable=hidden, auto_refresh=threaded) as progress:
        task = progress.add_task(what, total=total, note="")

        def update(done: int | None = None, total: int | None = None, note: str = "") -> None:
            if done is None:
                progress.update(task, advance=1, note=note, refresh=not threaded)
            else:
                progress.update(task, completed=done, total=total, note=note, refresh=not threaded)

        yield update
