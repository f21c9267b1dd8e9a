"""A conversation in the terminal: turns, commands, and what is printed after each answer.

Knows no terminal: text goes to `out`, remarks to `say`.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from okno.cli.chat_client import AnswerOptions, AnswerStats, ServerInfo, Turn
from okno.cli.text import tokens
from okno.core.errors import ContextExceeded, OknoError, from_info

HELP = {
    "/help": "show this",
    "/reset": "forget the conversation (the system text stays)",
    "/system TEXT": "set the system text and start anew; without TEXT: remove it",
    "/stats": "show the server, the window, and what was used",
    "/quit": "leave (also Ctrl-D)",
}


class Answers(Protocol):
    """What a session needs of a server."""

    def answer(
        self, messages: Sequence[Turn], options: AnswerOptions
    ) -> Iterator[str | AnswerStats]: ...


@dataclass(slots=True)
class Session:
    """The turns so far. A turn that failed leaves no trace; an answer stopped by Ctrl-C stays as
    far as it came. larger: what gives more room than the window. check_interrupts: raises
    KeyboardInterrupt for a Ctrl-C that Python dropped."""

    server: Answers
    info: ServerInfo
    options: AnswerOptions
    out: Callable[[str], None]
    say: Callable[[str], None]
    system: str = ""
    turns: list[Turn] = field(default_factory=list)
    last: AnswerStats | None = None
    total_tokens: int = 0
    larger: str = "a server with a larger --ctx"
    check_interrupts: Callable[[], None] = lambda: None

    def ask(self, text: str) -> None:
        """One turn: print the answer as it comes, then its stats. Raises OknoError."""
        head = [{"role": "system", "content": self.system}] if self.system else []
        question = {"role": "user", "content": text}
        pieces: list[str] = []
        stays = False
        try:
            for part in self.server.answer([*head, *self.turns, question], self.options):
                self.check_interrupts()
                if isinstance(part, str):
                    pieces.append(part)
                    self.out(part)
                else:
                    self._finished(part)
            stays = True
        except KeyboardInterrupt:
            stays = True
            raise
        finally:
            if pieces:
                self.out("\n")
            if pieces and stays:
                self.turns += [question, {"role": "assistant", "content": "".join(pieces)}]
        self._report()

    def ask_once(self, text: str) -> None:
        """The only turn of a command. Raises OknoError; for an overfull window, with advice that
        fits a command."""
        try:
            self.ask(text)
        except ContextExceeded as error:
            message = (
                f"This does not fit into the window: {self._numbers('the prompt', error)} Nothing "
                f"was cut and nothing was sent to the model. A shorter text or {self.larger} helps."
            )
            raise from_info(replace(error.info, message=message)) from None

    def line(self, text: str) -> bool:
        """Handle one line typed by a person: a command, or a turn. False: leave.

        Errors and Ctrl-C end the turn, not the session.
        """
        text = text.strip()
        if text.startswith("/"):
            return self._command(*_split(text))
        if text:
            try:
                self.ask(text)
            except ContextExceeded as error:
                self.say(self._full(error))
            except OknoError as error:
                self.say(f"error: {error.message}")
            except KeyboardInterrupt:
                self.say("(stopped)")
        return True

    def _command(self, command: str, rest: str) -> bool:
        match command:
            case "/quit" | "/exit" | "/q":
                return False
            case "/help" | "/?":
                for name, meaning in HELP.items():
                    self.say(f"{name:<14} {meaning}")
            case "/reset":
                self._reset()
            case "/system":
                self.system = rest
                self._reset()
            case "/stats":
                self._show_stats()
            case _:
                known = [name.split()[0] for name in HELP]
                near = difflib.get_close_matches(command, known, n=1)
                hint = f"Did you mean {near[0]}?" if near else "See /help."
                self.say(f"There is no command {command}. {hint}")
        return True

    def _reset(self) -> None:
        self.turns.clear()
        self.last = None
        kept = f" System text: {self.system}" if self.system else ""
        self.say(f"The window is empty again.{kept}")

    def _finished(self, stats: AnswerStats) -> None:
        self.last = stats
        self.total_tokens += stats.completion_tokens

    def _report(self) -> None:
        if self.last is None:
            return
        self.say(stats_line(self.last, self.info.ctx))
        if self.last.finish_reason == "length":
            self.say(self._cut(self.last))

    def _cut(self, stats: AnswerStats) -> str:
        """Why an answer ended before the model did."""
        if stats.prompt_tokens + stats.completion_tokens >= self.info.ctx:
            return (
                "The answer was cut: the window is full. /reset starts anew; "
                f"{self.larger} has more room."
            )
        return f"The answer was cut at {tokens(stats.completion_tokens)} (--max-tokens)."

    def _full(self, error: ContextExceeded) -> str:
        """The conversation no longer fits: both numbers, and what to do."""
        numbers = self._numbers("the conversation with this turn", error)
        return (
            f"This does not fit into the window: {numbers} Nothing was cut and nothing was sent "
            f"to the model. /reset starts anew; a shorter text or {self.larger} helps too."
        )

    def _numbers(self, what: str, error: ContextExceeded) -> str:
        needs = error.info.details.get("n_prompt_tokens")
        has = f"{what} has {needs:,} tokens, " if isinstance(needs, int) else ""
        return f"{has}the window {self.info.ctx:,}."

    def _show_stats(self) -> None:
        self.say(f"model   {self.info.model} at {self.info.url}")
        self.say(f"window  {tokens(self.info.ctx)} for prompt and answer together")
        self.say(f"turns   {len(self.turns) // 2}, {tokens(self.total_tokens)} generated")
        if self.last:
            self.say(f"last    {stats_line(self.last, self.info.ctx)}")


def stats_line(stats: AnswerStats, ctx: int) -> str:
    """Tokens, speed, time to first token, and how much of the window is used."""
    used = stats.prompt_tokens + stats.completion_tokens
    share = f" ({used / ctx:.0%})" if ctx else ""
    return (
        f"{tokens(stats.completion_tokens)} · {stats.tokens_per_s:.1f} tokens/s · "
        f"first token {stats.first_token_s:.2f} s · window {used:,}/{ctx:,} tokens{share}"
    )


def _split(text: str) -> tuple[str, str]:
    command, _, rest = text.partition(" ")
    return command, rest.strip()
