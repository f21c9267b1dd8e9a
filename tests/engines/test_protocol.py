from __future__ import annotations

import random
import socket
import threading

from hypothesis import given
from hypothesis import strategies as st

from okno.core.errors import ErrorInfo
from okno.core.events import Accepted, Delta, Failed, Finished, Queued, TokenLogprob
from okno.core.request import Constraint, Message, Prompt, Request, Sampling
from okno.engines.process import _Frames, describe_exit
from okno.engines.protocol import (
    Events,
    FromWorker,
    Heartbeat,
    Loading,
    Recalled,
    Submit,
    Traced,
    decode_from_worker,
    decode_to_worker,
    encode,
    frame,
)
from okno.engines.steps import Piece, StepRecord
from okno.engines.tally import Tally
from okno.engines.transport import FrameSocket

STEP = StepRecord(
    3, 0.5, "pool", None, {"copy": 1}, 2, 0, 9, 1, [Piece("a", 1, 0, 4, False)], 0.1, 0.2, 0.3
)
MESSAGES: list[FromWorker] = [
    Loading(0.5),
    Events(deltas=[Delta("a", (1, 2), "окно", (TokenLogprob(1, b"\xff", -0.5),))]),
    Heartbeat(1, 2, 3, 4, 5, 6, 7, 8, tally=Tally(preemptions=2)),
    Events(accepted=[Accepted("b", 3, 0)], finished=[Finished("b", "stop")]),
    Events(accepted=[Accepted("b", 3, 2, 1.5)], queued=[Queued("b", 1), Queued("c", 0, 0.5)]),
    Recalled(4, [STEP], 3),
    Traced(1.5, [STEP, STEP]),
]


def test_messages_come_back_as_they_went() -> None:
    request = Request(
        "id", Prompt(messages=(Message("user", "x"),)), Sampling(logit_bias={5: -1.0}),
        constraint=Constraint("regex", "a+"),
    )  # fmt: skip
    submit = Submit(request, (1, 2))
    assert decode_to_worker(encode(submit)) == submit
    for message in MESSAGES:
        assert decode_from_worker(encode(message)) == message


@given(st.randoms(use_true_random=False))
def test_frames_are_whole_however_the_bytes_arrive(rng: random.Random) -> None:
    data = b"".join(frame(message) for message in MESSAGES)
    got: list[FromWorker] = []
    frames = _Frames(got.append)
    while data:
        cut = rng.randint(1, len(data))
        frames.data_received(data[:cut])
        data = data[cut:]
    assert got == MESSAGES


def test_a_frame_cut_short_by_a_death_is_dropped() -> None:
    got: list[FromWorker] = []
    frames = _Frames(got.append)
    frames.data_received(frame(MESSAGES[0]) + frame(MESSAGES[1])[:-1])
    frames.connection_lost(None)
    assert got == MESSAGES[:1]


def test_writers_in_several_threads_do_not_mix_frames() -> None:
    ours, theirs = socket.socketpair()
    sender, receiver = FrameSocket(theirs), FrameSocket(ours)
    failed = Events(failed=[Failed("x" * 5000, ErrorInfo("code", "message", "param", {"n": 1}))])
    threads = [
        threading.Thread(target=lambda: [sender.send(failed) for _ in range(50)]) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for _ in range(200):
        body = receiver.receive()
        assert body is not None
        assert decode_from_worker(body) == failed
    for thread in threads:
        thread.join()
    theirs.shutdown(socket.SHUT_RDWR)
    assert receiver.receive() is None


def test_how_a_worker_ended_is_said_for_people() -> None:
    assert describe_exit(-9, ["noise"]).startswith("killed by SIGKILL (")
    assert describe_exit(-6, ["", "GGML_ASSERT(x) failed", ""]) == (
        "killed by SIGABRT: GGML_ASSERT(x) failed"
    )
    assert describe_exit(3, []) == "exit status 3"
