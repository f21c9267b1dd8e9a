"""The entry points: `okno ...`, `python -m okno.cli.main ...` and `python server.py ...`.

Imports nothing beyond the standard library until it has to, so that a Python without okno's
dependencies gets a sentence instead of a traceback.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

Run = Callable[[list[str]], int]


def main() -> None:
    """`okno COMMAND ...`."""
    sys.exit(_guarded(_run_okno, sys.argv[1:]))


def serve() -> None:
    """`python server.py ...`: exactly `okno serve ...`."""
    sys.exit(_guarded(_run_server_py, sys.argv[1:]))


def _run_okno(args: list[str]) -> int:
    from okno.cli.app import run

    return run(args)


def _run_server_py(args: list[str]) -> int:
    from okno.cli.app import run_command

    return run_command("serve", args, program="python server.py")


def _guarded(run: Run, args: list[str]) -> int:
    """`run`, with a clear line when this Python has not got what okno needs. A terminal that lacks
    a letter gets a question mark for it."""
    if sys.version_info < (3, 11):  # noqa: UP036 - `python server.py` may be any Python
        return _refuse(f"okno needs Python 3.11 or newer; this is {sys.version.split()[0]}.")
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # type: ignore[union-attr]
    try:
        return run(args)
    except ModuleNotFoundError as error:
        if (error.name or "okno").split(".")[0] == "okno":
            raise
        return _refuse(
            f"this Python ({sys.executable}) has no module '{error.name}', which okno needs."
        )


def _refuse(reason: str) -> int:
    script = sys.argv[0].endswith("server.py")
    command = "python server.py" if script else "okno"
    sys.stderr.write(
        f"error: {reason}\n"
        f"Run it in okno's environment: uv run {command} ...   (or first: pip install .)\n"
    )
    return 1


if __name__ == "__main__":
    main()
