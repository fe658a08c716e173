"""A pool of threads that run one loop each; the first error ends all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager

Loop = Callable[[], None]


@contextmanager
def thread_pool(workers: int, stop: Callable[[], None]) -> Iterator[Callable[[Loop], None]]:
    """Yield what runs a loop on every worker and returns when all are done; one worker is this thread itself.

    `stop` is called when a loop raises, or this thread is interrupted: it must make the other loops end soon. The error is raised then.
    """
    if workers == 1:
        yield lambda loop: loop()
        return
    with ThreadPoolExecutor(workers, thread_name_prefix="worker") as pool:

        def together(loop: Loop) -> None:
            futures = [pool.submit(loop) for _ in range(workers)]
            try:
                done, _ = wait(futures, return_when=FIRST_EXCEPTION)
                for future in done:
                    future.result()
            except BaseException:
                stop()
                raise

        yield together
