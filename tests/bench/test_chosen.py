"""One way to name cases, whatever is measured."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from okno.bench.chosen import chosen, matching
from okno.core.errors import BadSetting


@dataclass(frozen=True)
class Case:
    name: str


CASES = tuple(map(Case, ("llama-mid-Q4_0 1x512 f16", "Bert-mid-F16 4x512 f16 mmap", "m KV q8_0")))


def names(wanted: str | None) -> list[str]:
    return [case.name.split("-")[0] for case in matching(CASES, wanted)]


@pytest.mark.parametrize("wanted", ["llama,bert", "llama bert", "LLAMA , Bert", " bert\tq4_0,,"])
def test_words_are_parted_by_commas_and_spaces_whatever_their_case(wanted: str) -> None:
    assert names(wanted) == ["llama", "Bert"]


def test_none_leaves_nothing_out() -> None:
    assert matching(CASES, None) == CASES


@pytest.mark.parametrize("wanted", ["", " , ", "mamba"])
def test_what_names_no_case_is_refused_with_the_words_there_are(wanted: str) -> None:
    assert matching(CASES, wanted) == ()
    with pytest.raises(BadSetting, match=r"--cases .*llama-mid-Q4_0, 1x512, f16, Bert-mid-F16"):
        chosen(CASES, wanted)
