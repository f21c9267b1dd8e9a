from __future__ import annotations

from okno.core.errors import ErrorInfo
from okno.core.events import Accepted, Delta, Event, Failed, Finished
from okno.core.request import Prompt, Request
from okno.engines.streams import FAIL_AT, SUSPECT_AT, Stream, Streams


def stream(id: str) -> Stream:
    return Stream(Request(id, Prompt(text="x")))


def streams(*ids: str) -> tuple[Streams, dict[str, Stream]]:
    all_, by_id = Streams(), {id: stream(id) for id in ids}
    for each in by_id.values():
        all_.add(each)
    return all_, by_id


def got(one: Stream) -> list[Event]:
    return [one.events.get_nowait() for _ in range(one.events.qsize())]


def test_a_replay_is_accepted_only_once_for_the_client() -> None:
    one = stream("a")
    one.put(Accepted("a", 3, 0))
    one.put(Accepted("a", 3, 0))
    assert got(one) == [Accepted("a", 3, 0)]


def test_nothing_follows_the_end() -> None:
    one = stream("a")
    one.put(Finished("a", "stop"))
    one.put(Delta("a", (1,), "late"))
    one.fail(ErrorInfo("x", "late"))
    assert got(one) == [Finished("a", "stop")]


def test_tokens_are_kept_for_the_replay() -> None:
    one = stream("a")
    one.put(Delta("a", (1, 2), "xy"))
    one.put(Delta("a", (3,), ""))
    assert one.emitted == [1, 2, 3]


def test_a_token_clears_the_strikes() -> None:
    all_, by_id = streams("a")
    all_.strike()
    by_id["a"].put(Delta("a", (1,), "x"))
    assert by_id["a"].strikes == 0


def test_suspects_are_replayed_one_at_a_time_after_the_others() -> None:
    all_, by_id = streams("a", "b", "c", "d")
    for _ in range(SUSPECT_AT):
        all_.strike()
    by_id["d"].put(Delta("d", (1,), "x"))
    assert [s.request.id for s in all_.to_replay()] == ["d", "a"]
    assert all_.next_suspect() is None
    by_id["a"].put(Delta("a", (1,), "x"))
    following = all_.next_suspect()
    assert following is by_id["b"]
    assert all_.next_suspect() is None
    all_.remove(by_id["b"])
    assert all_.next_suspect() is by_id["c"]


def test_only_the_one_on_trial_gets_the_last_strike() -> None:
    all_, by_id = streams("a", "b")
    for _ in range(SUSPECT_AT):
        all_.strike()
    all_.to_replay()
    assert all_.strike() == [by_id["a"]]
    assert by_id["a"].strikes == FAIL_AT
    assert by_id["b"].strikes == SUSPECT_AT


def test_failed_ends_the_stream() -> None:
    one = stream("a")
    one.fail(ErrorInfo("x", "why"))
    assert one.ended
    assert isinstance(got(one)[0], Failed)
