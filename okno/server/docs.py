"""The tables of docs/http-api.md, from the code: `python -m okno.server.docs docs/http-api.md`.

The page is written by hand around them; each table stands between `<!-- table: NAME -->` and
`<!-- end -->`.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from pathlib import Path

import msgspec

from okno.server.app import ROUTES
from okno.server.plan import PlanFields
from okno.server.schemas import (
    IGNORED,
    IGNORED_INSIDE,
    REFUSED,
    ChatFields,
    CompletionFields,
    DetokenizeFields,
    EmbeddingFields,
    GenerationFields,
    TemplateFields,
    TokenizeFields,
)
from okno.server.window import WindowFields

TABLE = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def page(text: str) -> str:
    """`text` with every table filled in. KeyError: a table of an unknown name."""
    made = tables()
    return TABLE.sub(lambda found: f"{found[1]}\n{made[found[2]]}\n{found[3]}", text)


def tables() -> dict[str, str]:
    shared = set(GenerationFields.__struct_fields__)
    return {
        "routes": table(("Method", "Path"), ((m, f"`{p}`") for m, p, _ in ROUTES)),
        "generation": fields(GenerationFields),
        "chat": fields(ChatFields, without=shared),
        "completions": fields(CompletionFields, without=shared),
        "embeddings": fields(EmbeddingFields),
        "tokenize": fields(TokenizeFields),
        "detokenize": fields(DetokenizeFields),
        "template": fields(TemplateFields),
        "plan": fields(PlanFields),
        "window": fields(WindowFields),
        "ignored": table(
            ("Field", "Because"), ((f"`{n}`", w) for n, w in (IGNORED | IGNORED_INSIDE).items())
        ),
        "refused": table(("Field", "Instead"), ((f"`{n}`", w) for n, w in REFUSED.items())),
    }


def fields(kind: type[msgspec.Struct], without: Iterable[str] = ()) -> str:
    """One row per field of a request: its name and its own documentation."""
    info = msgspec.inspect.type_info(kind)
    assert isinstance(info, msgspec.inspect.StructType)
    left_out = set(without)
    rows = ((f.name, f.required, described(f.type)) for f in info.fields if f.name not in left_out)
    return table(
        ("Field", "Meaning"),
        ((f"`{name}`{' (required)' if required else ''}", text) for name, required, text in rows),
    )


def described(kind: msgspec.inspect.Type) -> str:
    assert isinstance(kind, msgspec.inspect.Metadata), "every field has a description"
    schema = kind.extra_json_schema or {}
    return str(schema["description"]).replace("|", "\\|")


def table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


if __name__ == "__main__":
    path = Path(sys.argv[1])
    path.write_text(page(path.read_text(encoding="utf-8")), encoding="utf-8")
