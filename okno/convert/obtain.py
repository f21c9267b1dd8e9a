"""`obtain`: from what a person writes for a model to a file the engine loads. The one door.

A GGUF file is itself (or quantised, when that is wanted and gains something); a checkpoint is made
engine-ready, once; a repository of the Hugging Face hub that is not here is fetched first.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from okno.convert.fetch_plan import FetchPlan, plan_fetch
from okno.convert.progress import Progress, silent
from okno.convert.wants import Wants
from okno.core.commands import quoted
from okno.core.errors import OknoError
from okno.inspect.catalog import candidates_in_catalog
from okno.inspect.fewer_bits import UNQUANTISED, is_quantised_to
from okno.inspect.gguf import stored_type
from okno.inspect.gguf_types import bits_of
from okno.inspect.header import read_header
from okno.inspect.listing import Checkpoint, LocalModel
from okno.inspect.models import NotHere, find_local
from okno.inspect.source_hub import Reference, parse_reference


def _nothing(_: FetchPlan) -> None:
    """Nobody wants to know."""


def _mute(_: str) -> None:
    """Nobody listens."""


@dataclass(frozen=True, slots=True)
class Listener:
    """Who is told. say: a sentence on what was decided. offered: what a download would bring,
    before it begins; raising there stops it."""

    progress: Progress = silent
    say: Callable[[str], None] = _mute
    offered: Callable[[FetchPlan], None] = _nothing


def obtain(asked: str, folder: Path, wants: Wants, listener: Listener | None = None) -> LocalModel:
    """The model `asked` in a file that the engine loads, stored as `wants` says.

    asked: as `find_local` has it, or a repository of the hub. folder: the models folder. Raises
    what finding, fetching (`fetch`) and making ready (`engine_ready`) raise.
    """
    to = listener or Listener()
    found = here_or_fetched(asked, folder, to)
    if isinstance(found, LocalModel):
        return _quantised(found, wants, to)
    from okno.convert.ready import engine_ready

    kept = wants_gained(found, wants, to.say)
    made = engine_ready(found.path, kept, to.progress, to.say)
    return replace(made, name=found.name, source=found.path)


def here_or_fetched(asked: str, folder: Path, to: Listener) -> LocalModel | Checkpoint:
    """What `asked` means here, after a download where that is needed."""
    try:
        return find_local(asked, folder)
    except NotHere as error:
        reference = parse_reference(asked)
        if reference is None:
            raise _with_catalog(asked, error) from None
        return _fetched(reference, folder, to)


def _with_catalog(asked: str, error: NotHere) -> NotHere:
    """The error, with the repositories of a model that the catalog knows by this name."""
    known = candidates_in_catalog(asked)
    if len(known) != 1:
        return error
    repos = " or ".join(
        f"`okno pull {quoted(repo)}`" for repo in dict.fromkeys(known[0].gguf_repos[:2])
    )
    where = repos or f"`okno pull {quoted(known[0].id)}`"
    return NotHere(f"{error.message} {known[0].name} is in okno's catalog: {where} fetches it.")


def _fetched(reference: Reference, folder: Path, to: Listener) -> LocalModel | Checkpoint:
    from okno.convert.fetch import fetch

    plan = plan_fetch(reference)
    to.offered(plan)
    path = fetch(plan, to.progress)
    found = find_local(str(path), folder)
    return replace(found, name=reference.id) if isinstance(found, Checkpoint) else found


def _quantised(model: LocalModel, wants: Wants, to: Listener) -> LocalModel:
    """`model`, or a copy with fewer bits where that gains something."""
    if wants.bits is None:
        return model
    stored = stored_type(model.path)
    if is_quantised_to(stored, wants.file_type):
        from okno.convert.requantise import requantised

        made = requantised(model, wants, to.progress)
        to.say(_made(model.path.name, stored, made.path))
        return replace(made, name=model.name, source=model.path)
    to.say(_as_stored(model.path.name, stored, wants.bits))
    return model


def _made(name: str, stored: str, path: Path) -> str:
    """Which file is served instead."""
    return f"{name} ({stored}) is served as {stored_type(path)}, made once and kept: {path}."


def _as_stored(name: str, stored: str | None, wanted_bits: int) -> str:
    """Why a GGUF file stays as it is."""
    bits = bits_of(stored.rpartition("-")[2]) if stored else None
    if bits is not None and bits <= wanted_bits:
        return (
            f"the weights in {name} are already quantised ({stored}). Nothing would be gained: "
            "more bits cost memory and bring no quality back. They are kept as they are."
        )
    told = f" ({stored})" if stored else ""
    return (
        f"{name} keeps its weights as they are stored{told}: okno quantises "
        f"{', '.join(UNQUANTISED)} (and 8 bits to 4) only, because what is quantised twice is "
        "worse than it need be. "
        f"A file with {wanted_bits}-bit weights needs less memory."
    )


def wants_gained(found: Checkpoint, wants: Wants, say: Callable[[str], None]) -> Wants:
    """`wants`, or nothing (and why) where the weights have so few bits already."""
    if wants.bits is None:
        return wants
    try:
        header = read_header(found.path)
    except OknoError:
        return wants  # the converter says what is wrong with it
    if is_quantised_to(header.file_type, wants.file_type):
        return wants
    say(_as_stored(found.name, header.file_type, wants.bits))
    return Wants()
