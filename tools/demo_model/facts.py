"""Facts that a chat can tell and later ask for, in English and Russian."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

import words as w


@dataclass(frozen=True)
class Fact:
    """One fact: ways to tell it, ways to ask for it, and the one answer that restates it."""

    lang: str
    group: str  # "name", "code", "city" or "other": the row of the evaluation table
    key: str  # two facts of one chat must not share a key
    tell: tuple[str, ...]
    ask: tuple[str, ...]
    answer: str
    value: str


def _value(rng: random.Random, kind: str, lang: str, heldout: bool) -> str:
    """A random value for an attribute of kind `kind`."""
    en = lang == "en"
    if kind in ("code", "number", "pin"):
        return w.code(rng) if kind == "code" else w.digits(rng)
    if kind == "city":
        return w.city(rng, lang, heldout)
    if kind == "password":
        return w.secret(rng, lang, heldout)
    if kind == "name":
        return w.name(rng, lang, heldout)
    if kind == "word":
        return w.noun(rng, lang, heldout)
    if not heldout and rng.random() < 0.2:
        return w.syllables(rng, lang)
    lists = {
        "color": (w.COLORS_EN, w.COLORS_RU),
        "food": (w.FOODS_EN, w.FOODS_RU),
        "pet": (w.PETS_EN, w.PETS_RU),
    }[kind]
    return w.pick(rng, lists[0] if en else lists[1], heldout)


def _thing(rng: random.Random, lang: str, words: list[str], heldout: bool) -> str:
    """A word of the list, or (three in ten in training) any noun or made-up word."""
    if not heldout and rng.random() < 0.3:
        return w.noun(rng, lang)
    return w.pick(rng, words, heldout)


PERSON_EN = {
    "code": "code",
    "number": "number",
    "PIN": "pin",
    "room": "number",
    "password": "password",
    "city": "city",
    "favorite color": "color",
    "favorite food": "food",
    "pet": "pet",
    "word": "word",
    "friend": "name",
}
PERSON_RU = {
    "код": "code",
    "номер": "number",
    "пин": "pin",
    "пароль": "password",
    "город": "city",
    "любимый цвет": "color",
    "питомец": "pet",
    "друг": "name",
    "комната": "number",
    "любимая еда": "food",
    "слово": "word",
}


def _group(kind: str) -> str:
    """The evaluation row of a value kind."""
    if kind in ("code", "number", "pin"):
        return "code"
    return kind if kind in ("city", "name") else "other"


def person_en(rng: random.Random, heldout: bool) -> Fact:
    """Anna's code is 4821."""
    attr, n = rng.choice(list(PERSON_EN)), w.name(rng, "en", heldout)
    if rng.random() < 0.3:
        attr = "code"
    kind = PERSON_EN[attr]
    v = _value(rng, kind, "en", heldout)
    base = f"{n}'s {attr} is {v}."
    tell = (base, base, base, f"The {attr} of {n} is {v}.", f"{n} has the {attr} {v}.")
    ask = (
        f"What is {n}'s {attr}?",
        f"What is {n}'s {attr}?",
        f"What is the {attr} of {n}?",
        f"Tell me {n}'s {attr}.",
        f"{n}'s {attr}?",
        f"Do you remember {n}'s {attr}?",
        f"what's {n}'s {attr}",
    )
    return Fact("en", _group(kind), f"{n}/{attr}", tell, ask, base, v)


def person_ru(rng: random.Random, heldout: bool) -> Fact:
    """Код Анны — 4821."""
    attr, n = rng.choice(list(PERSON_RU)), w.genitive(w.name(rng, "ru", heldout))
    if rng.random() < 0.3:
        attr = "код"
    kind = PERSON_RU[attr]
    v = _value(rng, kind, "ru", heldout)
    which = {"а": "какая", "о": "какое"}.get(attr[-1], "какой")
    base = f"{attr.capitalize()} {n} — {v}."
    tell = (base, base, base, f"{attr.capitalize()} {n}: {v}.", f"У {n} {attr} {v}.")
    ask = (
        f"{which.capitalize()} {attr} у {n}?",
        f"{which.capitalize()} {attr} {n}?",
        f"{which.capitalize()} у {n} {attr}?",
        f"{attr.capitalize()} {n}?",
        f"Напомни: {attr} {n}.",
        f"{which} {attr} у {n}",
    )
    return Fact("ru", _group(kind), f"{n}/{attr}", tell, ask, base, v)


