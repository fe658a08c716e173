"""What a database or a device answers is data, of its type, finite and bounded."""

from __future__ import annotations

import io
import zipfile
from typing import Any

import numpy as np
import optuna
import pytest

from paretopress.core.outcome import Latency, Outcome, Rung
from paretopress.core.plan import Plan
from paretopress.core.untrusted_values import parse_environment, parse_latency, parse_outcome, parse_plan, printable
from paretopress.errors import ForeignDataError
from paretopress.search.storage.records import ACCURACIES, OUTCOME, PLAN, Records
from paretopress.targets import wire_protocol
from paretopress.targets.environment import environment
from paretopress.targets.wire_protocol import pack_arrays, read_frame, unpack_arrays

LATENCY = Latency(1.0, (0.9, 1.1), 0.5, (0.45, 0.55), 1.0, 1.1, 2.0, 8, 100, 0.1, 0.05)
OUT = Outcome(Rung.SHORT, 91.5, 10, 10, LATENCY, 1_000, "trials/0003/model.onnx", "f" * 64, stages_s={"export": 0.1}, notes=("a",))
NAN, INF = float("nan"), float("inf")


def test_received_returns_what_was_written_when_it_is_whole() -> None:
    assert parse_latency(LATENCY.to_json(), "a test") == LATENCY
    assert parse_outcome(OUT.to_json(), "a test") == OUT
    plan = Plan(kept={"g": 8}, rank={"l": 4}, bits={"b": 8})
    assert parse_plan(plan.to_json(), "a test") == plan
    found = environment()
    assert parse_environment(found, "a test") is found


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[(name, bad) for name in ("latency_ms", "ratio", "raw_p50_ms", "duration_s") for bad in (NAN, INF, -1.0, "1", True, None, [1])],
        *[("latency_ci_ms", bad) for bad in ([NAN, 1.0], [1.0], [2.0, 1.0], 1.0, [1, 2, 3], ["a", "b"])],
        *[(name, bad) for name in ("blocks", "runs", "occasions") for bad in (1.5, -1, 10**20, True, "8")],
        ("throttled", 1),
        ("alike", "no"),
        ("foreign_cores", NAN),
        ("another", 1),
    ],
)
def test_latency_received_refuses_when_a_figure_is_none(name: str, value: object) -> None:
    with pytest.raises(ForeignDataError):
        parse_latency(LATENCY.to_json() | {name: value}, "a device")


@pytest.mark.parametrize("value", [None, 7, "text", [], {}])
def test_received_refuses_when_it_is_no_object_or_lacks_figures(value: object) -> None:
    for receive in (parse_latency, parse_outcome):
        with pytest.raises(ForeignDataError):
            receive(value, "a device")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("val_accuracy", NAN),
        ("test_accuracy", "91"),
        ("size_bytes", -1),
        ("macs", 1e99),
        ("rung", 4),
        ("rung", True),
        ("onnx_path", "../../planted.txt"),
        ("onnx_path", "/etc/passwd"),
        ("onnx_path", 7),
        ("onnx_sha256", "../x"),
        ("stages_s", {"export": NAN}),
        ("notes", [7]),
        ("rejected", "x" * 10_000),
        ("latency", {}),
    ],
)
def test_outcome_received_refuses_when_a_member_is_not_what_it_must_be(name: str, value: object) -> None:
    with pytest.raises(ForeignDataError):
        parse_outcome(OUT.to_json() | {name: value}, "a study")


@pytest.mark.parametrize(
    "changed",
    [{"kept": {"g": "8"}}, {"kept": {"g": -1}}, {"rank": [1]}, {"bits": {"b": 7}}, {"temperature": NAN}, {"alpha": "x"}, {"schema": 9}],
)
def test_plan_received_refuses_when_a_choice_is_none(changed: dict[str, Any]) -> None:
    with pytest.raises(ForeignDataError):
        parse_plan(Plan().to_json() | changed, "a study")


@pytest.mark.parametrize(
    "changed",
    [
        {"cores_logical": "8"},
        {"isa": "avx2"},
        {"versions": {"onnxruntime": 1}},
        {"load_average": [NAN]},
        {"cpu": "\x1b[2J"},
        {"x": {"y": INF}},
    ],
)
def test_environment_received_refuses_when_a_fact_is_not_plain(changed: dict[str, Any]) -> None:
    with pytest.raises(ForeignDataError):
        parse_environment(environment() | changed, "a device")


