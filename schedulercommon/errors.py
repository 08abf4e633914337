"""Every fault VMStack raises, as one tree.

::

    VmStackError
    ├── UsageError            the command line or a setting is wrong        exit 2
    │   └── ConfigError       a setting, from the environment or ``.env``
    ├── InputError            a file given to us cannot be used             exit 1
    │   ├── TopologyError     a topology description
    │   └── TraceError        a monitoring trace
    ├── OutputError           a result cannot be written                    exit 1
    ├── UnknownVm             no VM of that name here
    └── NameTaken             another VM has that name

Each message is one sentence saying what is wrong, where, and how to mend it. A refusal for
want of room is no fault: it is a :class:`schedulercommon.model.Rejection`, a value.
"""

from __future__ import annotations


class VmStackError(Exception):
    """Base of all faults; ``str()`` of it is the sentence for the user."""


class UsageError(VmStackError):
    """The command was called wrongly; exit code 2."""


class ConfigError(UsageError):
    """A setting has an impossible value."""


class InputError(VmStackError):
    """A file handed to us cannot be used; exit code 1."""


class TopologyError(InputError):
    """A topology description is incomplete or contradicts itself."""


class TraceError(InputError):
    """A monitoring trace breaks its format; names the line."""


class OutputError(VmStackError):
    """A result cannot be written; exit code 1."""


class UnknownVm(VmStackError):
    """No VM of that name is known here."""

    def __init__(self, name: str) -> None:
        super().__init__(f"there is no VM named {name!r} here; /listvm shows those there are")
        self.name = name


class NameTaken(VmStackError):
    """Another VM already has that name."""

    def __init__(self, name: str) -> None:
        super().__init__(f"another VM is already named {name!r}; remove it or choose another name")
        self.name = name