def lives_en(rng: random.Random, heldout: bool) -> Fact:
    """Anna lives in Paris."""
    n, v = w.name(rng, "en", heldout), w.city(rng, "en", heldout)
    base = f"{n} lives in {v}."
    ask = (
        f"Where does {n} live?",
        f"Where does {n} live?",
        f"Which city does {n} live in?",
        f"In which city does {n} live?",
        f"where does {n} live",
    )
    tell = (base, base, f"{n} lives in the city of {v}.")
    return Fact("en", "city", f"{n}/lives", tell, ask, base, v)


def lives_ru(rng: random.Random, heldout: bool) -> Fact:
    """Анна живёт в городе Казань."""
    n, v = w.name(rng, "ru", heldout), w.city(rng, "ru", heldout)
    base = f"{n} живёт в городе {v}."
    ask = (f"Где живёт {n}?", f"В каком городе живёт {n}?", f"где живёт {n}", f"Где {n} живёт?")
    return Fact("ru", "city", f"{n}/lives", (base,), ask, base, v)


def place_en(rng: random.Random, heldout: bool) -> Fact:
    """The key is in the drawer."""
    o, v = _thing(rng, "en", w.THINGS_EN, heldout), _thing(rng, "en", w.PLACES_EN, heldout)
    base = f"The {o} is in the {v}."
    ask = (f"Where is the {o}?", f"Where is the {o}?", f"Where can I find the {o}?")
    tell = (base, base, f"I put the {o} in the {v}.")
    return Fact("en", "other", f"{o}/place", tell, ask, base, v)


def place_ru(rng: random.Random, heldout: bool) -> Fact:
    """Ключ лежит в ящике."""
    o, v = _thing(rng, "ru", w.THINGS_RU, heldout), _thing(rng, "ru", w.PLACES_RU, heldout)
    where = ("на " if v in w.ON_RU else "в ") + v
    base = f"{o.capitalize()} лежит {where}."
    ask = (f"Где лежит {o}?", f"Где {o}?", f"где лежит {o}")
    return Fact("ru", "other", f"{o}/place", (base,), ask, base, v)


def lock_en(rng: random.Random, heldout: bool) -> Fact:
    """The safe code is 4821. / The password for the server is tango7."""
    if rng.random() < 0.5:
        o, v = _thing(rng, "en", w.LOCKS_EN, heldout), w.code(rng)
        base = f"The {o} code is {v}."
        ask = (f"What is the {o} code?", f"Which code does the {o} have?", f"The {o} code?")
        tell = (base, base, f"The code of the {o} is {v}.")
        return Fact("en", "code", f"{o}/lock", tell, ask, base, v)
    o, v = _thing(rng, "en", w.ACCOUNTS_EN, heldout), w.secret(rng, "en", heldout)
    base = f"The {o} password is {v}."
    ask = (f"What is the {o} password?", f"What is the password for the {o}?", f"{o} password?")
    tell = (base, base, f"The password for the {o} is {v}.")
    return Fact("en", "other", f"{o}/password", tell, ask, base, v)


def lock_ru(rng: random.Random, heldout: bool) -> Fact:
    """Код от сейфа — 4821. / Пароль от почты — кино7."""
    if rng.random() < 0.5:
        o, v, what = _thing(rng, "ru", w.LOCKS_RU, heldout), w.code(rng), "код"
    else:
        o, v, what = (
            _thing(rng, "ru", w.ACCOUNTS_RU, heldout),
            w.secret(rng, "ru", heldout),
            "пароль",
        )
    base = f"{what.capitalize()} от {o} — {v}."
    ask = (f"Какой {what} от {o}?", f"{what.capitalize()} от {o}?", f"Напомни {what} от {o}.")
    tell = (base, base, f"{what.capitalize()} от {o}: {v}.")
    return Fact("ru", "code" if what == "код" else "other", f"{o}/{what}", tell, ask, base, v)


