from __future__ import annotations

from pathlib import Path

from okno.server.app import ROUTES
from okno.server.docs import page
from okno.server.schemas import (
    IGNORED,
    IGNORED_INSIDE,
    REFUSED,
    ChatFields,
    CompletionFields,
    DetokenizeFields,
    EmbeddingFields,
    TemplateFields,
    TokenizeFields,
)

TEXT = (Path(__file__).parents[2] / "docs" / "http-api.md").read_text(encoding="utf-8")


def test_the_tables_of_http_api_md_are_those_of_the_code() -> None:
    assert page(TEXT) == TEXT, "stale: run `python -m okno.server.docs docs/http-api.md`"


def test_every_field_and_route_is_documented() -> None:
    names = {*IGNORED, *IGNORED_INSIDE, *REFUSED, *(path for _, path, _ in ROUTES)}
    for kind in (
        ChatFields, CompletionFields, EmbeddingFields,
        TokenizeFields, DetokenizeFields, TemplateFields,
    ):  # fmt: skip
        names |= set(kind.__struct_fields__)
    assert {name for name in names if f"`{name}`" not in TEXT} == set()
