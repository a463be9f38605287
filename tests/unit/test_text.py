"""Bytes from outside survive as text, and nothing of them commands a terminal."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobfs.text import decode, encode, printable, rfc3339


@given(st.binary())
def test_any_bytes_survive_as_text(raw: bytes) -> None:
    """What came in goes out the same, UTF-8 or not."""
    assert raw == encode(decode(raw))


@given(st.binary())
def test_no_control_character_is_printed(raw: bytes) -> None:
    """Of any bytes at all, what is shown has neither control characters nor line breaks, and is UTF-8."""
    shown = printable(decode(raw))
    assert [] == [char for char in shown if unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp")]
    assert shown.encode() == encode(shown)


@given(st.text(st.characters(categories=["L", "N", "P", "S", "Zs"])))
def test_what_is_printable_is_shown_as_it_is(text: str) -> None:
    """Letters, signs and blanks of any script stay."""
    assert text == printable(text)


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        (b"a\tb", "a\\tb"),
        (b"a\nb\r", "a\\nb\\r"),
        (b"\x1b[31mred", "\\x1b[31mred"),
        (b"\0\x7f", "\\x00\\x7f"),
        (b"\xff", "\\xff"),
        ("\u009b31m".encode(), "\\x9b31m"),
        ("\u2028".encode(), "\\u2028"),
        (b"a\\b", "a\\b"),
    ],
)
def test_a_control_character_is_shown_as_an_escape(raw: bytes, shown: str) -> None:
    """A tab, a newline, ESC, DEL, C1 and a byte that is not UTF-8 each have their escape."""
    assert shown == printable(decode(raw))


@pytest.mark.parametrize(
    ("when", "text"),
    [(0.0, "1970-01-01T00:00:00.000Z"), (1700000000.1239, "2023-11-14T22:13:20.123Z"), (None, None)],
)
def test_a_time_is_utc_with_milliseconds(when: float | None, text: str | None) -> None:
    """Times are RFC 3339 in UTC with exactly three digits of a second; none stays none."""
    assert text == rfc3339(when)
