"""A SentencePiece vocabulary as Llama 2 has it, trained in seconds on texts that are there."""

from __future__ import annotations

import json
import sysconfig
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

MOST_CHARACTERS = 6_000_000
LINE_CHARACTERS = 2_000
# The smallest vocabulary: 3 special tokens, 256 bytes, and the letters of the texts.
SMALL_ALPHABET = "abcdefghijklmnopqrstuvwxyzабвгдеёжзийклмнопрстуфхцчшщъыьэюя"
SAIGA = (
    "{% for message in messages %}"
    "{{ '<s>' + ('bot' if message['role'] == 'assistant' else message['role']) + '\n' "
    "+ message['content'] + '</s>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<s>bot\n' }}{% endif %}"
)


def write_tokenizer(folder: Path, n_vocab: int) -> None:
    """tokenizer.model of n_vocab tokens, and tokenizer_config.json with Saiga's chat template
    (IlyaGusev/saiga2_13b_lora, generation_config.json). Needs the sentencepiece package."""
    (folder / "tokenizer.model").write_bytes(trained(n_vocab))
    config = {
        "tokenizer_class": "LlamaTokenizer", "add_bos_token": False, "add_eos_token": False,
        "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "legacy": False,
        "clean_up_tokenization_spaces": False, "chat_template": SAIGA,
    }  # fmt: skip
    text = json.dumps(config, indent=2, ensure_ascii=False)
    (folder / "tokenizer_config.json").write_text(text + "\n", encoding="utf-8")


def trained(n_vocab: int) -> bytes:
    """A BPE model of exactly n_vocab tokens with Llama's settings: bytes for unknown characters,
    digits one by one, nothing normalised. The texts are the sources of Python's library."""
    import sentencepiece

    model = BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=_lines(MOST_CHARACTERS if n_vocab > 4000 else 200_000),
        model_writer=model,
        model_type="bpe",
        vocab_size=n_vocab,
        byte_fallback=True,
        split_digits=True,
        allow_whitespace_only_pieces=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        character_coverage=0.9995,
        required_chars=SMALL_ALPHABET,
        max_sentence_length=4 * LINE_CHARACTERS,
        minloglevel=2,
    )
    return model.getvalue()


def _lines(characters: int) -> Iterator[str]:
    """The alphabets, then texts of Python's library in the order of their names."""
    yield from (SMALL_ALPHABET, SMALL_ALPHABET.upper())
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        for line in path.read_text(encoding="utf-8", errors="ignore").splitlines():
            yield line[:LINE_CHARACTERS]
            characters -= len(line)
        if characters < 0:
            return
