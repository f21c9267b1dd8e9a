"""What became of packed layers, in sentences for the user."""

from __future__ import annotations

from collections.abc import Mapping

from okno.convert.packed_targets import PackedTarget, is_reordered
from okno.convert.repack import Report


def notes_on_packed(packed: Mapping[str, PackedTarget]) -> tuple[str, ...]:
    """Of the layers that were written: how many hold the same numbers, and the worst of the
    others."""
    reports = [report for target in packed.values() for report in target.reports.values()]
    if not reports:
        return ()
    found = []
    exact = [report for report in reports if report.how == "exact"]
    if exact:
        found.append(
            f"{len(exact)} of {len(reports)} packed layers hold the same numbers as before."
        )
    for how, told in (("rounded", "moved within"), ("requantised", "were quantised anew, with")):
        others = [report for report in reports if report.how == how]
        if others:
            worst = max(others, key=lambda report: report.error_steps)
            kinds = ", ".join(sorted({report.ggml_type for report in others}))
            found.append(
                f"{len(others)} of {len(reports)} packed layers {told} {worst.error_steps:.2g} of "
                f"a step (to {kinds}; the most: {worst.name})."
            )
    if is_reordered(packed):
        found.append(
            "Inputs of some layers were reordered together with the outputs before them, so LoRA "
            "adapters for the original do not fit the converted file."
        )
    return (*found, *_grown(reports))


def _grown(reports: list[Report]) -> tuple[str, ...]:
    grown = [report for report in reports if report.grew]
    if not grown:
        return ()
    return (
        f"{len(grown)} layers need more memory than in the checkpoint: no smaller type of the "
        "engine holds their numbers.",
    )
