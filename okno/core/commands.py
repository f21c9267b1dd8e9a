"""Commands that messages suggest: what a user can copy into a shell, whatever a path contains."""

from __future__ import annotations

import shlex
from pathlib import Path


def quoted(word: str | Path) -> str:
    """A path or a name as one word of a shell: `'my models/a.gguf'`; a plain one stays as it is."""
    return shlex.quote(str(word))
