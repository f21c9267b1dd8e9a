"""Generation settings that come with a model: generation_config.json beside its file, and
`general.sampling.*` of its GGUF header (llama.cpp, LLM_KV_GENERAL_SAMPLING_*).

They are somebody else's words: what cannot be honoured is said and left out, never an error, and
only generation settings are taken.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from okno.config.file import SettingsFile, fits, printable, read_file
from okno.config.foreign_keys import NEUTRAL, objection
from okno.config.given import Given, Layer, short
from okno.config.load import checked
from okno.config.tree import Entry, by_key
from okno.config.yaml_text import Member
from okno.core.errors import BadSetting

OWN_FILE = "generation_config.json"
GGUF_PREFIX = "general.sampling."
GGUF_KEYS = {
    "temp": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "penalty_repeat": "repetition_penalty",
    "penalty_last_n": "repeat_last_n",
}
GGUF_OFF: Mapping[str, object] = {"mirostat": 0, "xtc_probability": 0}
GGUF_PARAMETERS = frozenset({"mirostat_tau", "mirostat_eta", "xtc_threshold", "sequence"})


@dataclass(frozen=True, slots=True)
class Own:
    """What comes with a model: checked values, and what was left out and why."""

    given: Layer
    notes: tuple[str, ...] = ()


NOTHING = Own({})


def own_settings(model: Path, metadata: Mapping[str, object]) -> Own:
    """The settings that come with the model file at `model`, whose GGUF header says `metadata`.
    The JSON file beside it wins over the header."""
    header = from_metadata(metadata, printable(model.name))
    beside = from_file(model.with_name(OWN_FILE))
    return Own({**header.given, **beside.given}, (*header.notes, *beside.notes))


def from_file(path: Path) -> Own:
    """The settings of a model's generation_config.json; nothing, if there is none."""
    if not path.is_file():
        return NOTHING
    try:
        file = read_file(path)
    except BadSetting as error:
        return Own({}, (f"The model's own settings are not used: {error.message}",))
    if file.root is None or not isinstance(file.root.value, dict):
        return Own({}, (f"The model's own {file.name} holds no settings; it is not used.",))
    taken = _Taken()
    for member in file.root.value.values():
        _take(taken, file, member)
    return taken.own()


def _take(taken: _Taken, file: SettingsFile, member: Member) -> None:
    """One key of a model's own file; unknown ones are other programs' business."""
    value = member.node.plain
    where = f"the model's own {file.name}, line {member.line}"
    entry = by_key().get(member.key)
    if value is None:
        return
    if entry is not None and not entry.part:
        taken.add(entry, value, where)
    elif member.key in NEUTRAL and (reason := objection(member.key, value)):
        taken.leave_out(f"{member.key} {short(value)}", where, reason)


def from_metadata(metadata: Mapping[str, object], name: str) -> Own:
    """The settings in the GGUF header of the file `name`."""
    taken = _Taken()
    for key, value in metadata.items():
        if not key.startswith(GGUF_PREFIX):
            continue
        bare = key.removeprefix(GGUF_PREFIX)
        where = f"the header of {name}, {key}"
        if bare in GGUF_KEYS:
            taken.add(by_key()[GGUF_KEYS[bare]], _rounded(value), where)
        elif bare not in GGUF_PARAMETERS and value != GGUF_OFF.get(bare):
            taken.leave_out(f"{printable(bare)} {short(value)}", where, "it does not exist here")
    return taken.own()


def _rounded(value: object) -> object:
    """A 32-bit number as it was meant: 0.1, not 0.10000000149."""
    return float(f"{value:.6g}") if isinstance(value, float) else value


class _Taken:
    """Values of one origin, each checked when it is added."""

    def __init__(self) -> None:
        self._given: dict[str, Given] = {}
        self._notes: list[str] = []

    def add(self, entry: Entry, value: object, where: str) -> None:
        given = Given(value, "model", entry.name, where)
        if not fits(entry, value):
            self.leave_out(f"{entry.name} {short(value)}", where, f"it must be {entry.allowed}")
            return
        try:
            checked({entry.name: given})
        except BadSetting as error:
            reason = error.message.rsplit(": ", 1)[-1].rstrip(".")
            self.leave_out(f"{entry.name} {short(value)}", where, reason)
        else:
            self._given[entry.name] = given

    def leave_out(self, what: str, where: str, reason: str) -> None:
        self._notes.append(f"{what} is left out: {reason} ({where}).")

    def own(self) -> Own:
        """Sampling at temperature 0 is no sampling."""
        switch, heat = self._given.get("do_sample"), self._given.get("temperature")
        if switch and heat and switch.value is True and heat.value == 0:
            del self._given["do_sample"]
        return Own(self._given, tuple(self._notes))
