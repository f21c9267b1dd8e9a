"""docs/cli.md says of every command what that command really takes."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from functools import cache
from importlib import import_module
from typing import Any, NamedTuple

import pytest

from okno.cli.app import load_command
from okno.cli.docs import page
from okno.config.load import env_name
from okno.config.settings import ServeSettings

SETTING_OF = {env_name(name): name for name in ServeSettings.model_fields}


class Row(NamedTuple):
    """An option as the page shows it. command: its words, such as `config set`."""

    command: str
    names: frozenset[str]
    variable: str


class Loading(Exception):
    """Stands for everything after a command has asked for its settings."""


def rows() -> list[Row]:
    """Every row of options, the arguments left out."""
    found, command = [], ""
    for line in page().partition("## Names of other programs")[0].splitlines():
        if heading := re.match(r"#+ `okno ([a-z -]+?) \[", line):
            command = heading[1]
        elif line.startswith("| `"):
            cells = re.split(r"(?<!\\)\|", line)[1:-1]
            names = frozenset(re.findall(r"(?<![\w-])--?[A-Za-z][\w-]*", cells[0]))
            found += [Row(command, names, cells[-1].strip(" `"))] if names else []
    return found


@cache
def command_of(words: str) -> Any:
    first, *rest = words.split()
    command = load_command(first)
    for word in rest:
        command = command.commands[word]
    return command


def test_every_command_is_shown_with_the_names_of_its_own_options():
    told: dict[str, set[frozenset[str]]] = defaultdict(set)
    for row in rows():
        told[row.command].add(row.names)
    assert {"serve", "plan", "config set", "bench plan-accuracy"} <= told.keys()
    for words, names in told.items():
        assert names == {
            frozenset((*param.opts, *param.secondary_opts))
            for param in command_of(words).params
            if param.param_type_name == "option" and not param.hidden
        }, words


def test_a_variable_is_named_only_where_the_option_is_that_setting(monkeypatch):
    """What the flag gives goes to `load`, which reads the variable below it."""

    def load(given, environment):
        assert environment is os.environ
        raise Loading(*(name for name, _ in given))

    for row in rows():
        if not row.variable:
            continue
        module = import_module(f"okno.cli.{row.command.split()[0]}")
        assert hasattr(module, "load"), f"{row.command} reads no {row.variable}"
        monkeypatch.setattr(module, "load", load)
        setting = SETTING_OF[row.variable]
        is_switch = ServeSettings.model_fields[setting].annotation is bool
        command = command_of(row.command)
        wanted = ["x" for param in command.params if param.param_type_name == "argument"]
        for name in row.names:
            args = [*wanted, name] if is_switch else [*wanted, name, "1"]
            with pytest.raises(Loading) as asked:
                command.main(args, standalone_mode=False)
            assert asked.value.args == (setting,), f"{row.command} {name}"
