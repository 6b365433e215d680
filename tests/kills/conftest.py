"""Says at the end of a session how many kills there were, and what came of them."""

from __future__ import annotations

import pytest


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    from tests.builders.killing import TALLY, summary

    if TALLY:
        terminalreporter.write_line(summary())
