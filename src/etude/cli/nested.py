"""Nested hyperparameters on the command line: `--replay prioritized --replay.alpha 0.6`.

The kinds are chosen first, wherever their flags stand. What is left is an algorithm whose nested
structs are known, so that each of their fields is a flag with the path of the field as its name.
"""

import dataclasses
import types
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple, get_type_hints

from etude.kinds import code_fields, is_switch, kinds_of


class KindFlag(NamedTuple):
    """The flag of kinds that are not chosen, and the choice that it needs."""

    type: Any
    choice: str  # the path of the nested field
    tags: list[str]  # of the kinds that have the flag

    def __str__(self) -> str:
        flag = "--" + self.choice.replace("_", "-")
        return " ".join([flag, " or ".join(self.tags)] if self.tags else [flag])


def nested_fields(cls: Any) -> dict[str, dict[str, Any]]:
    """The kinds by tag of each nested field of a struct's class."""
    hints = get_type_hints(cls)
    fields = {field.name: kinds_of(hints[field.name]) for field in dataclasses.fields(cls)}
    return {name: kinds for name, kinds in fields.items() if kinds}


def choice_type(kinds: dict[str, Any]) -> Any:
    """The type of the flag that chooses a kind: a switch for one kind or None, else the tags."""
    return bool if is_switch(kinds) else Literal[tuple(kinds)]


def chosen(value: Any, kinds: dict[str, Any]) -> Any:
    """The value of the flag that chooses the kind of `value`."""
    if is_switch(kinds):
        return value is not None
    return next(tag for tag, kind in kinds.items() if isinstance(value, kind))


def default_of(choice: Any, kinds: dict[str, Any]) -> Any:
    """The value with the defaults of a kind; `choice` is that of its flag."""
    if is_switch(kinds):
        choice = next(tag for tag in kinds if (tag != "none") is choice)
    return None if kinds[choice] is types.NoneType else kinds[choice]()


def structs_of(settings: Any, path: str = "") -> dict[str, Any]:
    """The struct `settings` and those nested in it, by their paths; the path of the first is ""."""
    structs = {path: settings}
    for name in nested_fields(type(settings)):
        if (value := getattr(settings, name)) is not None:
            structs |= structs_of(value, join_path(path, name))
    return structs


def join_path(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def flag_types(cls: Any, path: str = "") -> dict[str, Any]:
    """The type of the flag of each field of a struct's class, by the field's path.

    Fields that hold code have none.
    """
    hints, nested = get_type_hints(cls, include_extras=True), nested_fields(cls)
    return {
        join_path(path, field.name): choice_type(nested[field.name])
        if field.name in nested
        else hints[field.name]
        for field in dataclasses.fields(cls)
        if field.name not in code_fields(cls)
    }


def known_flag_types(settings: Any) -> dict[str, Any]:
    """The type of the flag of each field of a struct and of those nested in it, by path."""
    flags: dict[str, Any] = {}
    for path, value in structs_of(settings).items():
        flags |= flag_types(type(value), path)
    return flags


def unchosen_flags(settings: Any) -> dict[str, KindFlag]:
    """The flags, by path, that only kinds have that are not chosen."""
    flags: dict[str, KindFlag] = {}
    known = known_flag_types(settings)
    for path, value in structs_of(settings).items():
        for name, kinds in nested_fields(type(value)).items():
            choice = join_path(path, name)
            for tag, kind in kinds.items():
                options = {} if kind is types.NoneType else flag_types(kind, choice)
                for flag in set(options) - set(known):
                    tags = flags.setdefault(flag, KindFlag(options[flag], choice, [])).tags
                    if not is_switch(kinds):
                        tags.append(tag)
    return flags


def all_flags(cls: Any, path: str = "") -> Iterator[str]:
    """The paths of all fields of a struct's class, of every kind that it may nest."""
    yield from flag_types(cls, path)
    for name, kinds in nested_fields(cls).items():
        for kind in kinds.values():
            if kind is not types.NoneType:
                yield from all_flags(kind, join_path(path, name))


def choose(settings: Any, choices: dict[str, Any], path: str = "") -> Any:
    """The struct with other kinds in its nested fields.

    `choices` are values of flags that choose a kind, by path; those that no kind has are ignored. A
    field that has the chosen kind already keeps its value.
    """
    changes = {}
    for name, kinds in nested_fields(type(settings)).items():
        value, field_path = getattr(settings, name), join_path(path, name)
        choice = choices.get(field_path, chosen(value, kinds))
        if choice != chosen(value, kinds) and choice in (True, False, *kinds):
            value = default_of(choice, kinds)
        changes[name] = value if value is None else choose(value, choices, field_path)
    return dataclasses.replace(settings, **changes)


def rebuild(settings: Any, values: dict[str, Any], path: str = "") -> Any:
    """The struct with the plain fields of `values`, which are objects by the path of a struct."""
    nested = nested_fields(type(settings))
    fields = {}
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if field.name not in nested:
            value = getattr(values[path], field.name)
        elif value is not None:
            value = rebuild(value, values, join_path(path, field.name))
        fields[field.name] = value
    return type(settings)(**fields)
