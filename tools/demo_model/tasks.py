"""Text generator: single tasks, filler and whole chats, with answers known by construction."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

import facts as f
import smalltalk
import words as w


@dataclass(frozen=True)
class Turn:
    """One user message and the answer to it; `task` names the row of the evaluation table."""

    user: str
    answer: str
    task: str
    keys: frozenset[str] = frozenset()  # of the facts told in the message


Task = Callable[[random.Random, str, bool], Turn]


# --- filler ---------------------------------------------------------------------------------


def sentence(rng: random.Random, lang: str) -> str:
    """A made-up sentence that tells no fact anybody will ask for."""
    kind = rng.random()
    if lang == "en":
        a, b = rng.choice(w.ADJ_EN), rng.choice(w.ADJ_EN)
        n, m = w.pick(rng, w.NOUNS_EN), w.pick(rng, w.NOUNS_EN)
        if kind < 0.5:
            return f"The {a} {n} {rng.choice(w.VERBS_EN)} {rng.choice(w.ADV_EN)} near the {b} {m}."
        if kind < 0.75:
            return f"Then the {n} {rng.choice(w.VERBS_EN)}, and {rng.randint(2, 60)} people came."
        return f"{w.name(rng, 'en')} saw a {a} {n} and a {b} {m}."
    n, m = rng.choice(w.MASC_RU), rng.choice(w.MASC_RU)
    a, b = rng.choice(w.ADJ_RU), rng.choice(w.ADJ_RU)
    if kind < 0.5:
        return f"{a.capitalize()} {n} {rng.choice(w.ADV_RU)} {rng.choice(w.VERBS_RU)}."
    if kind < 0.75:
        return f"Потом {n} {rng.choice(w.VERBS_RU)}, и пришло {rng.randint(5, 60)} человек."
    return f"Там {rng.choice(w.VERBS_RU)} {a} {n}, а рядом {b} {m}."


def passage(rng: random.Random, lang: str, count: int) -> str:
    """`count` filler sentences in a row."""
    return " ".join(sentence(rng, lang) for _ in range(count))


def filler(rng: random.Random, lang: str, heldout: bool) -> Turn:
    """A text to read, acknowledged shortly: it only makes the chat longer."""
    del heldout
    text = passage(rng, lang, rng.randint(2, 8))
    if lang == "en":
        return Turn(f"Read this: {text}", "Thank you, I have read it.", "filler")
    return Turn(f"Прочитай: {text}", "Спасибо, я прочитал.", "filler")


# --- lists, lines, numbers -------------------------------------------------------------------


def items(rng: random.Random, lang: str, low: int, high: int, heldout: bool) -> list[str]:
    """`low` to `high` different words, names or numbers."""
    count, kind = rng.randint(low, high), rng.random()
    found: dict[str, None] = {}
    while len(found) < count:
        if kind < 0.55:
            found[w.noun(rng, lang, heldout and rng.random() < 0.6)] = None
        elif kind < 0.63:
            found[w.name(rng, lang)] = None
        elif kind < 0.7:
            en = lang == "en"
            more = w.COLORS_EN + w.PETS_EN if en else w.COLORS_RU + w.PETS_RU
            found[w.pick(rng, more + (w.FOODS_EN if en else w.FOODS_RU))] = None
        elif kind < 0.85:
            found[str(rng.randint(0, 99))] = None
        else:
            found[w.syllables(rng, lang)] = None
    return list(found)


def code_line(rng: random.Random, heldout: bool) -> str:
    """One short line of Python-like code."""
    a, b, c = (w.identifier(rng, heldout and rng.random() < 0.5) for _ in range(3))
    fn, n, m = rng.choice(w.FUNCS), rng.randint(0, 99), rng.randint(0, 999)
    return rng.choice(
        [
            f"{a} = {b} + {n}",
            f"{a} = {fn}({b}, {n})",
            f"for {a} in range({n}):",
            f"if {a} > {m}:",
            f"return {a} * {b}",
            f"print({a}, {b})",
            f"{a} = [{n}, {m}, {b}]",
            f'{a} = "{w.syllables(rng, "en")}"',
            f"def {fn}_{a}({b}, {c}):",
            f"{a}.{fn}({b}={n})",
            f"{a}[{n}] = {b} - {c}",
            f"while {a} < {m}:",
            f"assert {a} != {b}",
            f"import {a}, {b}",
            f"{a} += {fn}({b}) # {c}",
        ]
    )


def copy_line(rng: random.Random, lang: str, heldout: bool) -> Turn:
    """Repeat a line of words, code, digits or a sentence."""
    kind = rng.random()
    if kind < 0.3:
        line = ", ".join(items(rng, lang, 2, 8, heldout))
    elif kind < 0.65:
        line = code_line(rng, heldout)
    elif kind < 0.8:
        line = w.digits(rng, 4, 12)
    elif kind < 0.9:
        line = sentence(rng, lang)
    else:
        line = " ".join(w.syllables(rng, lang) for _ in range(rng.randint(2, 6)))
    ask = (
        ["Repeat: ", "Copy this line: ", "Repeat this line: ", "Say: ", "Repeat after me: "]
        if lang == "en"
        else ["Повтори: ", "Скопируй строку: ", "Повтори строку: ", "Скажи: ", "Повтори за мной: "]
    )
    return Turn(rng.choice(ask) + line, line, "copy")


def copy_list(rng: random.Random, lang: str, heldout: bool) -> Turn:
    """Copy a list or several code lines, line by line."""
    if rng.random() < 0.4:
        body = "\n".join(code_line(rng, heldout) for _ in range(rng.randint(2, 5)))
    else:
        body = "\n".join(f"- {i}" for i in items(rng, lang, 3, 8, heldout))
    ask = (
        ["Copy this list:\n", "Repeat:\n", "Copy this:\n"]
        if lang == "en"
        else ["Скопируй список:\n", "Повтори:\n", "Скопируй это:\n"]
    )
    return Turn(rng.choice(ask) + body, body, "copy")


def replace_word(rng: random.Random, lang: str, heldout: bool) -> Turn:
    """Replace one item or identifier by another."""
    if rng.random() < 0.4:
        line = code_line(rng, heldout)
        parts = [p for p in w.IDENT if f" {p} " in f" {line} " or f"({p}," in line]
        old = rng.choice(parts) if parts else line.split()[0]
        new = w.pick(rng, w.IDENT, heldout)
        out = " ".join(new if p == old else p for p in line.split(" "))
        if f"({old}," in line:
            out = out.replace(f"({old},", f"({new},")
        if old not in line or new == old or old not in w.IDENT:
            return replace_word(rng, lang, heldout)
    else:
        words = items(rng, lang, 3, 6, heldout)
        old, new = rng.choice(words), items(rng, lang, 1, 1, heldout)[0]
        line = ", ".join(words)
        out = ", ".join(new if p == old else p for p in words)
    ask = (
        [f"Replace {old} with {new}: {line}", f"Replace {old} by {new} in this line: {line}"]
        if lang == "en"
        else [f"Замени {old} на {new}: {line}", f"Замени {old} на {new} в строке: {line}"]
    )
    return Turn(rng.choice(ask), out, "edit")


def edit_list(rng: random.Random, lang: str, heldout: bool) -> Turn:
    """Remove, add, or take the first or last item of a list."""
    words = items(rng, lang, 3, 7, heldout)
    line, kind = ", ".join(words), rng.randrange(5)
    one = rng.choice(words)
    new = items(rng, lang, 1, 1, heldout)[0]
    en = lang == "en"
    if kind == 0:
        text = f"Remove {one} from the list: {line}" if en else f"Убери {one} из списка: {line}"
        return Turn(text, ", ".join(x for x in words if x != one), "edit")
    if kind == 1:
        text = f"Add {new} to the list: {line}" if en else f"Добавь {new} в список: {line}"
        return Turn(text, f"{line}, {new}", "edit")
    if kind == 2:
        text = f"What is the first item: {line}" if en else f"Какой первый элемент: {line}"
        return Turn(text, words[0], "edit")
    if kind == 3:
        text = f"What is the last item: {line}" if en else f"Какой последний элемент: {line}"
        return Turn(text, words[-1], "edit")
    text = f"What comes after {words[-2]}: {line}" if en else f"Что идёт после {words[-2]}: {line}"
    return Turn(text, words[-1], "edit")


def sort_items(rng: random.Random, lang: str, heldout: bool) -> Turn:
    """Sort a few numbers, or words by the alphabet."""
    en = lang == "en"
    if rng.random() < 0.65:
        top = rng.choice([9, 99, 99])
        numbers = rng.sample(range(top + 1), rng.randint(3, 6))
        down = rng.random() < 0.2
        out = ", ".join(map(str, sorted(numbers, reverse=down)))
        line = ", ".join(map(str, numbers))
        if down:
            text = f"Sort down: {line}" if en else f"Отсортируй по убыванию: {line}"
        else:
            text = f"Sort: {line}" if en else f"Отсортируй: {line}"
        if rng.random() < 0.5:
            text = text.replace("Sort", "Sort these numbers", 1).replace("уй", "уй числа", 1)
        return Turn(text, out, "sort numbers")
    nouns = w.split(w.NOUNS_EN if en else w.NOUNS_RU, heldout)
    words = rng.sample(nouns, rng.randint(3, 5))
    text = ("Sort these words: " if en else "Отсортируй слова: ") + ", ".join(words)
    return Turn(text, ", ".join(sorted(words, key=lambda s: s.replace("ё", "е"))), "sort words")


def _kept_back(a: int, b: int, op: str) -> bool:
    """Whether this two-digit sum is kept for the evaluation: one in ten, or in seventy for -.

    For a difference the first condition alone would keep back all that end in 2.
    """
    return max(a, b) > 9 and (7 * a + 3 * b) % 10 == 4 and (op == "+" or a % 7 == 3)


def arithmetic(rng: random.Random, lang: str, heldout: bool) -> Turn:
    """One- and two-digit sums."""
    kind = rng.random()
    while True:
        if kind < 0.25:
            a, b, op, task = rng.randint(0, 9), rng.randint(0, 9), "+", "add, 1 digit"
        elif kind < 0.6:
            a, b, op, task = rng.randint(0, 99), rng.randint(0, 99), "+", "add, 2 digits"
        elif kind < 0.85:
            a, b, op, task = rng.randint(0, 99), rng.randint(0, 99), "-", "subtract"
            a, b = max(a, b), min(a, b)
        else:
            a, b, op, task = rng.randint(0, 10), rng.randint(0, 10), "*", "multiply"
        if task in ("add, 1 digit", "multiply") or _kept_back(a, b, op) == heldout:
            break
    result = {"+": a + b, "-": a - b, "*": a * b}[op]
    question = f"{a} {op} {b}" if rng.random() < 0.8 else f"{a}{op}{b}"
    text = rng.choice(
        [
            f"How much is {question}?",
            f"What is {question}?",
            f"{question} =",
            f"Compute {question}.",
            f"{question}?",
        ]
        if lang == "en"
        else [
            f"Сколько будет {question}?",
            f"{question} =",
            f"Посчитай {question}.",
            f"{question}?",
        ]
    )
    return Turn(text, f"{a} {op} {b} = {result}.", task)


def lookup(rng: random.Random, lang: str, heldout: bool, count: int = 0) -> Turn:
    """Find the answer in a passage given in the same message."""
    told = f.facts(rng, lang, count or rng.randint(1, 6), heldout)
    parts = [rng.choice(one.tell) for one in told]
    for _ in range(rng.randint(0, 4 if len(told) > 1 else 1)):
        parts.insert(rng.randint(0, len(parts)), sentence(rng, lang))
    text, wanted = " ".join(parts), rng.choice(told)
    question = rng.choice(wanted.ask)
    forms = (
        [
            f"Read the text: {text} Question: {question}",
            f"{question} Text: {text}",
            f"Text: {text}\n{question}",
            f"{text}\n\n{question}",
            f"{text} {question}",
        ]
        if lang == "en"
        else [
            f"Прочитай текст: {text} Вопрос: {question}",
            f"{question} Текст: {text}",
            f"Текст: {text}\n{question}",
            f"{text}\n\n{question}",
            f"{text} {question}",
        ]
    )
    keys = frozenset(one.key for one in told)
    return Turn(rng.choice(forms), wanted.answer, "lookup", keys)


def unknown(rng: random.Random, lang: str, heldout: bool) -> Turn:
    """A question about the world, or no question, which the demo model says it cannot answer."""
    if rng.random() < 0.12:
        question = " ".join(w.syllables(rng, lang) for _ in range(rng.randint(1, 3)))
        fallback = "I am a small demo model and I do not know that."
        if lang == "ru":
            fallback = "Я маленькая демо-модель и этого не знаю."
        return Turn(question, fallback, "unknown")
    if lang == "en":
        n, m = w.pick(rng, w.NOUNS_EN, heldout), w.pick(rng, w.NOUNS_EN, heldout)
        question = rng.choice(
            [
                f"Who invented the {n}?",
                f"Why is the {n} so {rng.choice(w.ADJ_EN)}?",
                f"What is the price of a {n}?",
                f"How do I make a {n}?",
                f"What is a {n}?",
                f"Which is better, a {n} or a {m}?",
                f"How far is {w.city(rng, 'en', heldout)}?",
                f"What is the history of {w.city(rng, 'en', heldout)}?",
                f"Write a poem about a {n}.",
            ]
        )
        return Turn(question, "I am a small demo model and I do not know that.", "unknown")
    n, m = w.pick(rng, w.NOUNS_RU, heldout), w.pick(rng, w.NOUNS_RU, heldout)
    question = rng.choice(
        [
            f"Кто придумал слово {n}?",
            f"Что такое {n}?",
            f"Сколько стоит {n}?",
            f"Что лучше: {n} или {m}?",
            f"Далеко ли до города {w.city(rng, 'ru', heldout)}?",
            f"Чем известен город {w.city(rng, 'ru', heldout)}?",
            f"Почему {n} так называется?",
            f"Напиши стихи на тему {n}.",
        ]
    )
    return Turn(question, "Я маленькая демо-модель и этого не знаю.", "unknown")


def small_talk(rng: random.Random, lang: str, heldout: bool) -> Turn:
    """A greeting, a question about okno, or something the model cannot know."""
    if rng.random() < 0.2:
        return unknown(rng, lang, heldout)
    ask, answer = rng.choice(smalltalk.SHORT[lang])
    return Turn(rng.choice(ask), answer, "small talk")


# --- long answers ---------------------------------------------------------------------------


def count_task(rng: random.Random, lang: str, heldout: bool) -> Turn:
    """Count up, down or in steps."""
    del heldout
    kind, en = rng.random(), lang == "en"
    if kind < 0.6:
        a = 1 if rng.random() < 0.6 else rng.randint(0, 60)
        b = a + rng.randint(5, 40)
        text = f"Count from {a} to {b}." if en else f"Посчитай от {a} до {b}."
        seq = range(a, b + 1)
    elif kind < 0.8:
        b = rng.randint(0, 30)
        a = b + rng.randint(5, 30)
        text = f"Count down from {a} to {b}." if en else f"Посчитай назад от {a} до {b}."
        seq = range(a, b - 1, -1)
    else:
        step = rng.choice([2, 3, 5, 10])
        b = step * rng.randint(5, 20)
        text = f"Count to {b} in steps of {step}." if en else f"Посчитай до {b} через {step}."
        seq = range(step, b + 1, step)
    return Turn(text, ", ".join(map(str, seq)) + ".", "count")


def numbered(rng: random.Random, lang: str, heldout: bool) -> Turn:
    """Write one word on n numbered lines, or number a list, or repeat a list twice."""
    kind, en = rng.random(), lang == "en"
    if kind < 0.4:
        n, word = rng.randint(3, 20), items(rng, lang, 1, 1, heldout)[0]
        text = (
            f"Write the word {word} {n} times, numbered."
            if en
            else f"Напиши слово {word} {n} раз с номерами."
        )
        out = "\n".join(f"{i}. {word}" for i in range(1, n + 1))
        return Turn(text, out, "long lists")
    words = items(rng, lang, 3, 8, heldout)
    line = ", ".join(words)
    if kind < 0.7:
        text = f"Number this list: {line}" if en else f"Пронумеруй список: {line}"
        return Turn(text, "\n".join(f"{i}. {x}" for i, x in enumerate(words, 1)), "long lists")
    if kind < 0.85:
        text = f"Repeat this list twice: {line}" if en else f"Повтори список дважды: {line}"
        return Turn(text, f"{line}\n{line}", "long lists")
    text = f"Write this list backwards: {line}" if en else f"Напиши список наоборот: {line}"
    return Turn(text, ", ".join(reversed(words)), "long lists")


def table(rng: random.Random, lang: str, heldout: bool) -> Turn:
    """The multiplication table of one number."""
    del heldout
    n = rng.randint(2, 9)
    text = f"Write the times table of {n}." if lang == "en" else f"Напиши таблицу умножения на {n}."
    return Turn(text, "\n".join(f"{n} * {i} = {n * i}" for i in range(1, 11)), "long lists")


def long_text(rng: random.Random, lang: str, heldout: bool) -> Turn:
    """A long fixed text about okno or language models."""
    del heldout
    ask, answer = rng.choice(smalltalk.LONG[lang])
    return Turn(rng.choice(ask), answer, "long text")


def story(rng: random.Random, lang: str, heldout: bool) -> Turn:
    """A small story about the person, the thing and the city named in the request."""
    who = w.name(rng, lang, heldout)
    town = w.city(rng, lang, heldout)
    if lang == "en":
        what = w.pick(rng, w.THINGS_EN, heldout)
        return Turn(
            f"Tell me a story about {who}, a {what} and the city of {town}.",
            f"Once upon a time {who} lived in the city of {town}. One morning {who} could not "
            f"find the {what}. {who} looked in the kitchen, but the {what} was not there. {who} "
            f"looked in the garden, but the {what} was not there. Then {who} walked through all "
            f"of {town} and asked everybody: have you seen my {what}? Nobody had seen it. In the "
            f"evening {who} came home, opened the window and laughed: the {what} lay on the "
            f"table, where it had been all day. From that day on {who} always looked at the "
            f"table first. And all of {town} still tells the story of {who} and the {what}.",
            "story",
        )
    what = w.pick(rng, w.MASC_RU, heldout)
    return Turn(
        f"Расскажи историю: {who}, {what} и город {town}.",
        f"Жил-был герой по имени {who}, и жил он в городе {town}. Однажды утром пропал {what}. "
        f"На кухне его не было. В саду его тоже не было. Тогда {who} обходит весь город {town} и "
        f"спрашивает всех: где мой {what}? Никто его не видел. Вечером {who} приходит домой, "
        f"открывает окно и смеётся: {what} лежит на столе, где и был весь день. С тех пор {who} "
        f"всегда сначала смотрит на стол. А в городе {town} до сих пор рассказывают историю, в "
        f"которой есть {who} и {what}.",
        "story",
    )


TASKS: list[tuple[Task, float]] = [
    (copy_line, 3),
    (copy_list, 2),
    (replace_word, 3.5),
    (edit_list, 3.5),
    (sort_items, 4),
    (arithmetic, 8),
    (lookup, 4),
    (small_talk, 3.5),
    (count_task, 1.2),
    (numbered, 1.5),
    (table, 0.3),
    (long_text, 0.8),
    (story, 0.8),
    (filler, 1.5),
]


def task(rng: random.Random, lang: str, heldout: bool = False) -> Turn:
    """A random task in `lang`."""
    make = rng.choices([t for t, _ in TASKS], [x for _, x in TASKS])[0]
    return make(rng, lang, heldout)


# --- telling and asking facts ---------------------------------------------------------------


def _lower_first(text: str) -> str:
    """`text` with a small first letter, unless it starts with a name or a single letter."""
    first = text.split(" ", 1)[0]
    common = first in _COMMON
    return text[0].lower() + text[1:] if common else text


_COMMON = frozenset(
    "The My У Код Номер Пин Пароль Город Любимый Питомец Друг Комната Любимая Слово Меня "  # noqa: SIM905
    "Мой Моё Мою Кодовое Секретное Секретный Тайное Проект".split()
)


def tell(rng: random.Random, lang: str, told: list[f.Fact]) -> Turn:
    """A user message that tells the facts, and the short reply to it."""
    joint = "\n" if len(told) > 2 and rng.random() < 0.3 else " "
    parts = [rng.choice(one.tell) for one in told]
    text = joint.join(parts)
    if len(parts) == 2 and rng.random() < 0.35:
        link = " and " if lang == "en" else rng.choice([" и ", ", а "])
        text = parts[0].removesuffix(".") + link + _lower_first(parts[1])
    wraps = (
        [
            "{}",
            "{}",
            "Remember: {}",
            "Please remember: {}",
            "Remember this: {}",
            "Note: {}",
            "{} Remember it.",
            "Please remember this. {}",
            "Remember: {}",
            "Remember that {}",
        ]
        if lang == "en"
        else [
            "{}",
            "{}",
            "Запомни: {}",
            "Запомни, пожалуйста: {}",
            "Запомни это: {}",
            "Заметка: {}",
            "{} Запомни это.",
            "Запомни. {}",
            "Запомни: {}",
            "Запомни, что {}",
        ]
    )
    wrap = rng.choice(wraps)
    if wrap.endswith((": {}", "that {}", "что {}")) and rng.random() < 0.4:
        text = _lower_first(text)
    if text.endswith(".") and wrap.endswith("{}") and rng.random() < 0.15:
        text = text[:-1]
    asked = "emember" in wrap or "апомни" in wrap
    if lang == "en":
        return Turn(wrap.format(text), "OK, I will remember." if asked else "Noted.", "tell")
    return Turn(wrap.format(text), "Хорошо, запомню." if asked else "Записано.", "tell")


def ask(rng: random.Random, one: f.Fact) -> Turn:
    """A question for a fact told earlier."""
    return Turn(rng.choice(one.ask), one.answer, f"recall {one.group} {one.lang}")


def ask_untold(rng: random.Random, lang: str, keys: set[str], heldout: bool) -> Turn:
    """A question for a fact that was never told; `keys` are those of the told ones."""
    while True:
        one = f.fact(rng, lang, heldout)
        if one.key not in keys:
            return Turn(rng.choice(one.ask), f.UNTOLD[lang], f"never told {lang}")


# --- whole chats ----------------------------------------------------------------------------


class Chat:
    """A chat under construction: messages as token ids, loss weights, and a token budget."""

    def __init__(self, tok: object, budget: int) -> None:
        """An empty chat of at most `budget` tokens; `tok` is a `tokenizer.Tok`."""
        self.tok = tok
        self.budget = budget
        self.ids: list[int] = [tok.bos]  # type: ignore[attr-defined]
        self.answer: list[bool] = [False]

    def _message(self, role: str, text: str) -> list[int]:
        return self.tok.message(role, text)  # type: ignore[attr-defined]

    def system(self, text: str) -> None:
        """Add a system message."""
        ids = self._message("system", text)
        self.ids += ids
        self.answer += [False] * len(ids)

    def add(self, turn: Turn) -> bool:
        """Add a turn if it fits; return whether it did."""
        user, reply = self._message("user", turn.user), self._message("assistant", turn.answer)
        if len(self.ids) + len(user) + len(reply) > self.budget:
            return False
        self.ids += user + reply
        self.answer += [False] * (len(user) + 1) + [True] * (len(reply) - 1)
        return True


def fill(rng: random.Random, chat: Chat, lang: str) -> None:
    """Fill the rest of the chat with short tasks until three do not fit."""
    misses = 0
    while misses < 3:
        misses += not chat.add(task(rng, lang))


def dense_chat(rng: random.Random, tok: object, budget: int, lang: str) -> Chat:
    """Many facts at the start, questions for all of them after it."""
    chat = Chat(tok, budget)
    told = f.facts(rng, lang, max(2, int(budget * rng.uniform(0.015, 0.035))))
    talk = "en" if lang == "mix" and rng.random() < 0.5 else "ru" if lang == "mix" else lang
    if rng.random() < 0.1:
        chat.system(" ".join(rng.choice(one.tell) for one in told))
    elif rng.random() < 0.6:
        chat.add(tell(rng, talk, told))
    else:
        for one in told:
            chat.add(tell(rng, talk, [one]))
    rng.shuffle(told)
    for one in told:
        if rng.random() < 0.07:
            chat.add(ask_untold(rng, talk, {x.key for x in told}, False))
        if not chat.add(ask(rng, one)):
            return chat
    fill(rng, chat, talk)
    return chat


def mixed_chat(rng: random.Random, tok: object, budget: int, lang: str) -> Chat:
    """Facts told along the way, tasks and filler between them, questions at every distance."""
    chat = Chat(tok, budget)
    if rng.random() < 0.25:
        chat.system(rng.choice(smalltalk.SYSTEM))
    told: list[f.Fact] = []
    fresh: list[f.Fact] = []  # told, not asked yet
    keys: set[str] = set()  # of all facts told, those in passages to look up included
    p_tell, p_ask = rng.uniform(0.12, 0.3), rng.uniform(0.25, 0.5)
    if rng.random() < 0.2:
        chat.add(small_talk(rng, "en" if lang == "en" else "ru", False))
    early = rng.random() < 0.6  # most facts at the start, so that distances get long
    misses = 0
    while misses < 4:
        now = rng.choice(["en", "ru"]) if lang == "mix" else lang
        draw = rng.random()
        if not told or (draw < p_tell and not (early and len(chat.ids) > budget // 3)):
            many = rng.choice([1, 1, 1, 2, 3, 5 if early else 2])
            new = [x for x in f.facts(rng, now, many) if x.key not in keys]
            if new and chat.add(tell(rng, now, new)):
                told += new
                fresh += new
                keys |= {x.key for x in new}
            else:
                misses += 1
        elif draw < p_tell + p_ask:
            pool = fresh if fresh and rng.random() < 0.85 else told
            one = pool[min(rng.randrange(len(pool)), rng.randrange(len(pool)))]
            if rng.random() < 0.08:
                turn = ask_untold(rng, now, keys, False)
            else:
                turn = ask(rng, one)
                if one in fresh:
                    fresh.remove(one)
            misses += not chat.add(turn)
        else:
            turn = task(rng, now)
            if turn.keys & keys:
                continue
            added = chat.add(turn)
            misses += not added
            keys |= turn.keys if added else frozenset()
    return chat


def task_chat(rng: random.Random, tok: object, budget: int, lang: str) -> Chat:
    """Single tasks one after the other, no facts to remember."""
    chat = Chat(tok, budget)
    fill(rng, chat, rng.choice(["en", "ru"]) if lang == "mix" else lang)
    return chat


def make_chat(rng: random.Random, tok: object, budget: int, dense: float) -> Chat:
    """A training chat of at most `budget` tokens, dense in recall with probability `dense`."""
    lang = rng.choices(["en", "ru", "mix"], [0.44, 0.44, 0.12])[0]
    draw = rng.random()
    make = dense_chat if draw < dense else mixed_chat if draw < 0.8 else task_chat
    return make(rng, tok, budget, lang)