def own_en(rng: random.Random, heldout: bool) -> Fact:
    """My name is Anna."""
    kind = rng.choice(["name", "name", "city", "code", "color", "dog", "word", "number"])
    if kind == "name":
        v = w.name(rng, "en", heldout)
        tell = (f"My name is {v}.", f"My name is {v}.", f"I am {v}.", f"Hello, I am {v}.")
        ask = (
            "What is my name?",
            "What is my name?",
            "Who am I?",
            "Do you remember my name?",
            "what's my name",
        )
        return Fact("en", "name", "me/name", tell, ask, f"Your name is {v}.", v)
    if kind == "city":
        v = w.city(rng, "en", heldout)
        ask = ("Where do I live?", "Which city do I live in?", "What is my city?")
        return Fact("en", "city", "me/city", (f"I live in {v}.",), ask, f"You live in {v}.", v)
    if kind == "dog":
        v = w.name(rng, "en", heldout)
        ask = ("What is my dog's name?", "What is the name of my dog?", "How is my dog called?")
        base = f"dog's name is {v}."
        return Fact("en", "name", "me/dog", (f"My {base}",), ask, f"Your {base}", v)
    attr = {"color": "favorite color", "word": "secret word"}.get(kind, kind)
    v = _value(rng, kind, "en", heldout)
    ask = (f"What is my {attr}?", f"What is my {attr}?", f"Tell me my {attr}.", f"My {attr}?")
    tell = (f"My {attr} is {v}.",)
    return Fact("en", _group(kind), f"me/{kind}", tell, ask, f"Your {attr} is {v}.", v)


def own_ru(rng: random.Random, heldout: bool) -> Fact:
    """Меня зовут Анна."""
    kind = rng.choice(["name", "name", "city", "code", "color", "dog", "word", "number"])
    if kind in ("name", "dog"):
        v = w.name(rng, "ru", heldout)
        if kind == "dog":
            ask = ("Как зовут мою собаку?", "Какое имя у моей собаки?")
            return Fact(
                "ru",
                "name",
                "me/dog",
                (f"Мою собаку зовут {v}.",),
                ask,
                f"Твою собаку зовут {v}.",
                v,
            )
        tell = (
            f"Меня зовут {v}.",
            f"Меня зовут {v}.",
            f"Моё имя — {v}.",
            f"Я {v}.",
            f"Привет, меня зовут {v}.",
        )
        ask = (
            "Как меня зовут?",
            "Как меня зовут?",
            "Какое у меня имя?",
            "Кто я?",
            "Ты помнишь, как меня зовут?",
            "как меня зовут",
        )
        return Fact("ru", "name", "me/name", tell, ask, f"Тебя зовут {v}.", v)
    if kind == "city":
        v = w.city(rng, "ru", heldout)
        ask = ("Где я живу?", "В каком городе я живу?", "Какой мой город?")
        tell = (f"Я живу в городе {v}.", f"Мой город — {v}.")
        return Fact("ru", "city", "me/city", tell, ask, f"Ты живёшь в городе {v}.", v)
    attr = {"code": "код", "number": "номер", "color": "любимый цвет", "word": "слово"}[kind]
    mine, yours, which = ("Моё", "Твоё", "Какое") if kind == "word" else ("Мой", "Твой", "Какой")
    v = _value(rng, kind, "ru", heldout)
    ask = (f"{which} {mine.lower()} {attr}?", f"{which} у меня {attr}?", f"{mine} {attr}?")
    tell = (f"{mine} {attr} — {v}.", f"{mine} {attr} {v}.")
    return Fact("ru", _group(kind), f"me/{kind}", tell, ask, f"{yours} {attr} — {v}.", v)


def word_en(rng: random.Random, heldout: bool) -> Fact:
    """The code word is banana."""
    what = rng.choice(
        [
            "code word",
            "secret word",
            "password",
            "magic word",
            "secret number",
            "code",
            "secret code",
            "answer",
            "order number",
        ]
    )
    number = "number" in what or what.endswith("code")
    v = w.code(rng) if number else w.secret(rng, "en", heldout)
    base = f"The {what} is {v}."
    ask = (
        f"What is the {what}?",
        f"What was the {what}?",
        f"Tell me the {what}.",
        f"The {what}?",
        f"what is the {what}",
    )
    return Fact("en", "code" if number else "other", f"the/{what}", (base,), ask, base, v)


