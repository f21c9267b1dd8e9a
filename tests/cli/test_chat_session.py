"""A conversation, without a terminal and without a server."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest

from okno.cli.chat_client import AnswerOptions, AnswerStats, ServerInfo, Turn
from okno.cli.chat_session import Session, stats_line
from okno.core.errors import ContextExceeded, NotReady, QueueFull

INFO = ServerInfo("http://x", "demo", 100)
STATS = AnswerStats(10, 5, 42.0, 0.25, "stop")


class Fake:
    """Answers with the given parts; an exception among them is raised."""

    def __init__(self, *parts: str | AnswerStats | BaseException) -> None:
        self.parts = parts
        self.seen: list[list[Turn]] = []

    def answer(
        self, messages: Sequence[Turn], options: AnswerOptions
    ) -> Iterator[str | AnswerStats]:
        self.seen.append(list(messages))
        for part in self.parts:
            if isinstance(part, BaseException):
                raise part
            yield part


class Talk:
    """A session whose prints are kept."""

    def __init__(self, *parts: str | AnswerStats | BaseException, system: str = "") -> None:
        self.fake = Fake(*parts)
        self.out: list[str] = []
        self.said: list[str] = []
        self.session = Session(
            self.fake, INFO, AnswerOptions(), self.out.append, self.said.append, system
        )

    def roles(self) -> list[str]:
        return [turn["role"] for turn in self.session.turns]


def test_an_answer_is_printed_as_it_comes_then_its_figures():
    talk = Talk("Hel", "lo", STATS)
    assert talk.session.line("hi")
    assert talk.out == ["Hel", "lo", "\n"]
    assert talk.said == [
        "5 tokens · 42.0 tokens/s · first token 0.25 s · window 15/100 tokens (15%)"
    ]


def test_the_next_turn_sends_the_conversation_so_far_and_the_system_text():
    talk = Talk("Hello", STATS, system="Be kind.")
    talk.session.line("hi")
    talk.session.line("again")
    assert [turn["content"] for turn in talk.fake.seen[1]] == ["Be kind.", "hi", "Hello", "again"]


def test_an_empty_line_asks_nothing():
    talk = Talk("x", STATS)
    assert talk.session.line("   ")
    assert not talk.fake.seen


def test_an_overfull_window_shows_the_numbers_and_cuts_nothing():
    talk = Talk(ContextExceeded("too long", n_prompt_tokens=1234, n_ctx=100))
    assert talk.session.line("long text")
    assert "has 1,234 tokens, the window 100." in talk.said[0]
    assert "Nothing was cut" in talk.said[0]
    assert "/reset" in talk.said[0]
    assert talk.session.turns == []


def test_an_error_leaves_no_trace_in_the_conversation():
    talk = Talk(QueueFull("The queue is full."))
    assert talk.session.line("hi")
    assert talk.said == ["error: The queue is full."]
    assert talk.session.turns == []


def test_ctrl_c_stops_the_answer_and_keeps_what_was_said():
    talk = Talk("Once upon", KeyboardInterrupt())
    assert talk.session.line("a story")
    assert talk.said == ["(stopped)"]
    assert talk.session.turns[-1] == {"role": "assistant", "content": "Once upon"}


def test_a_ctrl_c_that_python_dropped_stops_the_answer_at_the_next_piece():
    talk = Talk("Once upon", " a time", " there")
    dropped = iter([None, KeyboardInterrupt()])

    def check():
        if error := next(dropped):
            raise error

    talk.session.check_interrupts = check
    assert talk.session.line("a story")
    assert talk.said == ["(stopped)"]
    assert talk.session.turns[-1] == {"role": "assistant", "content": "Once upon"}


def test_a_turn_that_failed_in_the_middle_leaves_no_trace_either():
    talk = Talk("Once upon", NotReady("The server is gone."))
    assert talk.session.line("a story")
    assert talk.out == ["Once upon", "\n"]
    assert talk.said == ["error: The server is gone."]
    assert talk.session.turns == []


def test_a_single_question_raises_its_error():
    with pytest.raises(QueueFull):
        Talk(QueueFull("full")).session.ask_once("hi")


def test_a_single_overfull_question_gets_the_numbers_and_advice_for_a_command():
    talk = Talk(ContextExceeded("serve with a larger --ctx", n_prompt_tokens=1234, n_ctx=100))
    talk.session.larger = "a larger --ctx"
    with pytest.raises(ContextExceeded) as caught:
        talk.session.ask_once("long text")
    message = caught.value.message
    assert "the prompt has 1,234 tokens, the window 100." in message
    assert message.endswith("A shorter text or a larger --ctx helps.")
    assert "/reset" not in message
    assert "serve" not in message
    assert caught.value.info.details == {"n_prompt_tokens": 1234, "n_ctx": 100}


def test_a_cut_answer_says_why():
    full = Talk("x", AnswerStats(60, 40, 1.0, 0.1, "length"))
    full.session.line("hi")
    assert "the window is full" in full.said[1]
    short = Talk("x", AnswerStats(60, 5, 1.0, 0.1, "length"))
    short.session.line("hi")
    assert short.said[1] == "The answer was cut at 5 tokens (--max-tokens)."


def test_reset_forgets_the_turns_but_not_the_system_text():
    talk = Talk("Hello", STATS, system="Be kind.")
    talk.session.line("hi")
    talk.session.line("/reset")
    talk.session.line("new")
    assert [turn["content"] for turn in talk.fake.seen[-1]] == ["Be kind.", "new"]


def test_system_sets_the_text_and_starts_anew():
    talk = Talk("Hello", STATS)
    talk.session.line("hi")
    talk.session.line("/system  Speak like a pirate.")
    talk.session.line("hi")
    assert talk.fake.seen[-1][0] == {"role": "system", "content": "Speak like a pirate."}
    assert len(talk.fake.seen[-1]) == 2
    talk.session.line("/system")
    talk.session.line("hi")
    assert talk.roles() == ["user", "assistant"]
    assert talk.fake.seen[-1][0]["role"] == "user"


def test_stats_show_server_window_and_use():
    talk = Talk("Hello", STATS)
    talk.session.line("hi")
    talk.said.clear()
    talk.session.line("/stats")
    shown = "\n".join(talk.said)
    assert "demo at http://x" in shown
    assert "100 tokens for prompt and answer" in shown
    assert "1, 5 tokens generated" in shown


def test_commands_help_quit_and_near_misses():
    talk = Talk()
    assert talk.session.line("/help")
    assert any(line.startswith("/reset") for line in talk.said)
    talk.said.clear()
    assert talk.session.line("/rest")
    assert talk.said == ["There is no command /rest. Did you mean /reset?"]
    assert not talk.session.line("/quit")
    assert not talk.fake.seen


def test_one_token_is_singular():
    assert stats_line(AnswerStats(1, 1, 0.0, 1.0, "stop"), 10).startswith("1 token · ")
