from __future__ import annotations

import json

import pytest
from tokenizers import Regex, pre_tokenizers

from okno.convert.pretokenizer_rules import canonical, rules_of
from okno.core.errors import ModelUnusable
from okno.inspect.pretokenizers import GPT2, LLAMA3, QWEN2, pre_tokenizers_of

BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)


def as_json(*steps: pre_tokenizers.PreTokenizer) -> dict[str, object]:
    """As tokenizers itself writes them."""
    from tokenizers import Tokenizer, models

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(list(steps))
    found: dict[str, object] = json.loads(tokenizer.to_str())["pre_tokenizer"]
    return found


def name_of(*steps: pre_tokenizers.PreTokenizer) -> str:
    return pre_tokenizers_of(rules_of(as_json(*steps)), "tokenizer.json")[0].name


def test_rules_are_recognised_however_they_are_nested():
    digits = pre_tokenizers.Digits(individual_digits=True)
    gpt2 = pre_tokenizers.ByteLevel(add_prefix_space=False)
    assert name_of(gpt2) == "gpt-2"
    assert name_of(digits, gpt2) == "smollm"
    assert name_of(pre_tokenizers.Sequence([digits]), pre_tokenizers.Sequence([gpt2])) == "smollm"


@pytest.mark.parametrize(
    "spelling",
    [
        LLAMA3,
        # tiktoken's cl100k as it is written in several models
        r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*"
        r"|\s*[\r\n]|\s+(?!\S)|\s+",
        LLAMA3.replace(r"\r", "\r").replace(r"\n", "\n"),
    ],
)
def test_spellings_of_one_expression_are_one_rule(spelling: str):
    assert canonical(spelling) == LLAMA3
    for behaviour, inverted in (("isolated", False), ("removed", True)):
        split = pre_tokenizers.Split(Regex(spelling), behaviour, invert=inverted)
        assert name_of(split, BYTES) == "llama-bpe"


def test_one_digit_and_three_are_different_rules():
    assert name_of(pre_tokenizers.Split(Regex(QWEN2), "isolated"), BYTES) == "qwen2"
    assert canonical(QWEN2) != canonical(LLAMA3)


def test_a_split_that_drops_text_is_another_rule():
    split = pre_tokenizers.Split(Regex(LLAMA3), "removed")
    with pytest.raises(ModelUnusable, match=r"rule 1 of 2 is `split at .*, removed`"):
        name_of(split, BYTES)


@pytest.mark.parametrize(
    ("steps", "told"),
    [
        ([pre_tokenizers.Whitespace(), BYTES], "rule 1 of 2 is `<Whitespace>`"),
        ([pre_tokenizers.Split(Regex(r"\d"), "isolated"), BYTES], r"rule 1 of 2 is `split \\d`"),
        ([pre_tokenizers.ByteLevel(add_prefix_space=True)], "rule 2 of 2 is `bytes after a space`"),
        ([pre_tokenizers.Digits(individual_digits=True)], "nothing comes after the 1 rules"),
        ([], "there are none"),
    ],
)
def test_unknown_rules_are_named_and_the_user_is_told_what_to_do(
    steps: list[pre_tokenizers.PreTokenizer], told: str
):
    with pytest.raises(ModelUnusable, match=told) as caught:
        name_of(*steps)
    assert "Take a GGUF of this model" in caught.value.message


def test_the_rule_of_gpt2_is_that_of_tokenizers_byte_level():
    text = "I'll say:  hello\n\n world123 'Twas «тест»   \n"
    built_in = pre_tokenizers.ByteLevel(add_prefix_space=False)
    ours = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(GPT2), "isolated"), BYTES])
    assert built_in.pre_tokenize_str(text) == ours.pre_tokenize_str(text)
