"""`okno bench`: measurements that check okno's own promises."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

EPILOG = "Figures of the last runs are in docs/benchmarks."
What = Annotated[
    Literal["memory", "speed", "all"], typer.Option(help="What is predicted and measured.")
]
Out = Annotated[
    Path, typer.Option(help="Folder of the reports.", metavar="FOLDER", show_default=True)
]
Cases = Annotated[
    str | None,
    typer.Option(help="Only cases whose name holds one of these words.", metavar="WORDS"),
]
Folder = Annotated[
    Path,
    typer.Option(
        help="Where models with random weights are made and results kept.", metavar="FOLDER"
    ),
]
Keep = Annotated[bool, typer.Option("--keep", help="Keep the models that were made.")]


def plan_accuracy(
    what: What = "all",
    out: Out = Path("docs/benchmarks"),
    cases: Cases = None,
    folder: Folder = Path("bench-models"),
    keep: Keep = False,
) -> None:
    """Compare what okno plan predicts with what this machine then measures."""
    if what in ("memory", "all"):
        from okno.bench.accuracy_memory import OUT, run

        report = out / OUT.name
        run(folder, out=report, wanted=cases, keep=keep, tell=_say)
    if what in ("speed", "all"):
        _speed(out, cases, folder, keep=keep)


def _speed(out: Path, cases: str | None, folder: Path, *, keep: bool) -> None:
    from okno.bench import accuracy_speed

    accuracy_speed.run(folder, out=out / "plan-accuracy-speed.md", wanted=cases, keep=keep,
                       tell=_say)  # fmt: skip


def _say(line: str) -> None:
    typer.echo(line, err=True)


SUBCOMMANDS = {"plan-accuracy": plan_accuracy}
