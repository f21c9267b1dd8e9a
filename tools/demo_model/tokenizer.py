"""The byte-level BPE of the demo model: training, loading, and the chat template."""

from __future__ import annotations

import argparse
import inspect
import random
import statistics
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import smalltalk
import tasks
import words
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

VOCAB = 2560
SPECIAL = ["<|bos|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>", "<|pad|>"]
# The pre-tokenizer that llama.cpp calls "qwen2": every digit stands alone.
QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] not in ['system', 'user', 'assistant'] %}"
    "{{ raise_exception('Unknown role: ' + message['role']) }}{% endif %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
GENERAL = [
    "The quick brown fox jumps over the lazy dog, which would have been there before them.",
    "What do you think about this? I would like to know how it works and why it is so.",
    "Write a short summary of the following text. Please answer the question in one sentence.",
    "Because people have time to read, they can make something with their own hands.",
    "Съешь ещё этих мягких французских булок, да выпей же чаю.",
    "Когда человек приходит домой, он обычно сначала думает о том, что нужно сделать завтра.",
    "Пожалуйста, ответь на вопрос. Почему это так, и как это можно объяснить другими словами?",
    "Если бы у меня было больше времени, я бы написал короткое письмо и отправил его друзьям.",
    "Сегодня хорошая погода, поэтому мы пойдём гулять в парк после работы или учёбы.",
]


def corpus(seed: int, chats: int) -> Iterator[str]:
    """Generated tasks, a few general sentences and some Python source."""
    rng = random.Random(seed)
    for _ in range(chats):
        lang = rng.choice(["en", "ru"])
        yield tasks.task(rng, lang).user
        turn = tasks.task(rng, lang)
        if turn.task not in ("long text", "story"):
            yield turn.answer
        yield tasks.tell(rng, lang, tasks.f.facts(rng, lang, 2)).user
        yield words.syllables(rng, lang, 2, 4).capitalize()
    for _ in range(30):
        yield from GENERAL
        for entry in smalltalk.EN + smalltalk.RU:
            yield from entry[0]
            yield entry[1]
    for module in (random, inspect, statistics):
        yield inspect.getsource(module)[:40000]


def train(path: Path, seed: int = 1) -> None:
    """Train the BPE and write it to `path` as a `tokenizers` JSON file."""
    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN2), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tok.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB,
        special_tokens=SPECIAL,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tok.train_from_iterator(corpus(seed, 30000), trainer)
    tok.save(str(path))


class Tok:
    """The trained tokenizer, with the chat template's messages as id lists."""

    def __init__(self, path: Path) -> None:
        """Load the JSON file at `path`."""
        self.tok = Tokenizer.from_file(str(path))
        self.bos, self.end, *_, self.pad = (self.tok.token_to_id(s) for s in SPECIAL)
        self.size = self.tok.get_vocab_size()
        # Plain text must never become a special token, as in llama.cpp with parse_special off.
        self.tok.encode_special_tokens = True
        self.roles = {r: self.tok.token_to_id(f"<|{r}|>") for r in ("system", "user", "assistant")}

    def encode(self, text: str) -> list[int]:
        """The ids of plain text."""
        return self.tok.encode(text).ids

    def decode(self, ids: list[int]) -> str:
        """The text of ids, special tokens left out."""
        return self.tok.decode(ids)

    def message(self, role: str, text: str) -> list[int]:
        """The ids of one message: role token, text, end token."""
        return [self.roles[role], *self.encode(text), self.end]

    def prompt(self, messages: list[tuple[str, str]]) -> list[int]:
        """The ids of a chat that waits for the assistant's answer."""
        ids = [self.bos]
        for role, text in messages:
            ids += self.message(role, text)
        return [*ids, self.roles["assistant"]]


def main() -> None:
    """Train the tokenizer and print how many tokens some texts take."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    train(args.out)
    tok = Tok(args.out)
    rng = random.Random(5)
    print("vocabulary", tok.size)
    for lang in ("en", "ru"):
        turn = tasks.tell(rng, lang, tasks.f.facts(rng, lang, 3))
        print(len(turn.user), "characters,", len(tok.encode(turn.user)), "tokens:", turn.user)
    lengths = [len(tasks.make_chat(rng, tok, 512, 0.5).ids) for _ in range(200)]
    print("mean chat length at a budget of 512:", np.mean(lengths))


if __name__ == "__main__":
    main()
