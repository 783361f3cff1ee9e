"""What holds for every test: in CI a skip is a failure, unless the test says that it does not apply there."""

import os
from collections.abc import Generator
from typing import Any

import hypothesis
import pytest

IN_CI = os.environ.get("CI", "").lower() not in ("", "0", "false")
# Examples are new ones on each run, so that something new is tried; in CI they are the same for the same test, so that
# what is red there is red because of the change.
hypothesis.settings.register_profile("ci", derandomize=True)
if IN_CI:
    hypothesis.settings.load_profile("ci")
ALLOWED = "not applicable:"


def _no_silent_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    if not IN_CI or not report.skipped or hasattr(report, "wasxfail"):
        return
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    reason = reason.removeprefix("Skipped: ")
    if not reason.startswith(ALLOWED):
        report.outcome = "failed"
        report.longrepr = f"skipped in CI, where everything must run (a reason may start with '{ALLOWED}'): {reason}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    _no_silent_skip(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    _no_silent_skip(report)
    return report


def pytest_collection_modifyitems(items: list[Any]) -> None:
    """The slow ones last: what is broken shows early."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is not None)
