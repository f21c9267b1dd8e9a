"""Which tokens begin and end a text, pad it, or stand for unknown ones."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from okno.convert.fields import Field
from okno.convert.tokenizer_files import AddedToken, EndIds, TokenizerFiles
from okno.core.errors import ModelUnusable

# What the engine takes for an end of generation by its text alone (llama_vocab::impl::load).
ENDS_BY_TEXT = frozenset((
    "<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<|flush|>", "<|calls|>",
    "<end_of_turn>", "<|endoftext|>", "</s>", "<|eom_id|>", "<EOT>", "_<EOT>", "[EOT]", "[EOS]",
    "<|end_of_text|>", "<end_of_utterance>", "<eos>", "<turn|>", "<|tool_response>",
    "<｜end▁of▁sentence｜>", "[e~[",
))  # fmt: skip
FILL_IN = {
    "fim_pre": ("<|fim_prefix|>", "<fim-prefix>", "<fim_prefix>", "<｜fim▁begin｜>", "▁<PRE>"),
    "fim_suf": ("<|fim_suffix|>", "<fim-suffix>", "<fim_suffix>", "<｜fim▁hole｜>", "▁<SUF>"),
    "fim_mid": ("<|fim_middle|>", "<fim-middle>", "<fim_middle>", "<｜fim▁end｜>", "▁<MID>"),
}
KEYS = {
    "bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding", "eot": "eot", "eom": "eom",
    "fim_pre": "fim_pre", "fim_suf": "fim_suf", "fim_mid": "fim_mid",
}  # fmt: skip
# Classes for which transformers before 5 made a post-processor of add_bos_token and add_eos_token.
OWN_FLAGS = frozenset((
    "LlamaTokenizer", "LlamaTokenizerFast", "CodeLlamaTokenizer", "CodeLlamaTokenizerFast",
    "GemmaTokenizer", "GemmaTokenizerFast",
))  # fmt: skip


@dataclass(frozen=True, slots=True)
class Declared:
    """What a SentencePiece model itself says. ids: role (bos, eos, unk, pad) to id.
    adds_bos: whether a text begins with bos when no file says so."""

    ids: Mapping[str, int]
    adds_bos: bool


def special_fields(
    files: TokenizerFiles, tokens: Sequence[str], declared: Declared
) -> dict[str, Field]:
    """The `*_token_id` and `add_*_token` fields. Raises ModelUnusable without any end token."""
    ids_by_text = {text: id_ for id_, text in enumerate(tokens)}
    template = _template(files)
    ids = _roles(files, ids_by_text, len(tokens), declared, template)
    if "eos" not in ids:
        raise ModelUnusable(
            f"{files.folder} names no token that ends a text (eos_token in tokenizer_config.json, "
            "eos_token_id in config.json or generation_config.json), so the model would never "
            "stop. Add it to one of them."
        )
    # Without one the engine would take token 11 of a BPE vocabulary for it.
    ids.setdefault("bos", ids["eos"])
    ids |= _further_ends(files, tokens, ids["eos"])
    for role, texts in FILL_IN.items():
        found = [ids_by_text[text] for text in texts if text in ids_by_text]
        if found:
            ids[role] = found[0]
    fields: dict[str, Field] = {
        f"tokenizer.ggml.{KEYS[role]}_token_id": id_ for role, id_ in ids.items()
    }
    before, after = _added(files, template, declared.adds_bos)
    return fields | {
        "tokenizer.ggml.add_bos_token": before,
        "tokenizer.ggml.add_eos_token": after,
    }


@dataclass(frozen=True, slots=True)
class _Template:
    """The special tokens that tokenizer.json's post_processor puts around a text."""

    first: str | None
    last: str | None


def _roles(
    files: TokenizerFiles,
    ids_by_text: Mapping[str, int],
    n_vocab: int,
    declared: Declared,
    template: _Template | None,
) -> dict[str, int]:
    """Role to id: from the text in the tokenizer's files, from the model's configuration, from
    the SentencePiece model, in this order."""
    ids: dict[str, int] = {}
    for role in ("bos", "eos", "unk", "pad"):
        found = [
            *(ids_by_text.get(text) for text in _texts(files, role, template)),
            *(_first(config, role) for config in (files.model_ids, files.generation_ids)),
            declared.ids.get(role),
        ]
        valid = [id_ for id_ in found if id_ is not None and 0 <= id_ < n_vocab]
        if valid:
            ids[role] = valid[0]
    return ids


