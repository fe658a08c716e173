"""What is skipped where a server is not installed, and test runs in which nothing may be skipped: a pytest plugin."""

from __future__ import annotations

import os
from collections.abc import Generator
from typing import TypeVar

import pytest

# set where all that tests need is installed, as in CI: there a skipped test is a failed one
NO_SKIPS = "PARETOPRESS_NO_SKIPS"


class Missing(pytest.skip.Exception):
    """Something is not installed. pytest's summary tells all tests that are skipped for one reason in one line."""


Report = TypeVar("Report", pytest.TestReport, pytest.CollectReport)


def need(missing: str) -> None:
    """Skip the test that is about to run if something is missing; `missing` says what to install, or is empty."""
    if missing:
        raise Missing(missing)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.skipped and call.excinfo is not None and isinstance(call.excinfo.value, Missing):
        # the summary puts together what has one place and one reason
        report.longrepr = __file__, need.__code__.co_firstlineno, f"Skipped: {call.excinfo.value}"
    return _refused(report)


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    return _refused((yield))


def _refused(report: Report) -> Report:
    """Return a report, as that of a failure if it tells a skip and nothing may be skipped; an expected failure is none."""
    if os.environ.get(NO_SKIPS) == "1" and report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"nothing may be skipped where {NO_SKIPS}=1, but got: {reason}"
    return report
