"""The text `okno depth` reads: the user's file, or one that ships."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from okno.core.errors import BadSetting
from okno.store.identity import text_identity

MAX_TEXT_BYTES = 64 * 2**20
SHIPPED = "depth_ru_en.txt"


@dataclass(frozen=True, slots=True)
class DepthText:
    """documents: parts that know nothing of each other. special: `<|...|>` in them are the
    model's special tokens."""

    name: str
    documents: tuple[str, ...]
    special: bool = False

    @property
    def identity(self) -> str:
        """16 hex digits that name the text."""
        return text_identity("\f".join((*self.documents, "special" * self.special)))


def text_for(path: Path | None, *, special: bool, is_demo: bool) -> DepthText:
    """The file's text, else the one that fits the model. `-` is stdin. Raises BadSetting."""
    if path is not None:
        return read_text(path, special=special)
    if is_demo:
        from okno.bench.depth_demo import default_documents

        return DepthText("facts that return (made for the demo)", default_documents(), special=True)
    text = (Path(str(files("okno"))) / "data" / SHIPPED).read_text(encoding="utf-8")
    return DepthText(SHIPPED, (text,))


def read_text(path: Path, *, special: bool = False) -> DepthText:
    """A UTF-8 file; form feeds part it into documents. Raises BadSetting."""
    data = _bytes(path)
    try:
        text = data.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise BadSetting(
            f"--text {path} is not UTF-8: byte 0x{data[error.start]:02x} at offset "
            f"{error.start:,}. Convert it first, for example: iconv -f cp1251 -t utf-8.",
            param="text",
        ) from None
    documents = tuple(part for part in text.split("\f") if part.strip())
    if not documents:
        raise BadSetting(f"--text {path} is empty. Give a text of some pages.", param="text")
    return DepthText("stdin" if str(path) == "-" else path.name, documents, special)


def _bytes(path: Path) -> bytes:
    try:
        if str(path) == "-":
            data = sys.stdin.buffer.read(MAX_TEXT_BYTES + 1)
        else:
            with path.open("rb") as file:
                data = file.read(MAX_TEXT_BYTES + 1)
    except OSError as error:
        raise BadSetting(f"--text {path} cannot be read: {error.strerror}.", param="text") from None
    if len(data) > MAX_TEXT_BYTES:
        raise BadSetting(
            f"--text {path} is larger than {MAX_TEXT_BYTES // 2**20} MiB; give a part of it.",
            param="text",
        )
    return data
