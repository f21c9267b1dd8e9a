"""The parameters of a query, each known and given once."""

from __future__ import annotations

import difflib
from collections.abc import Collection

from fastapi import Request as HTTPRequest

from okno.core.errors import BadRequest

SHOWN_CHARS = 80


def parameters(request: HTTPRequest, known: Collection[str]) -> dict[str, str]:
    """The query as text. Raises BadRequest that names an unknown or repeated one."""
    asked: dict[str, str] = {}
    there = f"There are: {', '.join(known)}." if known else "It takes none."
    for name, value in request.query_params.multi_items():
        shown = name[:SHOWN_CHARS]
        if name not in known:
            near = difflib.get_close_matches(shown, known, n=1)
            hint = f"; the nearest is `{near[0]}`" if near else ""
            raise BadRequest(
                f"`{shown}` is not a parameter of {request.url.path}{hint}. {there}",
                param=shown,
            )
        if name in asked:
            raise BadRequest(f"`{name}` stands twice; give it once.", param=name)
        asked[name] = value
    return asked
