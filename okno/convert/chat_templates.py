"""The chat templates of a Hugging Face folder."""

from __future__ import annotations

import msgspec

from okno.convert.fields import Field
from okno.convert.tokenizer_files import Template, TokenizerFiles, read_json, read_text
from okno.core.errors import ModelUnusable

MAX_TEMPLATE_BYTES = 1 << 20  # a longer one is not read back by okno/inspect/gguf.py
MAX_TEMPLATES = 64


class _Json(msgspec.Struct, frozen=True):
    chat_template: Template | None = None


def chat_template_fields(files: TokenizerFiles) -> dict[str, Field]:
    """`tokenizer.chat_template` for the default one, `tokenizer.chat_template.NAME` and the list
    of names for the others. Raises ModelUnusable.

    A file of its own goes before the entry in tokenizer_config.json, as in transformers.
    """
    templates = _templates(files)
    if len(templates) > MAX_TEMPLATES:
        raise ModelUnusable(
            f"{files.folder} has {len(templates)} chat templates; at most {MAX_TEMPLATES} are "
            "supported. Remove those that are not used."
        )
    for name, text in templates.items():
        if len(text.encode(errors="replace")) > MAX_TEMPLATE_BYTES:
            raise ModelUnusable(
                f"{files.folder}: the chat template {name!r} is longer than 1 MiB. Is it another "
                "file by mistake? Shorten or remove it."
            )
    named = {name: text for name, text in templates.items() if name != "default"}
    fields: dict[str, Field] = {f"tokenizer.chat_template.{n}": t for n, t in named.items()}
    if named:
        fields["tokenizer.chat_templates"] = tuple(named)
    if "default" in templates:
        fields["tokenizer.chat_template"] = templates["default"]
    return fields


def _templates(files: TokenizerFiles) -> dict[str, str]:
    """By name; "default" is the one that is used when no name is asked."""
    json = read_json(files.folder / "chat_template.json", _Json)
    found = _named(files.config.chat_template) | _named(json.chat_template if json else None)
    text = read_text(files.folder / "chat_template.jinja")
    if text is not None:
        found["default"] = text
    for path in sorted((files.folder / "additional_chat_templates").glob("*.jinja")):
        found[path.stem] = read_text(path) or ""
    return found


def _named(template: Template | None) -> dict[str, str]:
    if template is None:
        return {}
    if isinstance(template, str):
        return {"default": template}
    return {str(entry.get("name")): str(entry.get("template")) for entry in template}
