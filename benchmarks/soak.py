"""Many clients for minutes on a real server: nothing lost, nothing leaked, nothing left behind.

    python benchmarks/soak.py --clients 200 --seconds 180 --out docs/benchmarks/soak.md

Starts `okno serve` on the demo model (or --model) and lets the clients of okno/bench/visitors.py
at it over real sockets, one connection per request: short and long chats in Russian and English,
clients that leave in the queue, in prefill and in the answer, requests that must be refused,
embeddings, tokenize. Each prompt carries a canary that no other client's text may contain. The
exit status is 1 when a check fails.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from okno.bench.canary import Canaries
from okno.bench.client import Address, call, get
from okno.bench.process import Held, held, held_with_children
from okno.bench.report import environment, percentile, publish, table
from okno.bench.served import Served, serve
from okno.bench.visitors import BEHAVIOURS, FILLER, Outcome, Scene, Visitor

COUNTED = ("submitted", "completed", "cancelled", "rejected", "failed")
SAMPLE_S = 0.5
POLL_S = 0.05
DRAIN_TIMEOUT_S = 30.0
FREED_WITHIN_S = 2.0
SETTLE_S = 3.0
CROWD_WAITS_S = 1.0
WARM_UP_VISITS = 2
MEMORY_SLACK_BYTES = 32 * 2**20

Held2 = tuple[Held, Held]  # server, worker


@dataclass(frozen=True)
class Soak:
    """Everything that was seen."""

    outcomes: list[Outcome]
    before: Held2
    peak: Held2
    after: Held2
    counters: dict[str, float]
    tokens: float
    seconds: float
    drained_s: float
    canaries: int


@dataclass(frozen=True)
class Check:
    name: str
    passed: bool
    seen: str


async def soak(options: argparse.Namespace) -> Soak:
    """Start, warm up, load, drain, look again."""
    flags = ["--model", options.model, "--batch-size", str(options.batch_size),
             "--ctx", str(options.ctx), "--log-level", "warning"]  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        async with serve(flags, Path(folder) / "server.log") as served:
            scene = await make_scene(served.address, options)
            visitors = [Visitor(scene, options.seed * 100_003 + i) for i in range(options.clients)]
            await asyncio.gather(*(visits(v, 0, WARM_UP_VISITS) for v in visitors))
            await drained(served.address)
            await asyncio.sleep(SETTLE_S)
            return await load(served, scene, visitors, options)


async def make_scene(address: Address, options: argparse.Namespace) -> Scene:
    """Long prompts of half the window, too long ones of twice, in this model's tokens."""
    _, answer = await call(address, "POST", "/tokenize", {"content": "".join(FILLER)})
    per_filler = len(json.loads(answer)["tokens"]) / len(FILLER)
    repeats = max(1, int(options.ctx / 2 / per_filler))
    return Scene(address, Canaries(options.seed), repeats, 4 * repeats)


async def load(
    served: Served, scene: Scene, visitors: list[Visitor], options: argparse.Namespace
) -> Soak:
    pids = (served.process.pid, served.worker_pid())
    before, made = look(pids), (await counters(served.address))["generated_tokens"]
    peak = [before]
    sampler = asyncio.create_task(watch(pids, peak))
    began = time.monotonic()
    all_visits = await asyncio.gather(*(visits(v, options.seconds, 1) for v in visitors))
    seconds = time.monotonic() - began
    await drained(served.address)
    made = (await counters(served.address))["generated_tokens"] - made
    drained_s = await crowd_leaves(served.address, visitors)
    sampler.cancel()
    await asyncio.sleep(SETTLE_S)
    after = look(pids)
    found = await counters(served.address)
    outcomes = [outcome for each in all_visits for outcome in each]
    return Soak(outcomes, before, peak[0], after, found, made, seconds, drained_s,
                len(scene.canaries))  # fmt: skip


