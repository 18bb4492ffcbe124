"""What a benchmark does only so that measured times are true, and what scripted times do not need."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from qdbev_deploy.bench import overhead


@pytest.fixture(autouse=True, scope="session")
def without_what_only_real_time_needs() -> Iterator[None]:
    """Collecting the heap of a whole test run, and emptying caches, take longer than a scripted benchmark."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gc, "collect", lambda *_: 0)
        patch.setattr(overhead, "_EVICTED_BYTES", 1 << 12)
        yield
