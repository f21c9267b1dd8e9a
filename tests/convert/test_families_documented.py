"""The page on conversion names just the families that are converted."""

from __future__ import annotations

import re
from pathlib import Path

from okno.convert.families import FAMILIES

PAGE = Path(__file__).parents[2] / "docs" / "converting.md"


def test_the_page_names_every_family_and_no_other() -> None:
    table = PAGE.read_text(encoding="utf-8").split("## Families")[1].split("##")[0]
    assert set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) - {"model_type"} == set(FAMILIES)