async def crowd_leaves(address: Address, visitors: list[Visitor]) -> float:
    """All clients ask at once and leave at once; how long until nothing is in flight."""
    exchanges = await asyncio.gather(*(visitor.arrive() for visitor in visitors))
    await asyncio.sleep(CROWD_WAITS_S)
    for visitor, exchange in zip(visitors, exchanges, strict=True):
        visitor.leave(exchange)
    return await drained(address)


async def visits(visitor: Visitor, seconds: float, least: int) -> list[Outcome]:
    """Visit after visit until the time is over, at least `least`."""
    ends = time.monotonic() + seconds
    done: list[Outcome] = []
    while len(done) < least or time.monotonic() < ends:
        done.append(await visitor.visit())
    return done


def look(pids: tuple[int, int]) -> Held2:
    """The server alone; the worker with the processes it started (the template sandbox)."""
    return held(pids[0]), held_with_children(pids[1])


async def watch(pids: tuple[int, int], peak: list[Held2]) -> None:
    """Keep the greatest figures in peak[0]."""
    while True:
        await asyncio.sleep(SAMPLE_S)
        server, worker = look(pids)
        peak[0] = (peak[0][0].most(server), peak[0][1].most(worker))


async def counters(address: Address) -> dict[str, float]:
    """okno's counters and gauges without labels, by their names without okno_ and _total."""
    _, body = await get(address, "/metrics")
    found = {}
    for line in body.decode().splitlines():
        name, _, value = line.rpartition(" ")
        if name.startswith("okno_") and "{" not in name:
            found[name.removeprefix("okno_").removesuffix("_total")] = float(value)
    return found


async def drained(address: Address) -> float:
    """Wait until nothing is in flight; how long it took. Raises TimeoutError."""
    began = time.monotonic()
    async with asyncio.timeout(DRAIN_TIMEOUT_S):
        while (await counters(address))["in_flight"] > 0:  # noqa: ASYNC110
            await asyncio.sleep(POLL_S)  # another process: there is no event to wait for
    return time.monotonic() - began


def checks(seen: Soak, options: argparse.Namespace) -> list[Check]:
    c = {name: int(seen.counters[name]) for name in COUNTED}
    ended = c["completed"] + c["cancelled"] + c["rejected"] + c["failed"]
    leaks = [o for o in seen.outcomes if o.leaked]
    broken = [o for o in seen.outcomes if o.result == "failed"]
    echoed = sum(o.echoed for o in seen.outcomes)
    restarts = int(seen.counters["restarts"])
    problem = f"; the first: {broken[0].kind}: {broken[0].problem}" if broken else ""
    return [
        Check("submitted = completed + cancelled + rejected + failed", c["submitted"] == ended,
              f"{c['submitted']} = {c['completed']} + {c['cancelled']} + {c['rejected']} + "
              f"{c['failed']}"),
        Check("no request failed, no worker restarted", c["failed"] == restarts == 0,
              f"{c['failed']} failed, {restarts} restarts"),
        Check("every client got what it should", not broken, f"{len(broken)} did not{problem}"),
        Check("no canary of another client", not leaks and detector_works(options.seed),
              f"{len(leaks)} leaks; {seen.canaries:,} canaries issued, {echoed:,} answers "
              "contained their own"),
        Check(f"all free within {FREED_WITHIN_S:g} s when every client leaves at once",
              seen.drained_s <= FREED_WITHIN_S, f"{seen.drained_s:.2f} s"),
        *resource_checks(seen),
    ]  # fmt: skip


def detector_works(seed: int) -> bool:
    """The negative control: another client's canary inside a text must be found."""
    canaries = Canaries(seed)
    mine, other = canaries.issue(), canaries.issue()
    return canaries.foreign(mine, f"…{mine} {other}.") == {other}


