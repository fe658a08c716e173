from __future__ import annotations

import json
import threading
from pathlib import Path

from paretopress.system.event_log import EventLog, read_events


def test_event_log_keeps_lines_whole_when_threads_write_at_once(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "log.jsonl")
    threads = [threading.Thread(target=lambda n=n: [log("trial", {"trial": n, "text": "é" * 500}) for _ in range(50)]) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    events = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert sorted(event["trial"] for event in events) == sorted(list(range(4)) * 50)
    assert {event["event"] for event in events} == {"trial"}


def test_read_events_passes_a_torn_line_over(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    EventLog(path)("started", {"trials": 0})
    with path.open("a") as file:
        file.write('{"event": "tri')
    assert [event["event"] for event in read_events(path)] == ["started"]
    assert read_events(tmp_path / "none") == []


def test_event_log_costs_nothing_but_the_line_when_it_cannot_write(tmp_path: Path) -> None:
    EventLog(tmp_path / "no such folder" / "log.jsonl")("trial", {})
    assert list(tmp_path.iterdir()) == []
