"""The words of a command line, checked before its grammar is: a word that is not known is named,
and the nearest one that is, whatever else is wrong."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from schedulerprocess.options import Options

_NUMBER = re.compile(r"-[0-9.]+")


class CommandOptions(Options):
    """Options that know each other's names."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        self.known: dict[str, argparse.Action] = {}
        super().__init__(*arguments, **settings)

    def add_argument(self, *arguments: Any, **settings: Any) -> argparse.Action:
        action = super().add_argument(*arguments, **settings)
        self.known |= dict.fromkeys(action.option_strings, action)
        return action


def check_words(
    options: CommandOptions, commands: Mapping[str, CommandOptions], words: Sequence[str]
) -> None:
    """Raises UsageError for the first command or option that is not known."""
    here = options
    rest = iter(words)
    for word in rest:
        if word == "--":
            return
        if _is_option(word):
            name, given, _ = word.partition("=")
            if name not in here.known:
                here.error(_no_option(name, here, options, commands))
            if name in ("-h", "--help"):
                return
            if not given and here.known[name].nargs != 0:
                next(rest, None)  # its value
        elif here is options:
            if word not in commands:
                options.error(f"there is no command {word[:40]!a}{_nearest(word, commands)}")
            here = commands[word]


def _is_option(word: str) -> bool:
    name = word.partition("=")[0]
    return len(name) > 1 and name[0] == "-" and " " not in name and not _NUMBER.fullmatch(name)


def _no_option(
    name: str,
    here: CommandOptions,
    options: CommandOptions,
    commands: Mapping[str, CommandOptions],
) -> str:
    shown = ascii(name[:40])[1:-1]
    if here is options and any(name in command.known for command in commands.values()):
        return f"{shown} is an option of a command; write it after the command"
    return f"there is no option {shown} here{_nearest(name, here.known)}"


def _nearest(word: str, known: Iterable[str]) -> str:
    found = get_close_matches(word[:40], known, n=1)
    return f"; the nearest is {found[0]}" if found else ""
