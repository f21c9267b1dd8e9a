"""Which files of a repository a model needs. Pure: from a list of files to the chosen ones."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from okno.core.commands import quoted
from okno.core.errors import ModelNotFound, ModelUnusable
from okno.inspect.listing import SHARD, is_model_file, missing_parts
from okno.inspect.safetensors import SINGLE
from okno.inspect.source_hub import Reference, with_quant

BESIDE_GGUF: tuple[str, ...] = ("generation_config.json",)
BESIDE_WEIGHTS: tuple[str, ...] = (
    "config.json", "generation_config.json", "quantize_config.json", "quant_config.json",
    "model.safetensors.index.json", "tokenizer.json", "tokenizer.model", "tokenizer_config.json",
    "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt", "spiece.model",
    "chat_template.jinja", "chat_template.json",
)  # fmt: skip
PICKLES = (".bin", ".pt", ".pth", ".ckpt")
PART = re.compile(r"-\d{5}-of-\d{5}\.safetensors$")
MAX_SHOWN = 12
MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class HubFile:
    """A file of a repository. sha256: of its content, of files in large file storage; blob_id:
    git's SHA-1 of it, of the others."""

    name: str
    size_bytes: int
    sha256: str | None = None
    blob_id: str | None = None

    @property
    def digest(self) -> str | None:
        """What the hub's cache calls its content."""
        return self.sha256 or self.blob_id


def needed(reference: Reference, files: Sequence[HubFile]) -> tuple[HubFile, ...]:
    """The files of the model that `reference` means, small ones first, so that whoever sees the
    weights sees all of it. Never a pickle.

    Raises ModelNotFound with what there is when that is not one model; ModelUnusable.
    """
    by_name = {file.name: file for file in files}
    ggufs = [file for file in files if is_model_file(file.name.rsplit("/", 1)[-1])]
    if reference.file and reference.file.lower().endswith(".gguf"):
        weights, beside = _parts(_named(reference, by_name), by_name), BESIDE_GGUF
    elif ggufs and not reference.file:
        weights, beside = _parts(_one_gguf(reference, ggufs), by_name), BESIDE_GGUF
    else:
        weights, beside = _safetensors(reference, by_name), BESIDE_WEIGHTS
    small = [by_name[name] for name in beside if name in by_name]
    return (*small, *weights)


def _named(reference: Reference, by_name: dict[str, HubFile]) -> HubFile:
    assert reference.file is not None
    found = by_name.get(reference.file)
    if found is None:
        raise ModelNotFound(
            f"{reference.id} has no file {reference.file}. It has {_shown(list(by_name.values()))}."
        )
    return found


def _one_gguf(reference: Reference, ggufs: list[HubFile]) -> HubFile:
    wanted = reference.quant
    by_name = {file.name: file for file in ggufs}
    fitting = [by_name[name] for name in with_quant(list(by_name), wanted)] if wanted else ggufs
    if len(fitting) == 1:
        return fitting[0]
    asked = f" none of which is {wanted}" if wanted and not fitting else ""
    raise ModelNotFound(
        f"{reference.id} has {len(fitting or ggufs)} models,{asked or ' so say which'}: "
        f"{_shown(fitting or ggufs)}. Give {reference.id}:QUANT or {reference.id}/FILE; "
        f"`okno plan {quoted(reference.id)}:QUANT` says what fits here."
    )


def _parts(first: HubFile, by_name: dict[str, HubFile]) -> tuple[HubFile, ...]:
    """All files of the model that `first` begins."""
    match = SHARD.search(first.name)
    if match is None:
        return (first,)
    others = missing_parts([first.name])
    lacking = [name for name in others if name not in by_name]
    if lacking:
        raise ModelUnusable(
            f"The repository lacks {lacking[0]}, a part of {first.name}: the model needs all of "
            "its files. Tell its publisher, or take another quantisation."
        )
    return tuple(by_name[name] for name in sorted((first.name, *others)))


def _safetensors(reference: Reference, by_name: dict[str, HubFile]) -> tuple[HubFile, ...]:
    """The weights beside config.json: model.safetensors, its parts, or the only ones."""
    names = sorted(name for name in by_name if name.endswith(".safetensors") and "/" not in name)
    if reference.quant:
        raise ModelNotFound(
            f"{reference.id} has no GGUF files, so there is no {reference.quant} to choose. Leave "
            f"`:{reference.quant}` out; --load-in-8bit and --load-in-4bit quantise what it has."
        )
    if not names:
        raise _no_weights(reference, by_name)
    if SINGLE in names:
        return (by_name[SINGLE],)
    named = reference.file if reference.file in names else None
    stems = {PART.sub("", name) for name in names}
    chosen = _stem(reference, PART.sub("", named) if named else None, stems)
    parts = [name for name in names if PART.sub("", name) == chosen]
    missing = missing_parts(parts)
    if missing:
        raise ModelUnusable(
            f"{reference.id} lacks {missing[0]}: the model needs all of its files. Tell its "
            "publisher, or take another revision (REPO@REVISION)."
        )
    return tuple(by_name[name] for name in parts)


def _stem(reference: Reference, named: str | None, stems: set[str]) -> str:
    """The one model among several sets of safetensors files."""
    if named is not None:
        return named
    if len(stems) == 1:
        return stems.pop()
    if "model" in stems:  # beside it, Mistral's own `consolidated` has the same weights
        return "model"
    shown = ", ".join(sorted(stems)[:MAX_SHOWN])
    raise ModelNotFound(
        f"{reference.id} has several weights: {shown}. Say which: {reference.id}/FILE."
    )


def _no_weights(reference: Reference, by_name: dict[str, HubFile]) -> ModelNotFound | ModelUnusable:
    if any(name.endswith(PICKLES) for name in by_name):
        return ModelUnusable(
            f"{reference.id} has its weights as pickles (.bin), which can run any program when "
            "they are read; okno never loads them. Take a repository of the same model with "
            ".safetensors or .gguf files, or a revision of this one that was converted: often "
            f"{reference.id}@refs/pr/N, listed under the model's Community tab."
        )
    return ModelNotFound(
        f"{reference.id} has no weights that okno can load (.gguf, .safetensors). It has "
        f"{_shown(list(by_name.values()))}."
    )


def _shown(files: Sequence[HubFile]) -> str:
    words = [f"{file.name} ({max(1, file.size_bytes // MIB):,} MiB)" for file in files[:MAX_SHOWN]]
    more = f" and {len(files) - MAX_SHOWN} more" if len(files) > MAX_SHOWN else ""
    return ", ".join(words) + more if words else "no files"
