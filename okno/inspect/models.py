"""Model names: what `--model NAME` means on this machine.

`find_local` is for the person at the keyboard: a path, or a name. `find_by_name` is for names
alone: it picks an entry of the folder's listing and never builds a path from the name, so a name
cannot lead out of the folder whatever it contains.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Sequence
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import platformdirs

from okno.core.commands import quoted
from okno.core.errors import BadSetting, ModelNotFound, ModelUnusable
from okno.core.files import read_file
from okno.core.paths import expanded
from okno.inspect.adapter_kind import is_adapter, no_model
from okno.inspect.hub_cache import (
    SNAPSHOTS,
    find_cached,
    list_hub,
    list_snapshot,
    narrowed,
)
from okno.inspect.hub_home import hub_cache
from okno.inspect.listing import (
    NOTHING,
    Checkpoint,
    Listing,
    LocalModel,
    checkpoint_of,
    list_folder,
    split_size_bytes,
    stem_of,
)
from okno.inspect.names import candidates, nearest
from okno.inspect.paths import cannot_be_read, kind_at, names_in
from okno.inspect.source_hub import MAIN, Reference, parse_reference

DEMO = "demo"
MAX_NAME_CHARS = 1024
GGUF_MAGIC = b"GGUF"


class NotHere(ModelNotFound):
    """Nothing on this machine is called so; it may be had from elsewhere."""


def models_folder(asked: Path | None = None) -> Path:
    """The models folder: the asked one, else `models` in okno's user data folder. Raises BadSetting
    for `~user` without such a user."""
    if asked is not None:
        return expanded(asked, BadSetting)
    return Path(platformdirs.user_data_dir("okno", appauthor=False)) / "models"


def demo_model() -> LocalModel:
    """The model that ships with okno."""
    path = Path(str(files("okno"))) / "data" / "demo.gguf"
    return LocalModel(DEMO, path, path.stat().st_size)


def find_model(asked: str, folder: Path) -> LocalModel:
    """The GGUF model that `asked` means: as `find_local`, and a checkpoint is a ModelUnusable."""
    return _loadable(find_local(asked, folder))


def find_local(asked: str, folder: Path) -> LocalModel | Checkpoint:
    """What `asked` means on this machine: a path to a GGUF file or to a folder with one or with a
    checkpoint, `demo`, or a name in `folder` or in the cache of huggingface_hub, also
    `owner/repo[/file][:quant][@revision]`.

    Raises NotHere (with the nearest names), ModelNotFound (several) or ModelUnusable (a file that
    is no GGUF, or one that may not be read).
    """
    _check_characters(asked)
    if asked == DEMO:
        return demo_model()
    path = expanded(asked)
    if _means_a_path(asked, path):
        return _at_path(path, asked)
    reference = parse_reference(asked)
    if reference is not None and asked.startswith("hf:"):
        return _only(asked, find_cached(reference, hub_cache()), folder)
    if reference is not None and reference.is_narrowed:
        return _only(asked, _narrowed(reference, folder), folder)
    own = list_folder(folder)
    named = {entry.name for entry in own.entries}
    hub = [entry for entry in list_hub(hub_cache()).entries if entry.name not in named]
    return _only(asked, candidates(asked, (*own.entries, *hub)), folder, own, hub)


def find_by_name(asked: str, folder: Path) -> LocalModel | Checkpoint:
    """What is named `asked` in `folder` (or `demo`), never anything outside it. Errors as
    `find_local`."""
    _check_characters(asked)
    if asked == DEMO:
        return demo_model()
    own = list_folder(folder)
    return _only(asked, candidates(asked, own.entries), folder, own)


def _narrowed(reference: Reference, folder: Path) -> list[LocalModel | Checkpoint]:
    """The files that a reference to more than a repository means: in the models folder (of no
    certain revision), else in the hub's cache."""
    found = narrowed_in_folder(reference, folder) if reference.revision == MAIN else []
    return found or find_cached(reference, hub_cache())


def narrowed_in_folder(reference: Reference, folder: Path) -> list[LocalModel | Checkpoint]:
    """The files in the models folder that a file or a quantisation of a repository means."""
    for written in (reference.id, reference.id.replace("/", "_")):
        listing = list_folder(folder)
        here = tuple(
            model
            for model in listing.models
            if any(word.startswith(f"{written}/") for word in model.spellings)
        )
        found = narrowed(replace(listing, models=here, checkpoints=()), reference, written)
        if found:
            return found
    return []


def _only(
    asked: str,
    found: Sequence[LocalModel | Checkpoint],
    folder: Path,
    own: Listing = NOTHING,
    hub: Sequence[LocalModel | Checkpoint] = (),
) -> LocalModel | Checkpoint:
    """The one entry of `found`; adapters among models do not count."""
    found = _without_adapters(found)
    if len(found) == 1:
        return checked(found[0])
    if found:
        raise ModelNotFound(
            f"{_shown(asked)} fits {len(found)} models: {_names(found)}. Give one of these names."
        )
    raise _nothing_found(asked, folder, own, hub)


def _loadable(found: LocalModel | Checkpoint) -> LocalModel:
    """`found` if the engine reads it as it is. Raises ModelUnusable."""
    if isinstance(found, LocalModel):
        return found
    raise ModelUnusable(
        f"{found.name} holds {found.format} weights, and this needs a GGUF file. `okno convert "
        f"{quoted(found.name)}` makes one."
    )


