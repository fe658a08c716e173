from __future__ import annotations

import pytest

from paretopress.errors import first_line, typed_line


@pytest.mark.parametrize(
    ("error", "first", "typed"),
    [
        (ValueError("\n one\ntwo"), "one", "ValueError: one"),
        (ValueError(), "ValueError", "ValueError"),  # some errors of native code say nothing
    ],
)
def test_an_error_is_told_in_a_line_whatever_it_says(error: Exception, first: str, typed: str) -> None:
    assert first_line(error) == first
    assert typed_line(error) == typed
