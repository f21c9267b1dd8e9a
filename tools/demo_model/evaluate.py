"""Held-out accuracy of a GGUF through llama.cpp: recall per distance, and every other task.

Seeds, names, cities, words and sums are those the training never draws. Answers are greedy.
Recall counts as right when the answer holds the told value; everything else must match exactly.
"""

from __future__ import annotations

import argparse
import json
import random
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import facts as f
import smalltalk
import tasks
import tokenizer as t

BUCKETS = 9  # of 100 tokens each
GROUPS = ["name", "code", "city", "other"]


@dataclass(frozen=True)
class Probe:
    """A prompt, the right answer, and how to judge."""

    row: str
    bucket: int  # distance // 100, or -1 where there is no distance
    prompt: list[int]
    answer: str
    value: str  # the part that must be in the answer; empty: the whole answer must match


def _turn_ids(tok: t.Tok, turn: tasks.Turn) -> list[int]:
    """The ids of a finished turn."""
    return tok.message("user", turn.user) + tok.message("assistant", turn.answer)


def _between(rng: random.Random, tok: t.Tok, lang: str, room: int, taken: set[str]) -> list[int]:
    """Turns of at most `room` tokens in all, close to it: tasks, small talk, other facts."""
    ids: list[int] = []
    misses = 0
    while misses < 6:
        if rng.random() < 0.3:
            new = [x for x in f.facts(rng, lang, rng.randint(1, 3), True) if x.key not in taken]
            if not new:
                continue
            turn = tasks.tell(rng, lang, new)
            taken |= {x.key for x in new}
        else:
            turn = tasks.task(rng, lang, True)
            if turn.task in ("long text", "story") or turn.keys & taken:
                continue
            taken |= turn.keys
        more = _turn_ids(tok, turn)
        if len(ids) + len(more) <= room:
            ids += more
        else:
            misses += 1
    return ids


def recall_probe(rng: random.Random, tok: t.Tok, lang: str, group: str, bucket: int) -> Probe:
    """A fact told among others, `bucket` * 100 to + 99 tokens of chat, then the question."""
    while True:
        told = f.facts(rng, lang, rng.randint(1, 4), heldout=True)
        wanted = [x for x in told if x.group == group]
        if not wanted:
            continue
        one = rng.choice(wanted)
        head = [tok.bos]
        if rng.random() < 0.2:
            head += tok.message("system", rng.choice(smalltalk.SYSTEM))
        turn = tasks.tell(rng, lang, told)
        question = [*tok.message("user", rng.choice(one.ask)), tok.roles["assistant"]]
        user = tok.message("user", turn.user)
        # Distance: from the told value to the first token of the answer.
        cut = turn.user.rindex(one.value) + len(one.value)
        after = len(user) - 1 - len(tok.encode(turn.user[:cut]))
        reply = tok.message("assistant", turn.answer)
        fixed = after + len(reply) + len(question)
        target = bucket * 100 + rng.randint(5, 99)
        room = target - fixed
        middle = _between(rng, tok, lang, room, {x.key for x in told}) if room > 0 else []
        ids = head + user + reply + middle + question
        if (fixed + len(middle)) // 100 == bucket and len(ids) < 990:
            return Probe(f"recall {group} {lang}", bucket, ids, one.answer, one.value)


def task_probe(rng: random.Random, tok: t.Tok, lang: str, turn: tasks.Turn, late: bool) -> Probe:
    """A single task, alone or after 200 to 600 tokens of other chat."""
    before = _between(rng, tok, lang, rng.randint(200, 600), set()) if late else []
    prompt = [tok.bos, *before, *tok.message("user", turn.user), tok.roles["assistant"]]
    value = ""
    return Probe(f"{turn.task} {lang}", int(late) - 2, prompt, turn.answer, value)


def probes(tok: t.Tok, seed: int, per_cell: int, per_task: int) -> list[Probe]:
    """All probes of the evaluation."""
    rng = random.Random(seed)
    out = []
    for lang in ("en", "ru"):
        for group in GROUPS:
            for bucket in range(BUCKETS):
                out += [recall_probe(rng, tok, lang, group, bucket) for _ in range(per_cell)]
        counts: dict[tuple[str, bool], int] = defaultdict(int)
        makers = [m for m, _ in tasks.TASKS]
        wanted = per_task * 2
        for make in makers:
            for i in range(wanted * (5 if make is tasks.arithmetic else 3)):
                turn, late = make(rng, lang, True), i % 2 == 1
                if counts[turn.task, late] < per_task:
                    counts[turn.task, late] += 1
                    out.append(task_probe(rng, tok, lang, turn, late))
        for i in range(wanted):
            told = f.facts(rng, lang, rng.randint(1, 4), heldout=True)
            keys = {x.key for x in told}
            ids = [tok.bos, *_turn_ids(tok, tasks.tell(rng, lang, told))]
            if i % 2:
                ids += _between(rng, tok, lang, rng.randint(200, 600), keys)
            turn = tasks.ask_untold(rng, lang, keys, True)
            prompt = [*ids, *tok.message("user", turn.user), tok.roles["assistant"]]
            out.append(Probe(turn.task, i % 2 - 2, prompt, turn.answer, ""))
    return out


