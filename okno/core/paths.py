"""Paths as people write them."""

from __future__ import annotations

from pathlib import Path

from okno.core.errors import ModelNotFound, OknoError


def expanded(asked: str | Path, wrong: type[OknoError] = ModelNotFound) -> Path:
    """`asked` with `~` and `~user` as folders. Raises `wrong` when there is no such user."""
    try:
        return Path(asked).expanduser()
    except RuntimeError:
        raise wrong(
            f"{ascii(str(asked))[:200]} begins with the home folder of a user who has none here. "
            "Write the path in full."
        ) from None