def _without_adapters(
    found: Sequence[LocalModel | Checkpoint],
) -> Sequence[LocalModel | Checkpoint]:
    """The models of several; all of them where there are only adapters."""
    models = [one for one in found if not is_adapter(one)] if len(found) > 1 else []
    return models or found


def checked(model: LocalModel | Checkpoint) -> LocalModel | Checkpoint:
    """`model`, when it is no adapter, and its file (if it is one) begins like a GGUF file."""
    if isinstance(model, LocalModel):
        _check_magic(model)
    if is_adapter(model):
        raise no_model(model)
    return model


def _check_magic(model: LocalModel) -> None:
    try:
        magic = read_file(model.path, len(GGUF_MAGIC))
    except OSError as error:
        raise cannot_be_read(model.path, error) from None
    if magic != GGUF_MAGIC:
        raise ModelUnusable(
            f"{model.path} is not a GGUF file (it begins with {magic!r} instead of {GGUF_MAGIC!r})."
            " Was the download cut short, or is it another format?"
        )


def _means_a_path(asked: str, path: Path) -> bool:
    """It can only be a path, or it is written like one and there is something."""
    only_a_path = path.is_absolute() or asked.startswith(("./", "../", "~"))
    written_as_path = asked.endswith(".gguf") or os.sep in asked or "/" in asked
    return only_a_path or (written_as_path and kind_at(path) is not None)


def _at_path(path: Path, asked: str) -> LocalModel | Checkpoint:
    kind = kind_at(path)
    if kind == "folder":
        return _in_folder(path)
    if kind == "file":
        return checked(LocalModel(stem_of(path), path, split_size_bytes(path)))
    if kind == "other":
        raise ModelUnusable(
            f"{_shown(asked)} is neither a file nor a folder but a pipe or a device, which okno "
            "does not read. Give a GGUF file, or a folder of weights."
        )
    raise ModelNotFound(f"There is no file {_shown(asked)}.")


def _in_folder(folder: Path) -> LocalModel | Checkpoint:
    """The one model in a folder given by path, which may be a snapshot in the hub's cache."""
    names = names_in(folder)
    whole = folder.absolute()
    found: Sequence[LocalModel | Checkpoint] = list_folder(folder).models
    if whole.parent.name == SNAPSHOTS:
        repository = whole.parent.parent.name.removeprefix("models--")
        found = list_snapshot(whole, repository.replace("--", "/")).entries
    found = _without_adapters(found)
    if len(found) == 1:
        return checked(found[0])
    if found:
        raise ModelNotFound(
            f"{folder} holds {len(found)} models: {_names(found)}. Give the path of one file."
        )
    checkpoint = checkpoint_of(folder.resolve(), [folder / name for name in names])
    if checkpoint is not None:
        return checked(checkpoint)
    raise ModelNotFound(f"{folder} holds no .gguf file and no .safetensors weights.")


def _check_characters(asked: str) -> None:
    """Refuse what no model is called: control, invisible and unpaired characters, endless names."""
    if not asked or len(asked) > MAX_NAME_CHARS:
        raise ModelNotFound(
            f"A model name has 1 to {MAX_NAME_CHARS:,} characters; this one has {len(asked):,}."
        )
    for character in asked:
        if unicodedata.category(character) in {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}:
            raise ModelNotFound(
                f"The model name {_shown(asked)} contains the invisible or invalid character "
                f"U+{ord(character):04X}; no model is called that."
            )


def _nothing_found(
    asked: str, folder: Path, own: Listing, hub: Sequence[LocalModel | Checkpoint]
) -> ModelNotFound:
    """The error that helps most."""
    if ".." in asked.replace("\\", "/").split("/"):
        return ModelNotFound(
            f"{_shown(asked)} leads out of the models folder, and there is no such file. "
            "Give a name in the folder, or the path of a .gguf file."
        )
    if asked in own.leading_out:
        return ModelNotFound(
            f"{_shown(asked)} is a link that leads out of the models folder. "
            "Give the path of the .gguf file itself."
        )
    known = [DEMO, *(entry.name for entry in (*own.entries, *hub))]
    message = f"There is no model {_shown(asked)} in {folder}. {_offer(asked, known)}"
    if parse_reference(asked) is not None:
        message += (
            f" If it is a Hugging Face repository: `okno pull {quoted(asked)}` fetches it, and "
            "`okno serve` does so by itself."
        )
    return NotHere(message)


def _offer(asked: str, known: Sequence[str]) -> str:
    near = nearest(asked, known)
    if near:
        return f"Did you mean {' or '.join(near)}?"
    more = f" and {len(known) - 8} more (okno models)" if len(known) > 8 else ""
    return f"There is: {', '.join(known[:8])}{more}."


def _names(models: Sequence[LocalModel | Checkpoint]) -> str:
    shown = ", ".join(model.name for model in models[:8])
    return f"{shown}, …" if len(models) > 8 else shown


def _shown(name: str) -> str:
    """The name as one printable, short word."""
    text = name if name.isprintable() else ascii(name)[1:-1]
    return f"'{text[:80]}…'" if len(text) > 80 else f"'{text}'"
