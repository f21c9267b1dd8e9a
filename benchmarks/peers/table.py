"""The figures of all contestants as Markdown: medians, and how many times better okno is."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

from benchmarks.peers.scenarios import Better, Figure, Figures, Scenario
from okno.bench.report import table

OURS = "okno"
FAILED = "failed"


@dataclass(slots=True)
class Results:
    """values: by scenario, figure and peer, one per repetition; failures: why there is none."""

    values: dict[tuple[str, str, str], list[float]] = field(
        default_factory=lambda: defaultdict(list)
    )
    failures: dict[tuple[str, str], list[str]] = field(default_factory=lambda: defaultdict(list))

    def add(self, scenario: Scenario, peer: str, figures: Figures) -> None:
        for key in scenario.figures:
            self.values[scenario.key, key, peer].append(figures[key])

    def fail(self, scenario: Scenario, peer: str, why: str) -> None:
        self.failures[scenario.key, peer].append(why)

    def middle(self, scenario: str, figure: str, peer: str) -> float | None:
        """The median of the repetitions; None without any."""
        found = self.values.get((scenario, figure, peer))
        return median(found) if found else None

    def as_json(self) -> dict[str, object]:
        """Every repetition, for programs."""
        return {
            "values": {"/".join(key): list(values) for key, values in self.values.items()},
            "failures": {"/".join(key): list(texts) for key, texts in self.failures.items()},
        }


def better(ours: float, theirs: float, way: Better) -> float:
    """How many times better ours is: above 1 it is; NaN where there is nothing to divide by."""
    above, below = (theirs, ours) if way == "less" else (ours, theirs)
    return above / below if below > 0 else math.nan


def figure_table(results: Results, scenarios: Sequence[Scenario], peers: Sequence[str]) -> str:
    """A row for each figure, a column for each peer."""
    rows = [
        [scenario.title, figure.name, *(
            _cell(results, scenario, key, figure, peer) for peer in peers
        )]
        for scenario in scenarios
        for key, figure in scenario.figures.items()
    ]  # fmt: skip
    return table(("work", "figure", *peers), rows)


def _cell(results: Results, scenario: Scenario, key: str, figure: Figure, peer: str) -> str:
    value = results.middle(scenario.key, key, peer)
    if value is None:
        return FAILED if results.failures.get((scenario.key, peer)) else "-"
    text = number(value, figure.unit)
    if results.failures.get((scenario.key, peer)):
        text += f" ({len(results.failures[scenario.key, peer])} runs failed)"
    ours = results.middle(scenario.key, key, OURS)
    if peer == OURS or ours is None or figure.unit == "requests":
        return text
    return f"{text} ({ratio(better(ours, value, figure.better))})"


def number(value: float, unit: str) -> str:
    """`12.3 tok/s`, `0.085 s`, `2 requests`."""
    if unit == "requests":
        return f"{value:g}"
    digits = 3 if value < 1 else 2 if value < 10 else 1
    return f"{value:.{digits}f} {unit}"


def ratio(times: float) -> str:
    """`2.4x`, `57x`."""
    if math.isnan(times):
        return "-"
    return f"{times:.2f}x" if times < 10 else f"{times:.0f}x"


def failure_list(results: Results, scenarios: Sequence[Scenario]) -> str:
    """What failed, with the server's own words."""
    titles = {scenario.key: scenario.title for scenario in scenarios}
    told: dict[tuple[str, str], list[str]] = defaultdict(list)
    for (key, peer), texts in results.failures.items():
        told[peer, texts[0]].append(f"{titles[key]} ({len(texts)}x)")
    lines = [
        f"- {peer}: {text.rstrip('.')}. In: {'; '.join(where)}"
        for (peer, text), where in told.items()
    ]
    return "\n".join(lines) + "\n" if lines else "Nothing failed.\n"


def peer_table(versions: Mapping[str, str], missing: Mapping[str, str]) -> str:
    """Who was measured, by which version, and who was not, and why."""
    measured = [(name, text) for name, text in versions.items()]
    return table(("program", "measured as"), [*measured, *missing.items()])
