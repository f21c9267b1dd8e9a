"""Texts for the demo model, which knows nothing but its own kind of chat (docs/demo-model.md).

Chats in which facts are told and asked for again at known distances, so that it is known in advance
which window must help: an answer can be predicted when the telling is still in the window, and
only then. Wordings are those of tools/demo_model/facts.py; the values are drawn anew.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

END = "<|end|>"
NAMES = {
    "en": "Anna Boris Clara David Emma Frank Grace Henry Irene Jack Karen Leo Mary Nina Oscar Paul "
    "Quinn Rose Sam Tina Victor Wendy Alice Bob Carol Dan Fred Gina Hugo Julia Kevin Laura Mark",
    "ru": "Анны Бориса Веры Глеба Дарьи Егора Жанны Захара Инны Кирилла Ларисы Максима Нины Олега "
    "Полины Романа Светы Тимура Ульяны Юлии Якова Алисы Богдана Виктора Галины Дениса Елены Ивана",
}
TELLING = {
    "en": ("Remember: {who}'s code is {value}.", "OK, I will remember."),
    "ru": ("Запомни: код {who} — {value}.", "Хорошо, запомню."),
}
ASKING = {
    "en": ("What is {who}'s code?", "{who}'s code is {value}."),
    "ru": ("Какой код {who}?", "Код {who} — {value}."),
}
READING = {"en": ("Read this: {}", "Thank you, I have read it."),
           "ru": ("Прочитай: {}", "Спасибо, я прочитал.")}  # fmt: skip
THINGS = {
    "en": "river table window stone garden lamp bridge cloud paper forest mirror bottle basket "
    "candle pencil guitar blanket island ladder market ocean pillow shadow ticket valley castle",
    "ru": "стол камень сад мост лес карандаш молоток остров рынок океан билет якорь замок дракон "
    "мотор чайник лимон рояль зонт свисток двор виноград персик картофель помидор лук сахар чай",
}
KINDS = {
    "en": "old new small big quiet loud bright dark cold warm slow quick green blue wooden empty",
    "ru": "старый новый тихий тёмный тёплый быстрый зелёный пустой",
}
DOING = {
    "en": "stands lies waits moves falls shines sleeps turns stays rests grows hangs",
    "ru": "стоит лежит ждёт падает спит растёт висит",
}

Count = Callable[[str], int]  # tokens of a text


@dataclass(frozen=True, slots=True)
class Chat:
    """A text in the demo's template, and where its answers stand: (first character, last
    character + 1, characters since the value was told; None for one that was never told)."""

    text: str
    answers: tuple[tuple[int, int, int | None], ...]


DISTANCES = (60, 150, 350, 800, 1500)  # characters between telling and asking, at least
CHAT_CHARS = 2800  # 850 to 1,000 tokens of the demo model


def default_documents(seed: int = 7, count: int = 12) -> tuple[str, ...]:
    """The text `okno depth demo` reads when none is given: `count` chats, half of them Russian,
    in which every fact that is asked for was told, 60 to 1,500 characters before."""
    source = random.Random(seed)
    return tuple(
        returning_chat(source, "ru" if number % 2 else "en", DISTANCES).text
        for number in range(count)
    )


def returning_chat(
    source: random.Random, lang: str, distances: tuple[int, ...], chars: int = CHAT_CHARS
) -> Chat:
    """Facts are told all along, and each is asked for again once `distance` characters later."""
    return _Writer(source, lang).write(distances, chars)


def flat_chat(source: random.Random, lang: str, chars: int = CHAT_CHARS) -> Chat:
    """The same kinds of messages, but nothing that is told is ever asked for, and what is asked
    for was never told: no window can help."""
    return _Writer(source, lang, returning=False).write((0,), chars)


class _Writer:
    """Writes one chat from beginning to end."""

    def __init__(self, source: random.Random, lang: str, *, returning: bool = True) -> None:
        self._source = source
        self._lang = lang
        self._returning = returning
        self._people = source.sample(NAMES[lang].split(), len(NAMES[lang].split()))
        self._text = "<|bos|>"
        self._due: list[tuple[int, str, str, int]] = []  # ask at, who, value, told at
        self._answers: list[tuple[int, int, int | None]] = []

    def write(self, distances: tuple[int, ...], chars: int) -> Chat:
        told = 0
        for _ in range(self._source.randrange(3)):  # so that chats are not alike by position
            self._read()
        while len(self._text) < chars:
            ripe = [due for due in self._due if due[0] <= len(self._text)]
            if ripe:
                self._due.remove(ripe[0])
                self._ask(*ripe[0][1:])
            elif len(self._due) < len(distances) and self._people:
                self._tell(distances[told % len(distances)])
                told += 1
            else:
                self._read()
        return Chat(self._text, tuple(self._answers))

    def _tell(self, distance: int) -> None:
        who, value = self._people.pop(), self._code()
        user, reply = TELLING[self._lang]
        self._say(user.format(who=who, value=value), reply)
        if self._returning:
            told_at = self._text.rindex(value) + len(value)
            self._due.append((told_at + distance, who, value, told_at))
        else:
            self._due.append((len(self._text) + 100, self._people.pop(), self._code(), -1))

    def _ask(self, who: str, value: str, told_at: int) -> None:
        user, reply = (form.format(who=who, value=value) for form in ASKING[self._lang])
        self._say(user, reply)
        start = self._text.rindex(value)
        self._answers.append((start, start + len(value), start - told_at if told_at > 0 else None))

    def _read(self) -> None:
        user, reply = READING[self._lang]
        self._say(user.format(" ".join(self._sentence() for _ in range(2))), reply)

    def _say(self, user: str, reply: str) -> None:
        self._text += f"<|user|>{user}{END}<|assistant|>{reply}{END}"

    def _code(self) -> str:
        return "".join(self._source.choices("0123456789", k=4))

    def _sentence(self) -> str:
        lang, draw = self._lang, self._source.choice
        things, kinds, doing = (draw(words[lang].split()) for words in (THINGS, KINDS, DOING))
        other = draw(THINGS[lang].split())
        if lang == "en":
            return f"The {kinds} {things} {doing} near the {other}."
        return f"Там {doing} {kinds} {things}, а рядом {other}."
