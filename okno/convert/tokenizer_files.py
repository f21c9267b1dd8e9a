"""The files of a Hugging Face folder that describe its tokenizer, parsed and bounded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec

from okno.core.errors import ModelUnusable
from okno.core.files import read_file

MAX_FILE_BYTES = 256 << 20  # the largest known tokenizer.json has 33 MB
Template = str | list[dict[str, object]]
Parsed = TypeVar("Parsed")


class AddedToken(msgspec.Struct, frozen=True):
    """A token of tokenizer.json's `added_tokens` or of tokenizer_config.json's
    `added_tokens_decoder`, matched in the text before anything else."""

    content: str
    id: int = -1
    special: bool = False
    lstrip: bool = False
    rstrip: bool = False
    single_word: bool = False
    normalized: bool = False


class TokenizerModel(msgspec.Struct, frozen=True):
    """`model` of tokenizer.json. A unigram model lists its vocabulary as (text, score)."""

    type: str | None = None
    vocab: dict[str, int] | list[tuple[str, float]] = {}  # msgspec copies it
    merges: list[str | tuple[str, str]] = []
    ignore_merges: bool = False
    byte_fallback: bool = False
    unk_token: str | None = None
    unk_id: int | None = None
    continuing_subword_prefix: str | None = None
    end_of_word_suffix: str | None = None


class TokenizerJson(msgspec.Struct, frozen=True):
    model: TokenizerModel
    added_tokens: list[AddedToken] = []
    normalizer: dict[str, object] | None = None
    pre_tokenizer: dict[str, object] | None = None
    post_processor: dict[str, object] | None = None


class TokenizerConfig(msgspec.Struct, frozen=True):
    """tokenizer_config.json or special_tokens_map.json: what is read of them."""

    added_tokens_decoder: dict[str, AddedToken] = {}
    chat_template: Template | None = None
    add_bos_token: bool | None = None
    add_eos_token: bool | None = None
    add_prefix_space: bool | None = None
    tokenizer_class: str | None = None
    bos_token: str | AddedToken | None = None
    eos_token: str | AddedToken | None = None
    unk_token: str | AddedToken | None = None
    pad_token: str | AddedToken | None = None


class EndIds(msgspec.Struct, frozen=True):
    """The ids of special tokens in config.json (or its text_config) and generation_config.json."""

    bos_token_id: int | list[int] | None = None
    eos_token_id: int | list[int] | None = None
    pad_token_id: int | list[int] | None = None
    text_config: dict[str, object] | None = None


@dataclass(frozen=True, slots=True)
class TokenizerFiles:
    """What a folder says of its tokenizer. sentencepiece: the bytes of tokenizer.model.
    added_tokens: added_tokens.json. templates: chat templates by name, "default" among them."""

    folder: Path
    tokenizer: TokenizerJson | None
    sentencepiece: bytes | None
    config: TokenizerConfig
    special_map: TokenizerConfig
    added_tokens: Mapping[str, int]
    model_ids: EndIds
    generation_ids: EndIds


def read_tokenizer_files(folder: Path) -> TokenizerFiles:
    """Reads them. Raises ModelUnusable when a file is not what it should be."""
    return TokenizerFiles(
        folder,
        read_json(folder / "tokenizer.json", TokenizerJson),
        _bytes(folder / "tokenizer.model"),
        read_json(folder / "tokenizer_config.json", TokenizerConfig) or TokenizerConfig(),
        read_json(folder / "special_tokens_map.json", TokenizerConfig) or TokenizerConfig(),
        read_json(folder / "added_tokens.json", dict[str, int]) or {},
        read_json(folder / "config.json", EndIds) or EndIds(),
        read_json(folder / "generation_config.json", EndIds) or EndIds(),
    )


def added_tokens(files: TokenizerFiles) -> Iterable[AddedToken]:
    """From all files that list them, the more telling one last."""
    for text, id_ in files.added_tokens.items():
        yield AddedToken(text, id_)
    yield from files.tokenizer.added_tokens if files.tokenizer else ()
    for text_id, token in files.config.added_tokens_decoder.items():
        if text_id.isdecimal():
            yield AddedToken(token.content, int(text_id), token.special, rstrip=token.rstrip)


def read_text(path: Path) -> str | None:
    """The file's text; None when there is no such file. Raises ModelUnusable."""
    data = _bytes(path)
    if data is None:
        return None
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise ModelUnusable(f"{path} is not text in UTF-8: {error}.") from None


def read_json(path: Path, kind: type[Parsed]) -> Parsed | None:
    data = _bytes(path)
    if data is None:
        return None
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ModelUnusable(
            f"{path} cannot be read ({str(error)[:200]}). Was the download cut short, or is the "
            "file another one? Get it again."
        ) from None


def _bytes(path: Path) -> bytes | None:
    try:
        data = read_file(path, MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ModelUnusable(f"{path} cannot be read: {error.strerror or error}.") from None
    if len(data) > MAX_FILE_BYTES:
        raise ModelUnusable(
            f"{path} has more than {MAX_FILE_BYTES >> 20} MiB, too many for a tokenizer. "
            "Is it another file of the same name?"
        )
    return data
