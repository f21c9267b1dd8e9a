"""`okno bench serve`: load on any OpenAI-compatible server, and what came of it."""

from __future__ import annotations

import itertools
import json
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from okno.cli.progress import loading
from okno.config.network import DEFAULT_HOST, DEFAULT_PORT
from okno.core.errors import BadSetting

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from okno.bench.load_client import Answer, Target
    from okno.bench.load_report import LoadSummary
    from okno.bench.load_run import Due, LoadPlan

SEEDS = 1_000_000
INFINITE = float("inf")
DEFAULT_S = 60.0

Url = Annotated[
    str | None,
    typer.Argument(
        metavar="[URL]", show_default=False,
        help="http://host:port, with or without /v1, or the whole address of an endpoint. Default: "
        f"the server at http://{DEFAULT_HOST}:{DEFAULT_PORT}.",
    ),
]  # fmt: skip
Rate = Annotated[
    float, typer.Option(help="Requests per second; inf sends all at once.", metavar="N")
]
Burstiness = Annotated[
    float,
    typer.Option(help="Shape of Gamma gaps: 1 is Poisson, less is burstier.", metavar="X"),
]
Requests = Annotated[
    int | None,
    typer.Option(min=1, metavar="N", help="So many requests, however long they take to arrive."),
]
Duration = Annotated[
    float | None,
    typer.Option(metavar="SECONDS", help="Send requests for so long. Default: 60, or until N."),
]
MixName = Annotated[
    str,
    typer.Option(
        metavar="MIX",
        help="Lengths: fixed:IN,OUT (words, tokens), short-long (80 % 40 and 20 % 800 words; "
        "short-long:OUT sets the answers' tokens), sharegpt or burstgpt (log-normal).",
    ),
]
Seed = Annotated[
    int | None,
    typer.Option(
        min=0, metavar="N",
        help="Repeats arrivals, lengths and prompts. Default: a new one each time, because a "
        "server that keeps prefixes knows repeated prompts.",
    ),
]  # fmt: skip
Concurrency = Annotated[
    int | None,
    typer.Option(
        min=1, metavar="N",
        help="Most requests open at once; later ones wait here, and their TTFT counts it.",
    ),
]  # fmt: skip
Shared = Annotated[
    int, typer.Option(min=0, metavar="N", help="Words that all prompts begin with, extra.")
]
TtftLimit = Annotated[float, typer.Option(metavar="SECONDS", help="For goodput: first text.")]
ItlLimit = Annotated[
    float, typer.Option(metavar="SECONDS", help="For goodput: 90 % of a request's gaps.")
]
Timeout = Annotated[float, typer.Option(metavar="SECONDS", help="Give a request up after so long.")]
Chat = Annotated[bool, typer.Option("--chat", help="Use chat completions, not completions.")]
IgnoreEos = Annotated[
    bool,
    typer.Option(
        "--ignore-eos",
        help="Ask for answers of exactly the mix's length (okno, llama-server, vLLM).",
    ),
]
Model = Annotated[
    str | None, typer.Option(metavar="NAME", help="Default: the first one the server lists.")
]
ApiKey = Annotated[
    str | None, typer.Option(metavar="KEY", envvar="OKNO_API_KEY", help="Sent as Bearer token.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
Out = Annotated[Path | None, typer.Option(metavar="FILE", help="Write Markdown too.")]


def serve(
    url: Url = None,
    rate: Rate = 1.0,
    burstiness: Burstiness = 1.0,
    requests: Requests = None,
    duration: Duration = None,
    mix: MixName = "short-long",
    seed: Seed = None,
    concurrency: Concurrency = None,
    shared_prefix_words: Shared = 0,
    ttft_limit: TtftLimit = 5.0,
    itl_limit: ItlLimit = 0.35,
    timeout: Timeout = 600.0,
    chat: Chat = False,
    ignore_eos: IgnoreEos = False,
    model: Model = None,
    api_key: ApiKey = None,
    as_json: AsJson = False,
    out: Out = None,
) -> int:
    """Put a load on any OpenAI-compatible server: latencies, tokens/s, goodput, failures."""
    from okno.bench.load_mix import parse_mix
    from okno.bench.load_report import Limits, summarise
    from okno.bench.load_run import LoadPlan
    from okno.bench.load_target import DEFAULT_URL, target_of

    _check_positive({
        "--rate": rate, "--burstiness": burstiness, "--duration": duration,
        "--ttft-limit": ttft_limit, "--itl-limit": itl_limit, "--timeout": timeout,
    })  # fmt: skip
    plan = LoadPlan(
        mix=parse_mix(mix), seed=secrets.randbelow(SEEDS) if seed is None else seed,
        rate_per_s=rate, burstiness=burstiness, requests=requests,
        duration_s=duration or (DEFAULT_S if requests is None else INFINITE),
        shared_prefix_words=shared_prefix_words, ignore_eos=ignore_eos,
    )  # fmt: skip
    due = plan.due()
    target = target_of(url or DEFAULT_URL, chat=chat, model=model, api_key=api_key)
    target, answers = _measured(target, due, concurrency, timeout)
    summary = summarise(answers, Limits(ttft_limit, itl_limit))
    about = _about(target, plan, mix, concurrency)
    (_print_json if as_json else _print)(summary, about)
    if out is not None:
        _write(out, summary, about, api_key)
    return 0 if summary.completed else 1


def _check_positive(given: Mapping[str, float | None]) -> None:
    for name, value in given.items():
        if value is not None and not value > 0:
            raise BadSetting(f"{name} {value:g} must be more than 0.", param=name)


def _measured(
    target: Target, due: Sequence[Due], concurrency: int | None, timeout_s: float
) -> tuple[Target, list[Answer]]:
    """Ask once whether the server answers, then let the load go."""
    import asyncio

    from okno.bench.load_run import run_load
    from okno.bench.load_target import ready

    async def measure() -> tuple[Target, list[Answer]]:
        found = await ready(target)
        title = f"{len(due):,} requests over {due[-1].at_s:.0f} s to {found.url}"
        with loading(title) as show:
            ended = itertools.count(1)
            answers = await run_load(
                found, due, concurrency=concurrency, timeout_s=timeout_s,
                on_answer=lambda _: show(next(ended) / len(due)),
            )  # fmt: skip
        return found, answers

    return asyncio.run(measure())


def _about(target: Target, plan: LoadPlan, mix: str, concurrency: int | None) -> dict[str, str]:
    """What was run, in words."""
    kind = "Poisson" if plan.burstiness == 1 else f"Gamma, burstiness {plan.burstiness:g}"
    rate = f"{plan.rate_per_s:g} requests/s ({kind})" if plan.rate_per_s < INFINITE else "at once"
    limit = f", at most {concurrency} open" if concurrency else ""
    shared = f", {plan.shared_prefix_words} words shared" if plan.shared_prefix_words else ""
    return {
        "server": target.url,
        "model": target.model or "not named",
        "arrivals": rate + limit,
        "lengths": f"{mix}{shared}",
        "seed": str(plan.seed),
    }


def _print_json(summary: LoadSummary, about: dict[str, str]) -> None:
    from okno.bench.load_report import as_json

    typer.echo(json.dumps({"run": about} | as_json(summary), ensure_ascii=False, indent=2))


def _print(summary: LoadSummary, about: dict[str, str]) -> None:
    from rich.markup import escape
    from rich.table import Table

    from okno.bench.load_report import NOTES, figure_rows, latency_rows
    from okno.cli.tables import console

    out = console()
    for name, text in about.items():
        out.print(f"[bold]{name}[/] ", end="")
        out.print(text, markup=False)
    figures = Table(show_header=False, box=None)
    for row in figure_rows(summary):
        figures.add_row(*map(escape, row))
    latencies = Table("", "p50", "p99", "max", box=None)
    for cells in latency_rows(summary):
        latencies.add_row(*cells)
    out.print("", figures, "", latencies, "", NOTES, sep="\n")
    for text in summary.failure_texts:
        out.print(f"failed: {text}", markup=False)


def _write(out: Path, summary: LoadSummary, about: dict[str, str], secret: str | None) -> None:
    """The Markdown page, without the key that the command line may hold."""
    from okno.bench.load_report import markdown
    from okno.bench.report import environment

    lines = "".join(f"- {name}: {text}\n" for name, text in about.items())
    where = environment() if secret is None else environment().replace(secret, "...")
    page = markdown(f"Load on {about['server']}", f"{lines}\nMeasured from:\n\n{where}", summary)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(page, encoding="utf-8")
    except OSError as error:
        raise BadSetting(
            f"--out {out} cannot be written: {error.strerror}.", param="--out"
        ) from None
