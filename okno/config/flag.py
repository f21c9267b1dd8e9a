"""How a setting looks from outside: its flags, the names other programs use, its help."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Flag:
    """Metadata of one field of the settings tree (put into its `Annotated`).

    names: our own flags, the long one first; `--on/--off` for a switch. also: names that users of
    other programs type: accepted, and answered with the meaning that was taken. meaning: a noun
    phrase that starts the help and explains an alias; more: further sentences of help.
    too_big: what to tell who goes above the upper bound. note: printed when the flag is used.
    secret: the value is never shown. in_file: it may stand in generation_config.yaml. metavar: what
    stands for the value; words in lower case are values themselves (`N|auto`).
    """

    names: Sequence[str]
    section: str
    meaning: str
    more: str = ""
    metavar: str | None = None
    also: Sequence[str] = ()
    too_big: str = ""
    note: str = ""
    hidden: bool = False
    secret: bool = False
    in_file: bool = True

    @property
    def help(self) -> str:
        """The help text: one paragraph, without names and default."""
        head = self.meaning[0].upper() + self.meaning[1:] + "."
        return f"{head} {self.more}".rstrip()

    @property
    def long(self) -> str:
        """The name messages use, such as `--batch-size`."""
        return self.names[0].split("/")[0]

    def spelled(self, value: object) -> str:
        """The name that sets `value`: of a switch, the `--no-...` one for False."""
        return self.names[0].split("/")[-1] if value is False else self.long
