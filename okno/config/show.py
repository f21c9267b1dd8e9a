"""The settings in effect, in the shape of the file."""

from __future__ import annotations

from okno.config.explain import HIDDEN, Plain, explain
from okno.config.load import Loaded
from okno.config.render import value_text
from okno.config.tree import PARTS, by_key


def effective(loaded: Loaded) -> dict[str, object]:
    """What a file would hold that sets everything as it is now. Left out: secrets, what is not set,
    and what users do not see."""
    found: dict[str, object] = _part(loaded, "")
    return found | {part: _part(loaded, part) for part in PARTS if part}


def _part(loaded: Loaded, part: str) -> dict[str, object]:
    values: dict[str, Plain] = {
        row.key: row.value
        for row in explain(loaded)
        if row.value not in (None, HIDDEN) and not _is_internal(row.key, row.value, row.default)
    }
    return {
        by_key()[key].name: value for key, value in values.items() if by_key()[key].part == part
    }


def _is_internal(key: str, value: Plain, default: Plain) -> bool:
    return by_key()[key].flag.hidden and value == default


def as_yaml(loaded: Loaded) -> str:
    """The same as YAML; a comment stands for a secret."""
    lines = [f"# {row.key} is set and not shown." for row in explain(loaded) if row.value == HIDDEN]
    for key, value in effective(loaded).items():
        if isinstance(value, dict):
            lines += ["", f"{key}:", *(f"  {k}: {value_text(v)}" for k, v in value.items())]
        else:
            lines.append(f"{key}: {value_text(value)}")
    return "\n".join([*lines, ""])