class Engine:
    """Greedy answers from a GGUF by llama.cpp."""

    def __init__(self, path: Path, threads: int) -> None:
        """Load the file; `threads` CPU threads."""
        import llama_cpp

        self.llm = llama_cpp.Llama(
            model_path=str(path),
            n_ctx=1024,
            n_batch=1024,
            n_threads=threads,
            n_threads_batch=threads,
            verbose=False,
        )

    def answer(self, prompt: list[int], limit: int, end: int) -> list[int]:
        """At most `limit` greedy tokens after `prompt`, up to the end token."""
        out: list[int] = []
        self.llm.reset()
        for token in self.llm.generate(prompt, top_k=1, temp=0.0, repeat_penalty=1.0):
            if token == end or len(out) >= limit or len(prompt) + len(out) >= 1022:
                break
            out.append(token)
        return out


def agreement(checkpoint: Path, pairs: list[tuple[list[int], list[int]]], end: int) -> float:
    """Share of llama.cpp's greedy answers that PyTorch would give token for token."""
    import model as m
    import torch

    net, same = m.load(checkpoint), 0
    with torch.no_grad():
        for p in net.parameters():
            if p.dim() == 2:
                p.copy_(p.half().float())
        for prompt, out in pairs:
            wanted = [*out, end]
            logits = net(torch.tensor([[*prompt, *out]]))[0, len(prompt) - 1 :]
            same += logits.argmax(-1).tolist() == wanted
    return same / len(pairs)


def tables(hits: dict[tuple[str, int], list[bool]]) -> str:
    """Markdown: recall per distance, then the tasks alone and late in a chat."""

    def cell(row: str, bucket: int) -> str:
        got = hits.get((row, bucket), [])
        return f"{100 * sum(got) / len(got):.0f}" if got else "–"

    lines = [
        "| recall, % | " + " | ".join(f"{100 * b}+" for b in range(BUCKETS)) + " | all |",
        "|---|" + "---|" * (BUCKETS + 1),
    ]
    rows = sorted({r for r, b in hits if r.startswith("recall")})
    for row in rows:
        flat = [x for b in range(BUCKETS) for x in hits.get((row, b), [])]
        cells = " | ".join(cell(row, b) for b in range(BUCKETS))
        lines.append(f"| {row[7:]} | {cells} | {100 * sum(flat) / len(flat):.1f} |")
    total = [[x for r in rows for x in hits.get((r, b), [])] for b in range(BUCKETS)]
    cells = " | ".join(f"{100 * sum(x) / max(1, len(x)):.1f}" for x in total)
    flat = [y for x in total for y in x]
    lines.append(f"| all | {cells} | {100 * sum(flat) / max(1, len(flat)):.1f} |")
    lines += [
        "",
        "| task, % exactly right | alone | after 200-600 tokens of chat | n |",
        "|---|---|---|---|",
    ]
    for row in sorted({r for r, b in hits if b < 0}):
        n = sum(len(hits.get((row, b), [])) for b in (-2, -1))
        lines.append(f"| {row} | {cell(row, -2)} | {cell(row, -1)} | {n} |")
    return "\n".join(lines)


def main() -> None:
    """Run the evaluation and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gguf", type=Path, required=True)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--checkpoint", type=Path, help="compare with PyTorch, too")
    parser.add_argument("--per-cell", type=int, default=25, help="per kind, language, distance")
    parser.add_argument("--per-task", type=int, default=100, help="per task and language, twice")
    parser.add_argument("--seed", type=int, default=900_001)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--wrong", type=Path, help="write the wrong answers to this JSON file")
    args = parser.parse_args()
    tok = t.Tok(args.tokenizer)
    engine = Engine(args.gguf, args.threads)
    hits: dict[tuple[str, int], list[bool]] = defaultdict(list)
    wrong, pairs = [], []
    for i, one in enumerate(probes(tok, args.seed, args.per_cell, args.per_task)):
        want = tok.encode(one.answer)
        out = engine.answer(one.prompt, len(want) + 12, tok.end)
        text = tok.decode(out)
        right = (one.value in text) if one.value else text == one.answer
        hits[one.row, one.bucket].append(right)
        if i % 20 == 0 and len(out) < len(want) + 12:
            pairs.append((one.prompt, out))
        if not right:
            wrong.append(
                {
                    "row": one.row,
                    "bucket": one.bucket,
                    "got": text,
                    "want": one.answer,
                    "prompt": tok.decode(one.prompt[-120:]),
                }
            )
    print(tables(hits))
    if args.checkpoint:
        share = agreement(args.checkpoint, pairs, tok.end)
        print(f"\nPyTorch agrees with {100 * share:.1f} % of {len(pairs)} llama.cpp answers")
    if args.wrong:
        args.wrong.write_text(json.dumps(wrong, ensure_ascii=False, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
