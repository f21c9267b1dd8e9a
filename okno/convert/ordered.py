"""Work done by several threads and handed over in order, with little of it waiting."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
MAX_THREADS = 16  # a disk keeps no more busy


def usable_threads() -> int:
    """Cores this process may use."""
    return min(MAX_THREADS, len(os.sched_getaffinity(0))
               if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)  # fmt: skip


def in_order(jobs: Iterable[Callable[[], T]], n_threads: int) -> Iterator[T]:
    """The results of `jobs`, in their order. At most 2 * n_threads results wait to be taken.

    An error of a job is raised in its turn; jobs not begun by then, or when the caller stops early,
    are dropped.
    """
    waiting: deque[Future[T]] = deque()
    with ThreadPoolExecutor(n_threads, thread_name_prefix="convert") as pool:
        try:
            for job in jobs:
                waiting.append(pool.submit(job))
                if len(waiting) > 2 * n_threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for left in waiting:
                left.cancel()
