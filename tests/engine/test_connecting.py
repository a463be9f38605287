"""Finding the supervisor of a state: nobody else is taken for it, and nobody is waited for without end."""

from __future__ import annotations

import json
import os
import signal
import socket

import pytest
import trio

from jobfs.engines import connecting
from jobfs.engines.connecting import connect
from jobfs.errors import EngineGone
from jobfs.supervisor import ADDRESS
from jobfs.supervisor.wire import encode_frame
from tests.engine.workshop import Workshop


async def greeted_by(bare: Workshop, answer: bytes) -> int:
    """Has another program answer a greeting so; gives the number of the supervisor that is found all the same."""
    address = str(bare.state / "other")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen()
        listener.setblocking(False)  # noqa: FBT003 - socket's own signature
        (bare.state / ADDRESS).write_text(json.dumps({"socket": address}), encoding="utf-8")
        other = trio.socket.from_stdlib_socket(listener)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_answer_all, other, answer)
            sock, hello, _ = await connect(bare.state)
            nursery.cancel_scope.cancel()
        sock.close()
    os.unlink(address)
    bare.supervisors.add(bare.supervisor)
    return hello["pid"]


async def _answer_all(listener: trio.socket.SocketType, answer: bytes) -> None:
    while True:
        sock, _ = await listener.accept()
        with sock:
            await sock.recv(1024)
            await sock.send(answer)


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"\0" * 8,
        encode_frame({"seq": 0, "ok": True}),
        encode_frame({"seq": 0, "ok": True, "protocol": 3, "pid": 1, "state": (1, 1)}),
        encode_frame({"seq": 0, "ok": True, "protocol": 3, "pid": 1, "state": None}).replace(b"3", b'"', 1),
    ],
)
async def test_who_is_no_supervisor_of_this_state_is_passed_over(
    bare: Workshop, answer: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever listens at the address that was named: a supervisor is started, and the log says why."""
    found = await greeted_by(bare, answer)
    assert bare.supervisor == found
    assert f"the socket {bare.state}/other is " in caplog.text


async def test_a_supervisor_that_does_not_answer_is_told_as_such(
    bare: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that was stopped holds the state: no other one is started, and the sentence says so; later it is found."""
    monkeypatch.setattr(connecting, "_START_PATIENCE", 0.5)
    monkeypatch.setattr(connecting, "_GREETING_PATIENCE", 0.1)
    async with bare.attached():
        job = await bare.spawn("exec sleep 1000")
        os.kill(bare.supervisor, signal.SIGSTOP)
        try:
            with pytest.raises(EngineGone, match=r"another process holds .*lock, and does not answer: .* within 0.1 s"):
                await connect(bare.state)
        finally:
            os.kill(bare.supervisor, signal.SIGCONT)
        monkeypatch.undo()
        sock, hello, _ = await connect(bare.state)
        sock.close()
        assert bare.supervisor == hello["pid"]
        await bare.signal(job, signal.SIGKILL)
        await bare.ended(job)
