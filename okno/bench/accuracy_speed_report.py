"""Predicted against measured speed as Markdown, with the residuals by model, batch and fill."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import mean

from okno.bench.report import environment, percentile, table
from okno.core.calibration import Calibration
from okno.core.plan import Figure


@dataclass(frozen=True, slots=True)
class DecodeCase:
    """Tokens/s of `batch` sequences of `fill` tokens."""

    model: str
    batch: int
    fill: int
    predicted: Figure
    measured: float

    @property
    def error(self) -> float:
        """Signed, relative to the measured: above 0 predicted too fast."""
        return self.predicted.value / self.measured - 1

    @property
    def is_covered(self) -> bool:
        return self.predicted.low <= self.measured <= self.predicted.high

    def line(self) -> str:
        return (
            f"{self.model}: batch {self.batch}, fill {self.fill:,}: predicted "
            f"{self.predicted.value:.1f} tok/s, measured {self.measured:.1f} ({self.error:+.1%})"
        )


@dataclass(frozen=True, slots=True)
class FirstCase:
    """Seconds to the first token of request `number` of `count` with `prompt` tokens each."""

    model: str
    count: int
    prompt: int
    number: int
    predicted_s: float
    interval_s: tuple[float, float]
    measured_s: float

    @property
    def error(self) -> float:
        """Signed, relative to the measured: above 0 predicted too late."""
        return self.predicted_s / self.measured_s - 1

    @property
    def is_covered(self) -> bool:
        low, high = self.interval_s
        return low <= self.measured_s <= high

    def line(self) -> str:
        return (
            f"{self.model}: first token {self.number + 1} of {self.count} with {self.prompt:,} "
            f"tokens: predicted {self.predicted_s:.2f} s, measured {self.measured_s:.2f} "
            f"({self.error:+.1%})"
        )


Case = DecodeCase | FirstCase


def report(
    calibration: Calibration, decodes: Sequence[DecodeCase], firsts: Sequence[FirstCase]
) -> str:
    """The whole page."""
    parts = [
        "# Predicted against measured speed\n",
        environment(),
        f"- calibrated {calibration.created}, {calibration.threads} threads, noise of a step "
        f"{calibration.noise:.1%}, weights read at "
        f"{calibration.bandwidth_bytes_s / 1e9:.1f} GB/s\n",
        "The models' shapes and number formats are not those of the calibration blocks. Errors are "
        "relative to the measured value; an interval covers when the measured lies in it.\n",
        _summary(decodes, firsts),
        "## Decode: error of tokens/s, by batch size (above 0: predicted too fast)\n",
        _decode_residuals(decodes),
        "## Decode: measured tokens/s in all\n",
        _decode_rates(decodes),
        "## First tokens: error of the time (above 0: predicted too late)\n",
        _first_residuals(firsts),
    ]
    return "\n".join(parts)


def _summary(decodes: Sequence[DecodeCase], firsts: Sequence[FirstCase]) -> str:
    head = ("", "cases", "mean", "p90", "p99", "bias", "covered")
    rows = [_figures("decode tokens/s, all", decodes), _figures("time to first token, all", firsts)]
    for name in dict.fromkeys(case.model for case in decodes):
        rows.append(_figures(f"decode, {name}", [c for c in decodes if c.model == name]))
    for name in dict.fromkeys(case.model for case in firsts):
        rows.append(_figures(f"first token, {name}", [c for c in firsts if c.model == name]))
    return table(head, rows)


def _figures(name: str, cases: Sequence[Case]) -> list[str]:
    if not cases:
        return [name, "0", "", "", "", "", ""]
    errors = [abs(case.error) for case in cases]
    covered = sum(case.is_covered for case in cases) / len(cases)
    return [
        name, str(len(cases)), f"{mean(errors):.1%}", f"{percentile(errors, 90):.1%}",
        f"{percentile(errors, 99):.1%}", f"{mean(case.error for case in cases):+.1%}",
        f"{covered:.0%}",
    ]  # fmt: skip


def _decode_residuals(cases: Sequence[DecodeCase]) -> str:
    return _grid(cases, lambda c: f"{c.error:+.1%}" + ("" if c.is_covered else " !"))


def _decode_rates(cases: Sequence[DecodeCase]) -> str:
    return _grid(cases, lambda c: f"{c.measured:.1f}")


def _grid(cases: Sequence[DecodeCase], cell: Callable[[DecodeCase], str]) -> str:
    batches = sorted({case.batch for case in cases})
    lines = dict.fromkeys((case.model, case.fill) for case in cases)
    found = {(case.model, case.fill, case.batch): case for case in cases}
    rows = [
        [f"{model}, fill {fill:,}", *(
            cell(found[model, fill, b]) if (model, fill, b) in found else "" for b in batches
        )]
        for model, fill in lines
    ]  # fmt: skip
    return table(("model", *(f"B={b}" for b in batches)), rows)


def _first_residuals(cases: Sequence[FirstCase]) -> str:
    groups = dict.fromkeys((case.model, case.count, case.prompt) for case in cases)
    rows = []
    for model, count, prompt in groups:
        group = [c for c in cases if (c.model, c.count, c.prompt) == (model, count, prompt)]
        first, last = group[0], group[-1]
        rows.append([
            f"{model}, {count} x {prompt:,}", f"{first.measured_s:.2f} s", f"{first.error:+.1%}",
            f"{last.measured_s:.2f} s", f"{last.error:+.1%}",
            f"{mean(abs(c.error) for c in group):.1%}",
        ])  # fmt: skip
    return table(("requests", "first one", "error", "last one", "error", "mean error"), rows)