def resource_checks(seen: Soak) -> list[Check]:
    pairs = list(zip(("server", "worker"), seen.before, seen.after, strict=True))
    grown = [
        (name, after.anonymous_bytes - before.anonymous_bytes) for name, before, after in pairs
    ]
    return [
        Check(f"memory back within {MEMORY_SLACK_BYTES // 2**20} MiB of the baseline",
              all(g <= MEMORY_SLACK_BYTES for _, g in grown),
              ", ".join(f"{name} {g / 2**20:+.1f} MiB" for name, g in grown)),
        Check("descriptors back at the baseline",
              all(a.descriptors <= b.descriptors for _, b, a in pairs),
              ", ".join(f"{n} {a.descriptors - b.descriptors:+d}" for n, b, a in pairs)),
        Check("threads back at the baseline", all(a.threads <= b.threads for _, b, a in pairs),
              ", ".join(f"{n} {a.threads - b.threads:+d}" for n, b, a in pairs)),
    ]  # fmt: skip


def report(seen: Soak, found: list[Check], options: argparse.Namespace) -> str:
    good = all(check.passed for check in found)
    return (
        f"# {options.clients} clients for {seen.seconds:.0f} seconds\n\n"
        f"{'Every check passed' if good else '**A check failed**'}: {len(seen.outcomes):,} visits, "
        f"{seen.tokens:,.0f} tokens generated, {seen.tokens / seen.seconds:,.0f} tokens/s. Model "
        f"{options.model}, batch size {options.batch_size}, ctx {options.ctx}, seed "
        f"{options.seed}.\n\n{environment()}\n"
        + table(["check", "result", "seen"],
                [[c.name, "pass" if c.passed else "FAIL", c.seen] for c in found])
        + "\n## Latency\n\n" + table(["", "p50", "p99", "max", "count"], latency_rows(seen))
        + "\nFirst text: from opening the connection, waiting in the queue included. Between "
        "texts: at the client, of streams read to their end. Visits under way at the end are "
        "finished, which is why the run is longer than asked for.\n"
        "\n## What the processes held\n\n"
        + table(["process", "when", "memory (RssAnon + swap)", "descriptors", "threads"],
                held_rows(seen))
        + f"\nBefore: after {WARM_UP_VISITS} warm-up visits of every client. After: "
        f"{SETTLE_S:g} s after the last one. The worker's figures include the processes it "
        "started (the template sandbox).\n\n## Visits\n\n"
        + table(["behaviour", "visits", "results"], visit_rows(seen))
    )  # fmt: skip


def latency_rows(seen: Soak) -> list[list[str]]:
    completed = [o for o in seen.outcomes if o.result == "completed"]
    rows = []
    for kind in ("short chat", "long chat"):
        firsts = [o.first_s for o in completed if o.kind == kind and o.first_s is not None]
        rows.append(latency_row(f"first text, {kind}", firsts))
    gaps = [gap for o in completed for gap in o.gaps_s]
    return [*rows, latency_row("between texts", gaps)]


def latency_row(name: str, values: list[float]) -> list[str]:
    shown = [percentile(values, 50), percentile(values, 99), max(values, default=float("nan"))]
    return [name, *(f"{1000 * value:,.0f} ms" for value in shown), f"{len(values):,}"]


def held_rows(seen: Soak) -> list[list[str]]:
    return [
        [process, when, f"{h.anonymous_bytes / 2**20:,.1f} MiB", str(h.descriptors), str(h.threads)]
        for index, process in enumerate(("server", "worker"))
        for when, h in (("before", seen.before[index]), ("peak", seen.peak[index]),
                        ("after", seen.after[index]))
    ]  # fmt: skip


def visit_rows(seen: Soak) -> list[list[str]]:
    rows = []
    for kind in BEHAVIOURS:
        results = Counter(o.result for o in seen.outcomes if o.kind == kind)
        shown = ", ".join(f"{count:,} {result}" for result, count in results.most_common())
        rows.append([kind, f"{results.total():,}", shown])
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=180)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model", default="demo", help="as in okno serve --model")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--ctx", type=int, default=1024)
    parser.add_argument("--out", type=Path, default=None, help="Markdown file to write")
    options = parser.parse_args()
    seen = asyncio.run(soak(options))
    found = checks(seen, options)
    publish(report(seen, found, options), options.out)
    return 0 if all(check.passed for check in found) else 1


if __name__ == "__main__":
    sys.exit(main())
