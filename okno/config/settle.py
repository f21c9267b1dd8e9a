"""Settings that say one thing in two ways: the stronger source decides.

`do_sample: false` is temperature 0 (as in transformers, where the temperature then does not count);
`do_sample: true` sampling at the temperature given, or at the default. `listen` is a `host`.
"""

from __future__ import annotations

from dataclasses import replace

from okno.config.given import RANK, Given, Layer, shown
from okno.config.settings import ServeSettings
from okno.core.errors import BadSetting

SWITCH, HEAT = "do_sample", "temperature"


def without_weaker(given: Layer) -> Layer:
    """`given` with one of `host` and `listen` when their sources differ; in one source both stand,
    for the check of contradictions."""
    host, listen = given.get("host"), given.get("listen")
    if host is None or listen is None or host.source == listen.source:
        return given
    weaker = "host" if RANK[host.source] < RANK[listen.source] else "listen"
    return {name: value for name, value in given.items() if name != weaker}


def settled(given: Layer, settings: ServeSettings) -> tuple[Layer, list[str]]:
    """`given` with `do_sample` and `temperature` agreeing, and notes about what does not count.

    settings: the checked values of `given`. Raises BadSetting when one source asks for sampling at
    temperature 0.
    """
    switch, heat = given.get(SWITCH), given.get(HEAT)
    greedy = settings.temperature == 0
    if switch is None or (heat is not None and RANK[heat.source] > RANK[switch.source]):
        return _by_temperature(given, switch, heat, greedy), []
    if not settings.do_sample:
        notes = _notes(switch, heat) if heat is not None and not greedy else []
        return {**given, HEAT: replace(switch, value=0.0)}, notes
    if greedy and heat is not None and heat.source == switch.source:
        raise BadSetting(
            f"{shown(SWITCH, switch)} and {shown(HEAT, heat)} contradict each other: temperature 0 "
            "never samples. Leave one of them out.",
            param=HEAT,
        )
    return ({k: v for k, v in given.items() if k != HEAT} if greedy else given), []


def _by_temperature(given: Layer, switch: Given | None, heat: Given | None, greedy: bool) -> Layer:
    """The temperature decides; the switch follows where it was given or sampling is off."""
    if heat is None or (switch is None and not greedy):
        return given
    return {**given, SWITCH: replace(heat, value=not greedy)}


def _notes(switch: Given, heat: Given) -> list[str]:
    """Both in one source, and the temperature does not count."""
    if heat.source != switch.source:
        return []
    return [
        f"{shown(SWITCH, switch)} means temperature 0; {shown(HEAT, heat)} does not count."
    ]  # fmt: skip
