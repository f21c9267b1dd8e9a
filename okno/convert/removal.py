"""What `okno rm` may remove: models in the models folder, repositories in the hub's cache, and
files that okno made. Never anything outside these, nor what beside a model is no part of it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from okno.convert.provenance import note_of
from okno.convert.removable import Removal, called, parts_of
from okno.convert.removal_hub import of_hub, remove_empty, remove_from_hub
from okno.core.commands import quoted
from okno.core.errors import BadSetting, ModelNotFound, ModelUnusable
from okno.inspect.adapter_kind import PEFT
from okno.inspect.hub_cache import list_hub
from okno.inspect.listing import Checkpoint, LocalModel, list_folder
from okno.inspect.models import DEMO, narrowed_in_folder
from okno.inspect.names import nearest
from okno.inspect.source_hub import parse_reference
from okno.inspect.source_open import CONFIG

OF_A_CHECKPOINT = re.compile(
    r".*\.(safetensors|bin|pt|pth|ckpt|index\.json|jinja|tiktoken)|(tokenizer|spiece)\.model|"
    r"(.*_)?config\.json|(tokenizer|tekken|vocab|params|special_tokens_map|added_tokens)\.json|"
    r"chat_template\.json|(merges|vocab)\.txt|(readme|license|notice|use_policy).*|\.gitattributes"
)


def find_removal(asked: str, models: Path, cache: Path, converted: Path) -> Removal:
    """What `asked` means exactly: nothing is removed by a part of its name.

    asked: a name or a path as `okno models` lists them, or `[hf:]owner/repo[/file][:quant][@rev]`.
    Raises BadSetting for what okno may not remove, ModelNotFound for what is not there or is more
    than one thing.
    """
    if asked == DEMO:
        raise BadSetting("The demo model ships with okno and stays; it takes 8.5 MiB.")
    found = [*_of_folders(asked, models, converted), *of_hub(asked, cache)]
    if len(found) == 1:
        return found[0]
    if found:
        shown = "; ".join(f"{one.what}: `okno rm {quoted(one.exactly)}`" for one in found)
        raise ModelNotFound(f"{asked!r} is {len(found)} things, so say which. {shown}.")
    listings = (list_folder(models), list_folder(converted), list_hub(cache))
    near = nearest(asked, [entry.name for listing in listings for entry in listing.entries])
    hint = f"Did you mean {' or '.join(near)}?" if near else "`okno models` lists what is here."
    raise ModelNotFound(
        f"Nothing here is called {asked[:200]!r}, in full. {hint} Only what is in the models "
        "folder, in the hub's cache or made by okno can be removed."
    )


def remove(removal: Removal, cache: Path) -> None:
    """Do it. Raises ModelUnusable when the system does not let it."""
    try:
        if removal.within is None:
            remove_from_hub(removal, cache)
            return
        for path in removal.files:
            path.unlink(missing_ok=True)
            note_of(path).unlink(missing_ok=True)
        remove_empty({path.parent for path in removal.files}, removal.within)
    except OSError as error:
        raise ModelUnusable(
            f"{removal.name} cannot be removed: {error.strerror or error} ({error.filename})."
        ) from None


def _of_folders(asked: str, models: Path, converted: Path) -> Iterator[Removal]:
    """What is called so in the models folder, and among what okno made. A revision is only in the
    hub's cache."""
    if asked.startswith("hf:"):
        return
    reference = parse_reference(asked)
    own = called(asked, list_folder(models).entries)
    if not own and reference is not None and reference.quant and "@" not in asked:
        own = narrowed_in_folder(reference, models)
    for entry in own:
        yield _of_folder(entry, "in the models folder", models)
    for entry in called(asked, list_folder(converted).entries):
        yield _of_folder(entry, "made by okno", converted)


def _of_folder(entry: LocalModel | Checkpoint, what: str, within: Path) -> Removal:
    """A model file with its parts; of a checkpoint its own files in its folder."""
    exactly = str(entry.path)
    if isinstance(entry, LocalModel):
        files = parts_of(entry.path)
        return Removal(entry.name, what, exactly, entry.size_bytes, (entry.name,), files, within)
    files, others = _own_files(entry.path)
    size_bytes = sum(path.lstat().st_size for path in files)
    return Removal(
        entry.name, what, exactly, size_bytes, (entry.name,), files, within, others=others
    )


def _own_files(folder: Path) -> tuple[tuple[Path, ...], int]:
    """What is of the checkpoint (or the PEFT adapter) in `folder`, and how many other files there
    are. Raises BadSetting for a folder that may be something else: what ends with `.bin` need not
    be weights."""
    if not any((folder / name).is_file() for name in (CONFIG, PEFT)):
        raise BadSetting(
            f"{folder} has no {CONFIG}, so it may be something else than a model, and okno does "
            "not remove it. Remove it with the means of your system."
        )
    here = sorted(path for path in folder.iterdir() if not path.is_dir())
    own = tuple(path for path in here if OF_A_CHECKPOINT.fullmatch(path.name.lower()))
    return own, len(here) - len(own)
