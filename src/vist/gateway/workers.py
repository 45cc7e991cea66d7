"""Where requests are rewritten: in processes of their own, with a time limit.

Owns the pool of processes. Knows nothing about HTTP.

Decisions
- Drawing takes the processor. In a process of its own it cannot hold up the bytes of other requests' answers, and a
  crash of a font library costs one request its pages instead of everyone the gateway.
- A request that is not done in time goes on as it came. If its turn has not come yet, it is taken out of the queue.
- A worker ends with its server, also when the server is killed.
- Every worker has a cache of its own: pages drawn twice cost less than pages carried between processes.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool

from vist.gateway.cache import PageCache
from vist.gateway.rewrite import FAILED, Asked, Rewritten, rewrite
from vist.gateway.settings import Settings

_WARM_UP = b'{"model":"gpt-4o","messages":[{"role":"user","content":"%s"}]}' % (b"warm up " * 2000)


class Workers:
    """Rewrites requests beside the event loop; `close` ends the processes."""

    def __init__(self, settings: Settings):
        self._settings = settings
        self._work: Callable[[bytes, str, Asked], Rewritten] = _in_process
        if settings.workers == 0:
            cache = PageCache(settings.cache_bytes)
            self._work = lambda body, path, asked: rewrite(body, path, asked, settings, cache)
        self._pool = self._started()

    def _started(self) -> Executor:
        settings = self._settings
        if settings.workers == 0:
            return ThreadPoolExecutor(1, "vist-rewrite")
        context = multiprocessing.get_context("spawn")
        return ProcessPoolExecutor(settings.workers, context, _start_process, (settings,))

    def warm_up(self) -> None:
        """Let the processes load fonts and libraries before the first request comes."""
        asked = Asked(policy="keep_recent=0, step=1")
        for _ in range(max(1, self._settings.workers)):
            self._pool.submit(self._work, _WARM_UP, "/v1/chat/completions", asked)

    async def rewrite(self, body: bytes, path: str, asked: Asked) -> Rewritten:
        """Return what becomes of a request; an error or a lack of time is a value, too."""
        pool = self._pool
        try:
            future = asyncio.wrap_future(pool.submit(self._work, body, path, asked))
            return await asyncio.wait_for(future, self._settings.max_seconds)
        except TimeoutError:
            return Rewritten(FAILED, f"It was not done within {self._settings.max_seconds:g} s.")
        except (BrokenProcessPool, RuntimeError):
            if self._pool is pool:  # the first to see it
                self._pool = self._started()
                pool.shutdown(wait=False, cancel_futures=True)
            return Rewritten(FAILED, "The process that rewrites requests ended; a new one was started.")

    def close(self) -> None:
        """End the processes; what they were at is lost."""
        self._pool.shutdown(wait=False, cancel_futures=True)


_process: dict[str, tuple[Settings, PageCache]] = {}  # of a worker process, filled when it starts


def _start_process(settings: Settings) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to all processes; the server ends its workers itself
    _process["own"] = settings, PageCache(settings.cache_bytes)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _in_process(body: bytes, path: str, asked: Asked) -> Rewritten:
    settings, cache = _process["own"]
    return rewrite(body, path, asked, settings, cache)
