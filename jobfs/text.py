"""How bytes from outside become text inside: UTF-8 with `surrogateescape`, so that any byte survives the round trip.

Command lines, paths and environments are bytes to the kernel; everywhere inside they are `str`, decoded here.
`printable` is for what reaches a terminal: it shows control characters instead of sending them.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

# C0, DEL, C1, and the stand-ins of bytes that are not UTF-8: none of them may reach a terminal as they are.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff\u2028\u2029]")
_UNDECODED = range(0xDC80, 0xDD00)  # what `decode` makes of bytes that it could not read (PEP 383)
_WIDE = 0x100
_SHORT = {"\t": "\\t", "\n": "\\n", "\r": "\\r"}


def decode(raw: bytes) -> str:
    """`raw` as text; any byte string is accepted, and `encode` gives it back."""
    return raw.decode("utf-8", "surrogateescape")


def encode(text: str) -> bytes:
    """The bytes that `decode` made `text` of."""
    return text.encode("utf-8", "surrogateescape")


def printable(text: str) -> str:
    r"""`text` with each control character, and each byte that is not UTF-8, shown as an escape such as `\x1b`."""
    return _UNPRINTABLE.sub(_escape, text)


def _escape(match: re.Match[str]) -> str:
    char = match.group()
    if char in _SHORT:
        return _SHORT[char]
    code = ord(char)
    if code in _UNDECODED:
        return f"\\x{code - 0xDC00:02x}"
    return f"\\x{code:02x}" if code < _WIDE else f"\\u{code:04x}"


def rfc3339(when: float | None) -> str | None:
    """Seconds since the epoch as RFC 3339 in UTC with milliseconds; None stays None."""
    if when is None:
        return None
    return datetime.fromtimestamp(when, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def with_variables(environment: str, variables: Mapping[str, str | None]) -> str:
    """An environment (NUL-terminated entries) with `variables` instead of what it had of these names; None: none."""
    starts = tuple(f"{name}=" for name in variables)
    kept = [entry for entry in environment.split("\0") if entry and not entry.startswith(starts)]
    set_ = [f"{name}={value}" for name, value in variables.items() if value is not None]
    return "\0".join([*kept, *set_, ""])
