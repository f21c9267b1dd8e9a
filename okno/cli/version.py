"""`okno version`."""

from __future__ import annotations

import platform
from importlib import metadata

import typer

import okno

STANDS_ON = ("llama-cpp-python", "fastapi", "uvicorn", "llguidance")


def version() -> None:
    """Show the versions of okno and of what it stands on."""
    typer.echo(f"okno {okno.__version__}")
    typer.echo(f"Python {platform.python_version()} on {platform.system()} {platform.machine()}")
    for package in STANDS_ON:
        typer.echo(f"{package} {installed(package)}")


def installed(package: str) -> str:
    """The installed version of `package`."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "is not installed"
