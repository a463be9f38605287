"""Frames between daemon and supervisor: however the bytes arrive, the messages are the same."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobfs.supervisor.wire import MAX_FRAME, FrameDecoder, Message, ProtocolError, encode_frame
from jobfs.text import decode


def _message(seq: int, reason: str | None, ids: list[int]) -> Message:
    return {"seq": seq, "op": "spawn", "reason": reason, "ids": ids}


MESSAGES = st.builds(
    _message,
    st.integers(0, 1 << 62),
    st.none() | st.binary().map(decode),
    st.lists(st.integers(1, 1 << 62), max_size=5),
)


@given(st.lists(MESSAGES, max_size=6), st.data())
def test_frames_may_be_split_anywhere(messages: list[Message], data: st.DataObject) -> None:
    """Cut into any pieces, a stream of frames gives each message once, in order, with text that is not UTF-8 whole."""
    raw = b"".join(map(encode_frame, messages))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(raw)), max_size=12)))
    decoder = FrameDecoder()
    found: list[Message] = []
    for start, end in zip([0, *cuts], [*cuts, len(raw)], strict=True):
        found += decoder.feed(raw[start:end])
    assert messages == found


def test_a_message_comes_with_its_last_byte() -> None:
    """Nothing is given before a frame is whole, and it is given at once then."""
    raw = encode_frame({"seq": 1, "ok": True})
    decoder = FrameDecoder()
    assert [] == [message for byte in raw[:-1] for message in decoder.feed(bytes([byte]))]
    assert [{"seq": 1, "ok": True}] == decoder.feed(raw[-1:])


@pytest.mark.parametrize(
    "raw",
    [
        (MAX_FRAME + 1).to_bytes(4, "little"),
        b"\xff\xff\xff\xff",
        b"\x01\0\0\0{",
        b"\x00\0\0\0",
        b"\x02\0\0\0[]",
        b"\x04\0\0\0null",
        b"\x02\0\0\0\xff\xfe",
    ],
)
def test_what_is_no_frame_is_refused(raw: bytes) -> None:
    """A length beyond the bound, bytes that are no JSON and JSON that is no object are a ProtocolError."""
    with pytest.raises(ProtocolError, match="a frame"):
        FrameDecoder().feed(raw)


def test_a_frame_is_plain_json_after_its_length() -> None:
    """Four bytes of length, little end first, then ASCII: another program can speak it."""
    raw = encode_frame({"op": "list", "reason": "\udcff"})
    assert len(raw) - 4 == int.from_bytes(raw[:4], "little")
    assert {"op": "list", "reason": "\udcff"} == json.loads(raw[4:].decode("ascii"))
