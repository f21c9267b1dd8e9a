"""The pre-tokenizers: by which rules a text is cut into words, and what llama.cpp calls them.

The table is that of llm_tokenizer_bpe in llama.cpp's src/llama-vocab.cpp (the regular expressions)
and of llama_vocab::impl::load (which names look up whole words before merging, `ignore_merges`).
"""

from __future__ import annotations

from dataclasses import dataclass

from okno.core.errors import ModelUnusable

# tokenizers' ByteLevel with use_regex (openai/gpt-2 encoder.py).
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_WORD = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_HEAD = r"[^\r\n\p{L}\p{N}]?"
_CASED_REST = r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_CJK, _CJK_KANA = "[一-龥\u0800-一가-\ud7ff]+", "[一-龥\u3040-ゟ゠-ヿ]+"
_BLOOM = r" ?[^(\s|.,!?…。，、।۔،)]+"
_ASCII_PUNCTUATION = r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~]"""

LLAMA3 = rf"{_CONTRACTIONS}|{_WORD}|\p{{N}}{{1,3}}|{_REST}"
QWEN2 = rf"{_CONTRACTIONS}|{_WORD}|\p{{N}}|{_REST}"
QWEN35 = (
    rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}|"
    r" ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TEKKEN = (
    rf"{_HEAD}{_UPPER}*{_LOWER}+|{_HEAD}{_UPPER}+{_LOWER}*|\p{{N}}|{_CASED_REST}"
)  # fmt: skip
GPT4O = (
    rf"{_HEAD}{_UPPER}*{_LOWER}+{_CONTRACTIONS}?|{_HEAD}{_UPPER}+{_LOWER}*{_CONTRACTIONS}?|"
    rf"\p{{N}}{{1,3}}|{_CASED_REST}"
)
SEED_CODER = rf"{_CONTRACTIONS}|{_WORD}|\p{{N}}| ?[^\s\p{{L}}\p{{N}}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+"
DEEPSEEK3 = (
    rf"{_ASCII_PUNCTUATION}[A-Za-z]+|[^\r\n\p{{L}}\p{{P}}\p{{S}}]?[\p{{L}}\p{{M}}]+|"
    r" ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# Written with escapes where an editor might put an equivalent character.
_DEEPSEEK_LETTERS = (
    r"\s?"
    "[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-"
    "Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-\u1f7dᾀ-ᾴᾶ-ᾼ\u1fbeῂ-ῄῆ-ῌῐ-\u1fd3ῖ-\u1fdbῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤ\u2126ℨ"
    "\u212a-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃"
    "]+"
)
_DEEPSEEK_PUNCTUATION = r"\s?" "[!-/:-~！-／：-～‘-‟\u3000-。]+"


@dataclass(frozen=True, slots=True)
class PreTokenizer:
    """One of llama.cpp's. name: for `tokenizer.ggml.pre`. whole_words: a word that is a token is
    taken as it is, whatever the merges say (`ignore_merges` of tokenizer.json)."""

    name: str
    whole_words: bool = False


def _rules(*splits: str) -> tuple[str, ...]:
    return (*(f"split {split}" for split in splits), "bytes")


FALCON = (
    "punctuation contiguous",
    f"split {GPT2}",
    "bytes",
    r"split \p{N}+",
    "split [0-9][0-9][0-9]",
)
KNOWN: dict[tuple[str, ...], tuple[PreTokenizer, ...]] = {
    _rules(GPT2): (PreTokenizer("gpt-2"),),
    _rules(r"\p{N}", GPT2): (PreTokenizer("smollm"),),
    _rules(LLAMA3): (PreTokenizer("llama-bpe", whole_words=True), PreTokenizer("dbrx")),
    _rules(QWEN2): (PreTokenizer("qwen2"),),
    _rules(QWEN35): (PreTokenizer("qwen35"),),
    _rules(TEKKEN): (PreTokenizer("tekken", whole_words=True),),
    _rules(GPT4O): (PreTokenizer("gpt-4o"),),
    _rules(SEED_CODER): (PreTokenizer("seed-coder"),),
    _rules(r"\p{N}{1,3}", _CJK_KANA, DEEPSEEK3): (PreTokenizer("deepseek-v3"),),
    _rules(r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _CJK, r"\p{N}"): (
        PreTokenizer("deepseek-coder"),
    ),
    _rules(r"[\r\n]", _DEEPSEEK_LETTERS, _DEEPSEEK_PUNCTUATION, r"\s+$", _CJK, r"\p{N}"): (
        PreTokenizer("deepseek-llm"),
    ),
    FALCON: (PreTokenizer("falcon"),),
    _rules(_BLOOM): (PreTokenizer("poro-chat"),),
    _rules(_BLOOM, r"\p{N}"): (PreTokenizer("viking"),),
    _rules(r"\p{N}+", r"(?=(\d{3})+(?!\d))"): (PreTokenizer("superbpe"),),
}  # fmt: skip

# Those that the engine runs through std::regex: most give other words for some texts, and all end
# the process on a long enough word (docs/tokenizers.md). The value has the rules: the engine takes
# both names for the same kind (llama_vocab::impl::load).
BY_LIBRARY = {
    "tekken": "tekken", "seed-coder": "seed-coder", "superbpe": "superbpe", "falcon": "falcon",
    "deepseek-coder": "deepseek-coder", "deepseek-llm": "deepseek-llm", "viking": "viking",
    "gpt-4o": "gpt-4o", "llama4": "gpt-4o", "kanana2": "gpt-4o", "talkie": "gpt-4o",
    "minimax-m2": "gpt-4o", "deepseek-v3": "deepseek-v3", "hunyuan-dense": "deepseek-v3",
    "hy_v4": "deepseek-v3", "joyai-llm": "deepseek-v3", "poro-chat": "poro-chat",
    "bloom": "poro-chat", "gpt3-finnish": "poro-chat", "bailingmoe": "qwen2",
    "bailingmoe2": "qwen2", "llada-moe": "qwen2",
}  # fmt: skip


def pre_tokenizers_of(rules: tuple[str, ...], where: str) -> tuple[PreTokenizer, ...]:
    """The engine's pre-tokenizers that cut text by `rules`: one, or two that differ in
    `whole_words`. Raises ModelUnusable, naming the first rule that no known set has here."""
    found = KNOWN.get(rules)
    if found is None:
        raise ModelUnusable(
            f"{where} cuts text into words by rules that the engine does not have: "
            f"{_first_unknown(rules)}. Guessing others would give the model other tokens than it "
            "was trained with. Take a GGUF of this model, if its publisher has one."
        )
    return found


def library_rules(name: str) -> tuple[tuple[str, ...], PreTokenizer] | None:
    """The rules of a `tokenizer.ggml.pre` in BY_LIBRARY; None for others."""
    same = BY_LIBRARY.get(name)
    return next(((rules, pre) for rules, known in KNOWN.items() for pre in known
                 if pre.name == same), None)  # fmt: skip


def _first_unknown(rules: tuple[str, ...]) -> str:
    if not rules:
        return "there are none (pre_tokenizer is null)"
    fitting = list(KNOWN)
    for at, rule in enumerate(rules):
        fitting = [known for known in fitting if known[: at + 1] == rules[: at + 1]]
        if not fitting:
            return f"rule {at + 1} of {len(rules)} is `{rule[:400]}`"
    return f"nothing comes after the {len(rules)} rules `{'`, `'.join(rules)[:400]}`"
