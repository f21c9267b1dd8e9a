"""Train the demo model on generated chats, on a few CPU cores, until a given time of day.

The learning rate follows the clock, not the step count, so a slow or paused machine still ends
with a decayed rate. Checkpoints and a CSV log (the loss curve) go to the output folder.
"""

from __future__ import annotations

import argparse
import csv
import random
import time
from pathlib import Path

import model as m
import tasks
import tokenizer as t
import torch
import torch.nn.functional as nnf
from torch import Tensor

STEP_TOKENS = 8192
CHUNK_TOKENS = 8192  # tokens per forward and backward pass
# (share of the time from which on it holds, sequence lengths drawn from, share of dense chats)
STAGES: list[tuple[float, list[int], float]] = [
    (0.00, [128, 256], 0.75),
    (0.10, [256, 256, 512], 0.6),
    (0.30, [512, 512, 1024], 0.45),
    (0.50, [512, 1024, 1024], 0.25),
]
REPEAT_UNTIL = 1_500_000  # tokens with repeated random segments mixed in
REPEAT_LATER = 0.03  # share of such sequences after that
REST_WEIGHT = 0.5  # loss weight of the drawn non-answer tokens
REST_SHARE = 0.12  # share of the non-answer tokens that are drawn at all


def repeats(rng: random.Random, tok: t.Tok, length: int) -> tuple[list[int], list[bool]]:
    """A sequence in which random segments of tokens come again; loss on the repeats."""
    ids, answer = [tok.bos], [False]
    while len(ids) < length:
        part = [rng.randrange(6, tok.size) for _ in range(rng.randint(4, 40))]
        ids += part + part
        answer += [False] * (len(part) + 1) + [True] * (len(part) - 1)
    return ids[:length], answer[:length]


def batch(
    rng: random.Random, tok: t.Tok, length: int, dense: float, repeat: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Ids [n, length], and per position whether the next token is an answer, or padding."""
    rows, answers = [], []
    for _ in range(STEP_TOKENS // length):
        if rng.random() < repeat:
            ids, answer = repeats(rng, tok, length + 1)
        else:
            chat = tasks.make_chat(rng, tok, length + 1, dense)
            ids, answer = chat.ids, chat.answer
        pad = length + 1 - len(ids)
        rows.append(ids + [tok.pad] * pad)
        answers.append(answer + [False] * pad)
    ids_t = torch.tensor(rows)
    return ids_t, torch.tensor(answers)[:, 1:], ids_t[:, 1:] != tok.pad


def step_loss(
    hidden: object, net: m.Llama, ids: Tensor, answer: Tensor, real: Tensor
) -> tuple[Tensor, Tensor]:
    """Summed weighted loss, and the summed loss over answer tokens alone."""
    with torch.autocast("cpu", torch.bfloat16):
        x = hidden(ids[:, :-1])  # type: ignore[operator]
        drawn = answer | (real & (torch.rand(answer.shape) < REST_SHARE))
        logits = nnf.linear(x[drawn], net.embed.weight)
    each = nnf.cross_entropy(logits.float(), ids[:, 1:][drawn], reduction="none")
    is_answer = answer[drawn]
    total = (each * torch.where(is_answer, 1.0, REST_WEIGHT)).sum()
    return total, each[is_answer].sum().detach()


def optimizers(net: m.Llama, lr: float) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the layers, AdamW for embedding and norms."""
    matrices = [p for n, p in net.named_parameters() if p.dim() == 2 and "embed" not in n]
    norms = [p for p in net.parameters() if p.dim() == 1]
    return [
        torch.optim.Muon(
            matrices, lr=lr, momentum=0.95, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"
        ),
        torch.optim.AdamW(
            [
                {"params": [net.embed.weight], "weight_decay": 0.0},
                {"params": norms, "weight_decay": 0.0},
            ],
            lr=lr,
            betas=(0.9, 0.98),
            fused=True,
        ),
    ]


def rate(done: float, step: int, fall: float, warm_steps: int = 60) -> float:
    """The learning-rate factor: warm-up, then flat, then a linear fall over the share `fall`."""
    return min(1.0, (step + 1) / warm_steps) * min(1.0, max(0.0, (1.0 - done) / fall) + 0.01)


def train(args: argparse.Namespace) -> None:
    """Train from `args.init` (or from fresh weights) until `args.minutes` have passed."""
    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    rng = random.Random(args.seed)
    tok = t.Tok(args.tokenizer)
    if args.init:
        net = m.load(args.init).train()
    else:
        net = m.Llama(m.Config(vocab=tok.size))
        m.init_weights(net, args.seed, look_back=not args.plain)
    torch.manual_seed(args.seed)
    hidden = torch.compile(net.hidden, dynamic=False)
    opts = optimizers(net, args.lr)
    log = (args.out / "log.csv").open("a", newline="")
    rows = csv.writer(log)
    rows.writerow(["step", "tokens", "seconds", "length", "lr", "answer_loss"])
    start, saved, tokens, step = time.time(), time.time(), args.tokens, 0
    while (done := (time.time() - start) / (args.minutes * 60)) < 1.0:
        place = args.begin + done * (1.0 - args.begin)
        _, lengths, dense = next(s for s in reversed(STAGES) if place >= s[0])
        length = rng.choice(lengths)
        repeat = 0.25 if tokens < REPEAT_UNTIL else REPEAT_LATER
        ids, answer, real = batch(rng, tok, length, dense, repeat)
        answers, answer_sum = max(1, int(answer.sum())), 0.0
        rows_per_chunk = max(1, CHUNK_TOKENS // length)
        for part in zip(*(x.split(rows_per_chunk) for x in (ids, answer, real)), strict=True):
            total, part_sum = step_loss(hidden, net, *part)
            (total / answers).backward()
            answer_sum += float(part_sum)
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        factor = rate(done, step, args.fall)
        for opt in opts:
            for group in opt.param_groups:
                group["lr"] = args.lr * factor
            opt.step()
            opt.zero_grad(set_to_none=True)
        tokens += ids.shape[0] * length
        step += 1
        rows.writerow(
            [
                step,
                tokens,
                round(time.time() - start, 1),
                length,
                f"{args.lr * factor:.2e}",
                round(answer_sum / answers, 4),
            ]
        )
        log.flush()
        if time.time() - saved > args.save_seconds:
            m.save(net, args.out / "last.pt", tokens=tokens, step=step)
            saved = time.time()
    m.save(net, args.out / "last.pt", tokens=tokens, step=step)
    log.close()


def main() -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="folder for checkpoints and log")
    parser.add_argument("--minutes", type=float, required=True)
    parser.add_argument("--init", type=Path, help="checkpoint to go on from")
    parser.add_argument("--begin", type=float, default=0.0, help="start within the stages, 0 to 1")
    parser.add_argument("--tokens", type=int, default=0, help="tokens seen by --init")
    parser.add_argument("--lr", type=float, default=4e-3)
    parser.add_argument("--fall", type=float, default=0.55, help="share of time, rate falling")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--save-seconds", type=float, default=180)
    parser.add_argument("--plain", action="store_true", help="no heads set up by hand")
    train(parser.parse_args())


if __name__ == "__main__":
    main()