def word_ru(rng: random.Random, heldout: bool) -> Fact:
    """Кодовое слово — вишня."""
    what, which = rng.choice(
        [
            ("кодовое слово", "какое"),
            ("секретное слово", "какое"),
            ("пароль", "какой"),
            ("секретный код", "какой"),
            ("код", "какой"),
            ("номер заказа", "какой"),
            ("тайное слово", "какое"),
            ("секретное число", "какое"),
        ]
    )
    number = what.split()[0] in ("секретный", "код", "номер") or what.endswith("число")
    v = w.code(rng) if number else w.secret(rng, "ru", heldout)
    base = f"{what.capitalize()} — {v}."
    ask = (
        f"{which.capitalize()} {what}?",
        f"Назови {what}.",
        f"{what.capitalize()}?",
        f"{which.capitalize()} был {what}?" if which == "какой" else f"Напомни {what}.",
    )
    tell = (base, base, f"{what.capitalize()}: {v}.")
    return Fact("ru", "code" if number else "other", f"the/{what}", tell, ask, base, v)


def project_en(rng: random.Random, heldout: bool) -> Fact:
    """Project Luna starts on 12 May."""
    p = w.syllables(rng, "en").capitalize()
    v = f"{rng.randint(1, 28)} {rng.choice(w.MONTHS_EN)}"
    base = f"Project {p} starts on {v}."
    ask = (f"When does project {p} start?", f"On which date does project {p} start?")
    return Fact("en", "other", f"{p}/start", (base,), ask, base, v)


def project_ru(rng: random.Random, heldout: bool) -> Fact:
    """Проект Луна начнётся 12 мая."""
    p = w.syllables(rng, "ru").capitalize()
    v = f"{rng.randint(1, 28)} {rng.choice(w.MONTHS_RU)}"
    base = f"Проект {p} начнётся {v}."
    ask = (f"Когда начнётся проект {p}?", f"Какого числа начнётся проект {p}?")
    return Fact("ru", "other", f"{p}/start", (base,), ask, base, v)


def thing_en(rng: random.Random, heldout: bool) -> Fact:
    """The price of the lamp is 120."""
    what = rng.choice(["price", "weight", "color", "owner", "number", "code", "name", "magic word"])
    o = w.noun(rng, "en", heldout)
    kinds = {"color": "color", "owner": "name", "name": "name", "magic word": "word"}
    v = _value(rng, kinds.get(what, "number"), "en", heldout)
    base = f"The {what} of the {o} is {v}."
    ask = (f"What is the {what} of the {o}?", f"Tell me the {what} of the {o}.")
    return Fact("en", "other", f"{o}/{what}", (base,), ask, base, v)


def thing_ru(rng: random.Random, heldout: bool) -> Fact:
    """Цена товара лампа — 120."""
    what = rng.choice(["цена товара", "номер группы", "код предмета", "имя объекта"])
    which = {"ц": "какая", "и": "какое"}.get(what[0], "какой")
    o = w.noun(rng, "ru", heldout)
    v = _value(rng, "name" if what[0] == "и" else "number", "ru", heldout)
    base = f"{what.capitalize()} {o} — {v}."
    ask = (f"{which.capitalize()} {what} {o}?", f"{what.capitalize()} {o}?")
    return Fact("ru", "other", f"{o}/{what}", (base,), ask, base, v)


Maker = Callable[[random.Random, bool], Fact]
MAKERS: dict[str, tuple[list[Maker], list[int]]] = {
    "en": (
        [person_en, lives_en, place_en, lock_en, own_en, word_en, project_en, thing_en],
        [10, 4, 2, 3, 5, 3, 1, 2],
    ),
    "ru": (
        [person_ru, lives_ru, place_ru, lock_ru, own_ru, word_ru, project_ru, thing_ru],
        [10, 4, 2, 3, 5, 3, 1, 2],
    ),
}


def fact(rng: random.Random, lang: str, heldout: bool = False) -> Fact:
    """A random fact in `lang`."""
    makers, weights = MAKERS[lang]
    return rng.choices(makers, weights)[0](rng, heldout)


def facts(rng: random.Random, lang: str, count: int, heldout: bool = False) -> list[Fact]:
    """Up to `count` facts with different keys (`lang` "mix" draws the language per fact)."""
    found: dict[str, Fact] = {}
    for _ in range(count * 3):
        one = fact(rng, rng.choice(["en", "ru"]) if lang == "mix" else lang, heldout)
        found.setdefault(one.key, one)
        if len(found) == count:
            break
    return list(found.values())


UNTOLD = {"en": "I was not told that.", "ru": "Мне этого не говорили."}
