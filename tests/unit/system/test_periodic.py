from __future__ import annotations

import threading

import pytest

from paretopress.system.periodic import periodically


def test_periodically_goes_on_and_says_why_when_its_action_fails(caplog: pytest.LogCaptureFixture) -> None:
    done = threading.Semaphore(0)

    def fails() -> None:
        done.release()
        raise OSError("the database is away")

    with periodically(fails, 0.001):
        for _ in range(3):
            assert done.acquire(timeout=10.0)
    assert "OSError: the database is away" in caplog.records[0].getMessage()
    assert not [thread for thread in threading.enumerate() if thread.daemon and "go_on" in thread.name]
