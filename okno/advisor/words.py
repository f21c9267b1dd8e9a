"""How many words a token holds: measured with a model's own tokenizer on the text that ships.

Counted once per model file and kept in the store; `okno tokens FILE` counts any other text.
"""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path

from okno.advisor.report import Words
from okno.core.errors import OknoError
from okno.core.machine import Machine
from okno.core.plan import Figure
from okno.inspect.hardware.engine import engine_name
from okno.store.database import Database
from okno.store.identity import model_identity
from okno.store.overheads import load_overheads, save_overhead

TEXT = "depth_ru_en.txt"
LANGUAGES = {"Russian": re.compile(r"[\u0400-\u052f]"), "English": re.compile(r"[A-Za-z]")}
WORD = re.compile(r"[^\W_]+(?:[-'’][^\W_]+)*")
MOST_CHARACTERS = 12_000


def words_of(model: Path, machine: Machine, database: Database | None = None) -> tuple[Words, ...]:
    """Words per token in Russian and English, where there is such text; none when the tokenizer
    cannot be asked. A child process loads the vocabulary the first time (half a second)."""
    database = database or Database()
    try:
        found = _known_or_counted(model, machine, database)
    except OknoError:  # also a store that cannot be used: the plan says that itself
        return ()
    return tuple(
        Words(name, Figure(ratio, ratio, ratio, "measured")) for name, ratio in found.items()
    )


def _known_or_counted(model: Path, machine: Machine, database: Database) -> dict[str, float]:
    identity = model_identity(model)
    known = _known(database, machine, identity)
    if known:
        return known
    counted = _counted(model)
    for name, ratio in counted.items():
        save_overhead(database, machine.fingerprint, engine_name(), _key(name, identity), ratio)
    return counted


def texts() -> dict[str, str]:
    """The paragraphs of the shipped text by language."""
    whole = (files("okno") / "data" / TEXT).read_text(encoding="utf-8")
    found = dict.fromkeys(LANGUAGES, "")
    for paragraph in whole.split("\n\n"):
        counts = {name: len(letter.findall(paragraph)) for name, letter in LANGUAGES.items()}
        most = max(counts, key=lambda name: counts[name])
        if counts[most] and len(found[most]) < MOST_CHARACTERS:
            found[most] += paragraph + "\n\n"
    return found


def _known(database: Database, machine: Machine, identity: str) -> dict[str, float]:
    kept = load_overheads(database, machine.fingerprint, engine_name())
    found = {name: kept.get(_key(name, identity)) for name in LANGUAGES}
    return {name: ratio for name, ratio in found.items() if ratio is not None}


def _counted(model: Path) -> dict[str, float]:
    from okno.engines.tokenise import tokenise

    parts = texts()
    tokenised = tokenise(model, list(parts.values()))
    return {
        name: len(WORD.findall(text)) / found.n_tokens
        for (name, text), found in zip(parts.items(), tokenised, strict=True)
        if found.n_tokens
    }


def _key(name: str, identity: str) -> str:
    return f"words_per_token.{name}.{identity}"
