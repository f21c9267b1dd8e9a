"""What came of a load: latencies, tokens per second, goodput, failures; as values and Markdown."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from okno.bench.load_client import Answer, ProblemKind
from okno.bench.report import percentile, table

ITL_PERCENT = 90
TokensBy = Literal["usage", "events with text", "usage where told, else events with text"]
NOTES = (
    "TTFT: from when a request was due to its first text, waiting at this client included. ITL: "
    "between events with text, of all requests together. Worst gap: the longest ITL of each "
    "request. Goodput: requests per second that ended well, with TTFT and the 90th percentile of "
    "their ITLs within the limits. Percentiles are by nearest rank."
)


@dataclass(frozen=True, slots=True)
class Limits:
    """What a user bears. ttft_s: to the first text; itl_s: 90 % of a request's gaps."""

    ttft_s: float
    itl_s: float

    def meets(self, answer: Answer) -> bool:
        """Whether the request ended well and within both limits."""
        if answer.problem is not None or answer.ttft_s is None:
            return False
        gaps = answer.gaps_s
        slow = percentile(gaps, ITL_PERCENT) if gaps else 0.0
        return answer.ttft_s <= self.ttft_s and slow <= self.itl_s


@dataclass(frozen=True, slots=True)
class Spread:
    """Seconds; NaN where there was nothing to measure."""

    p50: float
    p99: float
    max: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        found = list(values)
        return cls(percentile(found, 50), percentile(found, 99), max(found, default=math.nan))


@dataclass(frozen=True, slots=True)
class LoadSummary:
    """A load in figures. seconds: from the first request due to the last answer's end; tokens_by:
    how answers were counted; late_s: how long the slowest request waited at this client."""

    requests: int
    completed: int
    good: int
    seconds: float
    prompt_tokens: int
    completion_tokens: int
    tokens_by: TokensBy
    ttft_s: Spread
    itl_s: Spread
    worst_gap_s: Spread
    late_s: float
    limits: Limits
    failures: dict[ProblemKind, int]
    failure_texts: tuple[str, ...]

    @property
    def tok_s(self) -> float:
        """Tokens of answers per second, of all requests together."""
        return self.completion_tokens / self.seconds if self.seconds else 0.0

    @property
    def goodput(self) -> float:
        """Requests per second within the limits."""
        return self.good / self.seconds if self.seconds else 0.0


def summarise(answers: Sequence[Answer], limits: Limits) -> LoadSummary:
    """The figures of a load. Latencies count every request that has them, also failed ones."""
    problems = [answer.problem for answer in answers if answer.problem is not None]
    firsts = [answer.ttft_s for answer in answers if answer.ttft_s is not None]
    began = min((answer.due_s for answer in answers), default=0.0)
    ended = max((answer.ended_s for answer in answers), default=0.0)
    return LoadSummary(
        requests=len(answers),
        completed=len(answers) - len(problems),
        good=sum(map(limits.meets, answers)),
        seconds=ended - began,
        prompt_tokens=sum(answer.prompt_tokens or 0 for answer in answers),
        completion_tokens=sum(answer.tokens for answer in answers),
        tokens_by=_counted_by(answers),
        ttft_s=Spread.of(firsts),
        itl_s=Spread.of(gap for answer in answers for gap in answer.gaps_s),
        worst_gap_s=Spread.of(max(answer.gaps_s) for answer in answers if answer.gaps_s),
        late_s=max((answer.sent_s - answer.due_s for answer in answers), default=0.0),
        limits=limits,
        failures=dict(Counter(problem.kind for problem in problems)),
        failure_texts=tuple(dict.fromkeys(problem.text for problem in problems))[:5],
    )


def _counted_by(answers: Sequence[Answer]) -> TokensBy:
    told = {answer.completion_tokens is not None for answer in answers if answer.chunks_s}
    if told == {True}:
        return "usage"
    return "usage where told, else events with text" if True in told else "events with text"


def latency_rows(summary: LoadSummary) -> list[tuple[str, str, str, str]]:
    """Rows of name, p50, p99, max."""
    named = (("TTFT", summary.ttft_s), ("ITL", summary.itl_s), ("worst gap", summary.worst_gap_s))
    return [
        (name, duration(spread.p50), duration(spread.p99), duration(spread.max))
        for name, spread in named
    ]


def figure_rows(summary: LoadSummary) -> list[tuple[str, str]]:
    """Rows of name and figure: what is not a latency."""
    limits = summary.limits
    failed = ", ".join(f"{count} {kind}" for kind, count in sorted(summary.failures.items()))
    return [
        ("requests", f"{summary.requests:,}: {summary.completed:,} completed, "
                     f"{summary.requests - summary.completed:,} failed"),
        ("failures", failed or "none"),
        ("time", f"{summary.seconds:.1f} s"),
        ("tok/s in all", f"{summary.tok_s:.1f} ({summary.completion_tokens:,} tokens, counted by "
                         f"{summary.tokens_by})"),
        ("prompt tokens", f"{summary.prompt_tokens:,}" if summary.prompt_tokens else "not told"),
        ("goodput", f"{summary.goodput:.3f} requests/s ({summary.good:,} with TTFT <= "
                    f"{limits.ttft_s:g} s and {ITL_PERCENT} % of ITL <= {limits.itl_s:g} s)"),
    ]  # fmt: skip


def duration(seconds: float) -> str:
    """`12.3 s`, `85 ms`; a dash for what was not measured."""
    if math.isnan(seconds):
        return "-"
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1000:.1f} ms"


def markdown(title: str, about: str, summary: LoadSummary) -> str:
    """A page: `about` says what was run and where."""
    parts = [
        f"# {title}\n",
        about,
        table(("", "figure"), figure_rows(summary)),
        table(("", "p50", "p99", "max"), latency_rows(summary)),
        NOTES,
    ]
    if summary.failure_texts:
        parts.append("Failures said:\n\n" + "\n".join(f"- {t}" for t in summary.failure_texts))
    return "\n".join(parts) + "\n"


def as_json(summary: LoadSummary) -> dict[str, Any]:
    """For programs; null where there was nothing to measure."""
    found: dict[str, Any] = asdict(summary)
    for name in ("ttft_s", "itl_s", "worst_gap_s"):
        found[name] = {k: None if math.isnan(v) else v for k, v in found[name].items()}
    return found | {"tok_s": summary.tok_s, "goodput_requests_s": summary.goodput}