def _texts(files: TokenizerFiles, role: str, template: _Template | None) -> Iterable[str]:
    """What the files call the token of `role`, the more telling one first."""
    if role == "bos" and template is not None and template.first is not None:
        yield template.first
    for config in (files.config, files.special_map):
        said: object = getattr(config, f"{role}_token")
        if isinstance(said, AddedToken):
            yield said.content
        elif isinstance(said, str):
            yield said
    if role == "unk" and files.tokenizer is not None and files.tokenizer.model.unk_token:
        yield files.tokenizer.model.unk_token


def _first(config: EndIds, role: str) -> int | None:
    ids = _ids(config, role)
    return ids[0] if ids else None


def _ids(config: EndIds, role: str) -> list[int]:
    """All ids of `role`, also those of a text_config (models that see pictures have one)."""
    said: object = getattr(config, f"{role}_token_id", None)
    if said is None and config.text_config is not None:
        said = config.text_config.get(f"{role}_token_id")
    if isinstance(said, list):
        return [id_ for id_ in said if isinstance(id_, int)]
    return [said] if isinstance(said, int) else []


def _further_ends(files: TokenizerFiles, tokens: Sequence[str], eos: int) -> dict[str, int]:
    """Further ends of generation that the engine would not know by their text: it has two more
    places, called end of turn and end of message."""
    listed = [*_ids(files.generation_ids, "eos"), *_ids(files.model_ids, "eos")]
    unknown = [
        id_
        for id_ in dict.fromkeys(listed)
        if 0 <= id_ < len(tokens) and id_ != eos and tokens[id_] not in ENDS_BY_TEXT
    ]
    if len(unknown) > 2:
        names = [tokens[id_] for id_ in unknown]
        raise ModelUnusable(
            f"{files.folder}: generation_config.json names {len(unknown) + 1} tokens that end an "
            f"answer; the engine has places for three. Beside {tokens[eos]!r} there are {names}. "
            "Remove those that the model does not use from eos_token_id."
        )
    return dict(zip(("eot", "eom"), unknown, strict=False))


def _added(files: TokenizerFiles, template: _Template | None, adds_bos: bool) -> tuple[bool, bool]:
    """Whether a text gets bos before it and eos after it, as transformers decides it."""
    before, after = files.config.add_bos_token, files.config.add_eos_token
    if template is not None:
        return template.first is not None, template.last is not None
    if files.tokenizer is None:
        return (adds_bos if before is None else before), bool(after)
    if files.config.tokenizer_class in OWN_FLAGS:
        return bool(before), bool(after)
    return False, False


def _template(files: TokenizerFiles) -> _Template | None:
    """Of a TemplateProcessing in the post-processor; None without one."""
    post = files.tokenizer.post_processor if files.tokenizer else None
    listed = post.get("processors", [post]) if post else []
    for processor in listed if isinstance(listed, list) else []:
        if isinstance(processor, dict) and processor.get("type") == "TemplateProcessing":
            return _parsed(processor.get("single"), files)
    return None


def _parsed(single: object, files: TokenizerFiles) -> _Template:
    """Of the form [special token]? text [special token]?. Raises ModelUnusable for another."""
    parts = [_part(part) for part in single] if isinstance(single, list) else []
    at = parts.index(None) if None in parts else -1
    before, after = parts[:at], parts[at + 1 :]
    if at < 0 or len(before) > 1 or len(after) > 1 or None in after:
        raise ModelUnusable(
            f"{files.folder / 'tokenizer.json'} puts {parts} around a text (the empty one is the "
            "text); the engine puts at most one token before and one after it. Take a GGUF of "
            "this model."
        )
    return _Template(before[0] if before else None, after[0] if after else None)


def _part(part: object) -> str | None:
    """The special token's text; None for the text itself."""
    special = part.get("SpecialToken") if isinstance(part, dict) else None
    return str(special.get("id")) if isinstance(special, dict) else None
