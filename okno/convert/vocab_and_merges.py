"""GPT-2's pair of files, vocab.json and merges.txt, as the tokenizer.json that they stand for."""

from __future__ import annotations

from collections.abc import Iterable

from okno.convert.tokenizer_files import AddedToken, TokenizerConfig, TokenizerJson, TokenizerModel
from okno.core.errors import ModelUnusable
from okno.inspect.pretokenizers import QWEN2

_GPT2: dict[str, object] = {"type": "ByteLevel"}
_QWEN2: dict[str, object] = {
    "type": "Sequence",
    "pretokenizers": [
        {"type": "Split", "pattern": {"Regex": QWEN2}, "behavior": "Isolated"},
        {"type": "ByteLevel", "use_regex": False},
    ],
}
# The rules are not in the files: transformers has them in the class that the files name.
RULES: dict[str, tuple[dict[str, object], dict[str, object] | None]] = {
    "GPT2Tokenizer": (_GPT2, None),
    "CodeGenTokenizer": (_GPT2, None),
    "Qwen2Tokenizer": (_QWEN2, {"type": "NFC"}),
}


def tokenizer_of(
    vocab: dict[str, int],
    merges: str,
    added: Iterable[AddedToken],
    config: TokenizerConfig,
    where: str,
) -> TokenizerJson:
    """Raises ModelUnusable for a tokenizer_class of unknown rules, or for a class that adds a space
    before the text."""
    name = (config.tokenizer_class or "none").removesuffix("Fast")
    if name not in RULES or config.add_prefix_space:
        raise ModelUnusable(
            f"{where} has vocab.json and merges.txt, but not the rules that cut text into words: "
            f"tokenizer_class in tokenizer_config.json is {name}, and those of "
            f"{', '.join(RULES)} are known. Put the model's tokenizer.json beside them."
        )
    rules, normalizer = RULES[name]
    lines = [line for line in merges.split("\n") if line and not line.startswith("#version")]
    model = TokenizerModel("BPE", vocab, [line.rstrip("\r") for line in lines])
    return TokenizerJson(model, list(added), normalizer, rules)
