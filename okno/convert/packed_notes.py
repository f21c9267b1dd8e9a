"""What became of packed layers, in sentences for the user."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from okno.convert.fields import Field
from okno.convert.packed_targets import PackedTarget, is_reordered
from okno.convert.repack import Report

HOWS = ("exact", "rounded", "requantised", "asked")


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
    found += _with_fewer_bits(reports)
    if is_reordered(packed):
        found.append(
            "Inputs of some layers were reordered together with the outputs before them, so LoRA "
            "adapters for the original do not fit the converted file."
        )
    return (*found, *_grown(reports))


def fields_on_packed(packed: Mapping[str, PackedTarget]) -> dict[str, Field]:
    """For the header of the file. `okno.packed`: what became of each tensor, a line each: its name,
    type, how, and the error in steps (of its worst layer), which is 0 until it is written; as long
    before as after. `okno.reordered`: adapters for the checkpoint do not fit
    (okno/inspect/adapter.py)."""
    if not packed:
        return {}
    lines = []
    for name, target in packed.items():
        hows = [part.how for part in target.parts]
        how = max(hows, key=HOWS.index)
        worst = max((report.error_steps for report in target.reports.values()), default=0.0)
        lines.append(f"{name} {target.ggml_type} {how} {min(worst, 9.9999):.4f}")
    found: dict[str, Field] = {"okno.packed": "\n".join(lines)}
    return found | ({"okno.reordered": True} if is_reordered(packed) else {})


def _with_fewer_bits(reports: list[Report]) -> Iterator[str]:
    """What was asked for, and what it cost."""
    asked = [report for report in reports if report.how == "asked"]
    if asked:
        worst = max(asked, key=lambda report: report.error_relative)
        bits = ", ".join(sorted({str(report.bits) for report in asked}))
        kinds = ", ".join(sorted({report.ggml_type for report in asked}))
        yield (
            f"{len(asked)} of {len(reports)} packed layers were quantised from {bits} bits to "
            f"{kinds}, as asked, which moves their weights by {worst.error_relative:.1%} (root "
            f"mean square; the most: {worst.name})."
        )


def _grown(reports: list[Report]) -> tuple[str, ...]:
    grown = [report for report in reports if report.grew]
    if not grown:
        return ()
    return (
        f"{len(grown)} layers need more memory than in the checkpoint: no smaller type of the "
        "engine holds their numbers.",
    )
