"""Command-line options made from the settings tree: declared there once, never written here."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Annotated, Any, get_origin

import typer
from typer.core import TyperCommand

from okno.config.flag import Flag
from okno.config.given import Given
from okno.config.refused import REFUSED, Refused
from okno.config.settings import ServeSettings, flag_of
from okno.core.errors import BadSetting

GivenFlags = list[tuple[str, Given]]
REFUSED_PREFIX = "refused__"
SUGGESTION_CUTOFF = 0.7
GOAL_SETTINGS = ("prefer", "max_ttft", "min_tok_s")  # what a window is picked for


class SectionedCommand(TyperCommand):
    """A command whose help lists its options under the headings of the settings tree."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        sections: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            title = "Arguments" if param.param_type_name == "argument" else "Options"
            if record is not None:
                heading = getattr(param, "rich_help_panel", None) or title
                sections.setdefault(heading, []).append(record)
        for heading, records in sections.items():
            with formatter.section(heading):
                formatter.write_dl(records)


def with_settings(
    *names: str, refuse_others: bool = False, hidden: bool = False
) -> Callable[[Callable[..., int | None]], Callable[..., int | None]]:
    """Give a command the flags of settings `names`; it gets those that were used as `given`.

    The command's own parameters come first in its help and are never among `given`, whatever they
    are called. refuse_others: know flags of other programs that okno has not, to refuse them with
    what to do instead. hidden: the help does not list the flags.
    """

    def decorate(command: Callable[..., int | None]) -> Callable[..., int | None]:
        own = inspect.signature(command, eval_str=True).parameters.values()
        kept = [parameter for parameter in own if parameter.name != "given"]
        made = [parameter for name in names for parameter in _parameters(name, hidden)]
        made += _refused_parameters() if refuse_others else []

        def run(**values: Any) -> int | None:
            ours = {parameter.name: values.pop(parameter.name) for parameter in kept}
            return command(given=given_flags(values), **ours)

        run.__doc__ = command.__doc__
        run.__signature__ = inspect.Signature([*kept, *made])  # type: ignore[attr-defined]
        return run

    return decorate


def given_flags(values: Mapping[str, Any]) -> GivenFlags:
    """The settings of the parsed options `values` that were really given, with their spelling.

    Raises BadSetting for a flag of another program that okno knows but has not.
    """
    found: GivenFlags = []
    for parameter, value in values.items():
        if value is None or value == []:
            continue
        if parameter.startswith(REFUSED_PREFIX):
            raise _refusal(parameter)
        name, _, index = parameter.partition("__")
        flag = flag_of(name)
        spelled = flag.also[int(index)] if index else flag.spelled(value)
        found.append((name, Given(value, "command line", spelled)))
    return found


def is_setting(param: Any) -> bool:
    """Whether a command's option was made here from the setting of its name, and is not one of the
    command's own that is called alike: those have a help of their own."""
    if param.name not in ServeSettings.model_fields:
        return False
    return bool(param.help == help_of(param.name))


def help_of(name: str) -> str:
    """The help of a setting's flag: meaning, other names, default."""
    flag = flag_of(name)
    also = f" Also {', '.join(flag.also)}." if flag.also else ""
    default = default_of(name)
    return f"{flag.help}{also}" + (f" [default: {default}]" if default else "")


def default_of(name: str) -> str:
    """The default as a person would type it; empty if there is nothing to say."""
    field, flag = ServeSettings.model_fields[name], flag_of(name)
    if field.annotation is bool:
        return flag.spelled(field.default) if "/" in flag.names[0] else ""
    if field.default is None:
        return "auto" if "auto" in (flag.metavar or "") else ""
    if isinstance(field.default, float):
        return f"{field.default:g}"
    return "" if field.default in ("", ()) else str(field.default)


def _parameters(name: str, hidden: bool) -> Iterator[inspect.Parameter]:
    """The shown option of a setting, and a hidden one for each name that others use."""
    flag = flag_of(name)
    yield _parameter(name, name, flag, *flag.names, hidden=hidden or flag.hidden)
    for index, alias in enumerate(flag.also):
        yield _parameter(f"{name}__{index}", name, flag, alias, hidden=True)


def _parameter(
    parameter: str, name: str, flag: Flag, *spellings: str, hidden: bool
) -> inspect.Parameter:
    option = typer.Option(
        *spellings,
        help=help_of(name),
        metavar=flag.metavar,
        hidden=hidden,
        rich_help_panel=flag.section,
        show_default=False,
    )
    return _keyword(parameter, Annotated[_typer_type(name), option])


def _typer_type(name: str) -> Any:
    """Switches are flags, lists may be repeated; everything else is text, which the settings
    tree itself checks."""
    annotation = ServeSettings.model_fields[name].annotation
    if annotation is bool:
        return bool | None
    return list[str] | None if get_origin(annotation) is tuple else str | None


def _refused_parameters() -> list[inspect.Parameter]:
    """One hidden option for each name, so that a refusal says the name that was typed."""
    return [
        _keyword(
            f"{REFUSED_PREFIX}{row}__{column}",
            Annotated[bool | None if refused.switch else str | None, _hidden(name)],
        )
        for row, refused in enumerate(REFUSED)
        for column, name in enumerate(refused.names)
    ]


def _hidden(name: str) -> Any:
    return typer.Option(name, hidden=True)


def _refusal(parameter: str) -> BadSetting:
    row, column = map(int, parameter.removeprefix(REFUSED_PREFIX).split("__"))
    refused: Refused = REFUSED[row]
    return BadSetting(f"{refused.names[column]}: {refused.reason}")


def nearest_options(asked: str, params: Iterable[Any]) -> list[str]:
    """The names of options `params` that look like `asked`, best first: shown ones, and those of
    other programs that are accepted; never internal ones."""
    by_word = {
        name.strip("-"): name
        for param in params
        for name in (*param.opts, *param.secondary_opts)
        if name.startswith("--") and _is_suggested(param)
    }
    near = difflib.get_close_matches(asked.strip("-"), by_word, cutoff=SUGGESTION_CUTOFF)
    return [by_word[word] for word in near]


def _is_suggested(param: Any) -> bool:
    if param.name.startswith(REFUSED_PREFIX):
        return False
    setting = param.name.partition("__")[0]
    if setting in ServeSettings.model_fields:
        return not flag_of(setting).hidden
    return not getattr(param, "hidden", False)


def _keyword(name: str, annotation: Any) -> inspect.Parameter:
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation
    )
