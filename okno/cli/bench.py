"""`okno bench`: measurements that check okno's own promises, and load on any server."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from okno.cli.bench_serve import serve

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from okno.bench.chosen import Named

EPILOG = "Figures of the last runs are in docs/benchmarks."
What = Annotated[
    Literal["memory", "speed", "all"], typer.Option(help="What is predicted and measured.")
]
Out = Annotated[
    Path, typer.Option(help="Folder of the reports.", metavar="FOLDER", show_default=True)
]
Cases = Annotated[
    str | None,
    typer.Option(
        help="Only cases whose name holds one of these words, parted by commas or spaces.",
        metavar="WORDS",
    ),
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
    from okno.bench import accuracy_memory, accuracy_speed, memory_cases
    from okno.bench.chosen import chosen, matching

    runs = {"memory": accuracy_memory, "speed": accuracy_speed}
    named: Mapping[str, Sequence[Named]] = {
        "memory": memory_cases.CASES,
        "speed": accuracy_speed.MODELS,
    }
    asked = [kind for kind in runs if what in (kind, "all")]
    chosen([case for kind in asked for case in named[kind]], cases)  # before anything is measured
    for kind in asked:
        if matching(named[kind], cases):
            module = runs[kind]
            module.run(folder, out=out / module.OUT.name, wanted=cases, keep=keep, tell=_say)
        else:
            _say(f"No case of {kind} is named like that; its report is left as it is.")


def _say(line: str) -> None:
    typer.echo(line, err=True)


SUBCOMMANDS = {"plan-accuracy": plan_accuracy, "serve": serve}
