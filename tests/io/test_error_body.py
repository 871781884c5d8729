from __future__ import annotations

import pytest

from veneer.io.error_body import error_message


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"error": {"message": "no such model"}}', "no such model"),
        (b'{"error": "busy"}', '{"error": "busy"}'),
        (b"<html>502</html>" + b"x" * 300, "<html>502</html>" + "x" * 184),
        (b"[]", "[]"),
        (b"\xff", "\N{REPLACEMENT CHARACTER}"),
        (b"", "no answer"),
    ],
)
def test_the_message_is_that_of_openais_form_or_the_bodys_beginning(body: bytes, message: str) -> None:
    assert error_message(body) == message
