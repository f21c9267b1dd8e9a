"""Commands in messages can be copied into a shell."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from okno.core.commands import quoted

OKNO = Path(__file__).parents[2] / "okno"
JOINED = re.compile(r'"\s*\n\s*f?"')  # one literal after another
# A command in backticks up to the first thing that is put into it.
COMMAND = re.compile(r"`okno [^`{\n]*\{(?!quoted\()")


@pytest.mark.parametrize("word", ["my models/a b.gguf", "it's.gguf", "$(rm x)", "", "имя модели"])
def test_what_a_shell_reads_is_the_word(word):
    assert shlex.split(f"okno serve --model {quoted(word)}")[3:] == [word]


def test_a_plain_path_stays_readable():
    assert quoted(Path("/models/a-b_c.Q4_0.gguf")) == "/models/a-b_c.Q4_0.gguf"
    assert quoted("owner/repo:Q4_K_M@main") == "owner/repo:Q4_K_M@main"


def test_every_command_in_a_message_quotes_what_it_is_given():
    texts = {path: JOINED.sub("", path.read_text(encoding="utf-8")) for path in OKNO.rglob("*.py")}
    wrong = [f"{path}: {found[0]}" for path in texts for found in COMMAND.finditer(texts[path])]
    assert wrong == []