def test_printable_leaves_no_control_characters_when_a_device_sends_some() -> None:
    assert printable("a\x1b[2Jb\nc") == "a [2Jb c"
    assert len(printable("x" * 100_000)) < 5_000


def evaluated(study: optuna.Study, outcome: dict[str, Any]) -> None:
    trial = study.ask()
    trial.set_user_attr(PLAN, Plan(kept={"g": trial.number}).to_json())
    trial.set_user_attr(OUTCOME, outcome)
    trial.set_user_attr(ACCURACIES, {"1": 91.5})
    study.tell(trial, [91.5, 10, 1.0])


def test_records_leave_out_what_is_no_figure_when_others_wrote_it() -> None:
    study = optuna.create_study(directions=["maximize", "minimize", "minimize"])
    evaluated(study, OUT.to_json())
    evaluated(study, OUT.to_json() | {"onnx_path": "../../planted.txt"})
    evaluated(study, OUT.to_json() | {"val_accuracy": "high"})
    study.set_user_attr("final/0", {"rung": "x"})
    study.set_user_attr("final/x", {})
    study.set_user_attr(f"latency/{OUT.onnx_sha256}/1", LATENCY.to_json() | {"ratio": INF})
    records = Records(study)
    assert [candidate.number for candidate in records.trial_candidates()] == [0]
    assert records.finals() == {}
    assert records.latencies() == {OUT.onnx_sha256: [LATENCY]}
    told = "; ".join(records.failure_reasons())
    assert all(part in told for part in ("onnx_path of an outcome from trial 1", "val_accuracy of an outcome from trial 2", "ratio of"))
    assert len(records.failure_reasons()) == 4


def frame(*lines: bytes) -> io.BytesIO:
    return io.BytesIO(b"".join(lines))


@pytest.mark.parametrize(
    "lines",
    [
        [b'{"payload_bytes": -1}\n'],
        [b'{"payload_bytes": 1e3}\n'],
        [b'{"payload_bytes": 99999999999999}\n'],
        [b'{"error": "x"}\n'],
        [b"{not json}\n"],
        [b"hello\n"] * 1_000_000,
        [b'{"a": "' + b"x" * 2**24],
    ],
)
def test_read_frame_refuses_when_the_other_end_sends_no_frame(lines: list[bytes]) -> None:
    with pytest.raises(ValueError, match=r".+"):
        read_frame(frame(*lines))


def test_unpack_arrays_returns_what_was_packed() -> None:
    arrays = [np.arange(6, dtype=np.float32).reshape(2, 3), np.array(3, dtype=np.int64), np.asfortranarray(np.eye(3))]
    for wanted, got in zip(arrays, unpack_arrays(pack_arrays(arrays)), strict=True):
        assert np.array_equal(wanted, got)


def packed(write: Any) -> bytes:
    buffer = io.BytesIO()
    write(buffer)
    return buffer.getvalue()


def npz(name: str, data: bytes) -> bytes:
    def write(buffer: io.BytesIO) -> None:
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr(name, data)

    return packed(write)


def header(shape: tuple[int, ...], data: bytes, descr: str = "<f4") -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": descr, "fortran_order": False, "shape": shape})
    return buffer.getvalue() + data


@pytest.mark.parametrize(
    "data",
    [
        b"no archive",
        packed(lambda buffer: np.savez_compressed(buffer, np.zeros(1_000_000))),
        packed(lambda buffer: np.savez(buffer, np.array([{}], dtype=object))),
        packed(lambda buffer: np.savez(buffer, np.array(["text"]))),
        npz("arr_0.npy", header((10**12,), b"abcd")),
        npz("arr_0.npy", header((1,), b"")),
        npz("other.npy", header((1,), b"abcd")),
        npz("arr_0.npy", b"no array"),
    ],
    ids=["text", "compressed", "pickle", "strings", "huge", "short", "name", "no array"],
)
def test_unpack_arrays_refuses_when_it_is_no_archive_of_numbers(data: bytes) -> None:
    with pytest.raises(ValueError, match=r".+"):
        unpack_arrays(data)


def test_unpack_arrays_refuses_when_there_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire_protocol, "_MOST_ARRAYS", 1)
    with pytest.raises(ValueError, match="at most 1"):
        unpack_arrays(pack_arrays([np.zeros(1), np.zeros(1)]))
