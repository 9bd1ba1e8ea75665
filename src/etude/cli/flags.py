"""What is read of the command line before tyro reads it.

Flags that do not exist are answered in one message with those that were meant, and numbers are
taken as people write them: 1e5, 100_000 and 64,64.
"""

import dataclasses
import difflib
import functools
import itertools
import types
from collections.abc import Iterator
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

import tyro

from etude.algorithms import algorithm_class
from etude.cli.aliases import (
    ABSENT,
    ALIASES,
    WORDS,
    Alias,
    algorithms_with,
    describe_aliases,
    applies_to,
    alias_names,
    normalize_name,
    aliases_for,
)
from etude.cli.console import fail

HELP = {"-h", "--help"}
METAVARS = {int: "INT", float: "FLOAT", str: "STR"}  # of what may also be left out
MAX_DIGITS = 18  # of a whole number that is written with an exponent


class Token(NamedTuple):
    """A flag as it was typed, with the values that may belong to it."""

    text: str
    values: list[str]
    equals: bool  # --flag=value


class InvalidValue(Exception):
    """A value that its flag cannot take."""


def parse(command: Any, prog: str, arguments: list[str]) -> Any:
    """The arguments as an instance of a command's class; fails in one message at unknown flags."""
    if not left_alone(arguments):
        arguments = prepared(arguments, hints_of(command), f"`{prog} --help` lists the flags")
        needed = [
            field.name
            for field in dataclasses.fields(command)
            if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        ]
        if len(list(itertools.takewhile(lambda word: not is_flag(word), arguments))) < len(needed):
            fail(f"{prog} needs {' and '.join(map(str.upper, needed))}; `{prog} --help` says more")
    return tyro.cli(shown(command, aliases_for(None)), prog=prog, args=arguments)


def parse_train(
    run: Any,
    cls: Any,
    name: str,
    prog: str,
    arguments: list[str],
    default: tuple[Any, Any],
    description: str,
) -> tuple[Any, Any]:
    """The run's options and the algorithm of class `cls`, with the names elsewhere in the help."""
    rows = aliases_for(cls)
    shown_run, shown_algorithm = shown(run, rows), shown(cls, rows)
    command: Any = dataclasses.make_dataclass(
        "Command", [("run", shown_run), ("algorithm", shown_algorithm)]
    )
    command.__doc__ = description
    asked = tyro.cli(
        command,
        prog=prog,
        args=prepared_train(arguments, run, cls, name),
        default=command(converted(default[0], shown_run), converted(default[1], shown_algorithm)),
        config=(tyro.conf.OmitArgPrefixes, tyro.conf.OmitSubcommandPrefixes),
    )
    return converted(asked.run, run), converted(asked.algorithm, cls)


def prepared_train(arguments: list[str], run: Any, cls: Any, name: str) -> list[str]:
    """The arguments of `etude train` as tyro reads them; fails in one message at unknown flags."""
    if HELP & set(arguments):
        return ["--help"]  # alone, so that the usage has the words that were given too
    if left_alone(arguments):
        return arguments
    hints = hints_of(run) | hints_of(cls)
    return prepared(
        arguments, hints, f"`etude train {name} ENVIRONMENT --help` lists every flag", cls, name
    )


def words_of_train(arguments: list[str], run: Any) -> None:
    """Fails at flags that stand for the words of `etude train`, when no word is an algorithm."""
    hints = hints_of(run)
    known = {field: kind for field, kind in hints.items() if not positional(kind)}
    found = [
        answer(token, known, None, "ALGORITHM")
        for token in tokens(arguments)
        if any(
            row.field in WORDS and normalize_name(token.text) in (*alias_names(row), row.field)
            for row in aliases_for(None)
        )
    ]
    if found:
        fail(joined([*found, "`etude train ALGORITHM ENVIRONMENT --help` lists every flag"]))


def left_alone(arguments: list[str]) -> bool:
    """Whether the arguments ask for help, or for what tyro writes for a shell."""
    return bool(HELP & set(arguments)) or any(text.startswith("--tyro-") for text in arguments)


def prepared(
    arguments: list[str],
    hints: dict[str, Any],
    where: str,
    cls: Any = None,
    name: str | None = None,
) -> list[str]:
    """The arguments as tyro reads them: the words, then the flags, with numbers in digits.

    `hints` has the type of every field. Fails at flags that are unknown, with what they are called
    here, and else at values that their flags cannot take.
    """
    known = {field: kind for field, kind in hints.items() if not positional(kind)}
    words: list[str] = []
    ready: list[str] = []
    unknown: list[str] = []
    invalid: list[str] = []
    for token in tokens(arguments):
        field, negated = field_of(token.text, known)
        if not is_flag(token.text):
            words.append(token.text)
        elif field is None:
            unknown.append(answer(token, known, cls, name))
        else:
            try:
                flag, taken, used = read(token, field, negated, known[field])
            except InvalidValue as error:
                invalid.append(str(error))
            else:
                ready += [flag, *taken]
                words += token.values[used:]
    if unknown:
        fail(joined([*unknown, where]))
    if invalid:
        fail(joined(invalid))
    if extra := words[len(hints) - len(known) :]:
        fail(f"{extra[0]!r} belongs to no flag; {where}")
    return [*words, *ready]


def joined(parts: list[str]) -> str:
    """Sentences in one line."""
    return "".join(part + (" " if part.endswith("?") else "; ") for part in parts).rstrip("; ")


def tokens(arguments: list[str]) -> Iterator[Token]:
    """Each flag with the words up to the next one; words before the first flag come alone."""
    i = 0
    while i < len(arguments):
        text, i = arguments[i], i + 1
        if not is_flag(text):
            yield Token(text, [], False)
            continue
        name, equals, value = text.partition("=")
        values = [value] if equals else []
        start = i
        while i < len(arguments) and not is_flag(arguments[i]):
            i += 1
        yield Token(name, values + arguments[start:i], bool(equals))


def is_flag(text: str) -> bool:
    """A negative number is none."""
    return (
        len(text) > 1
        and text.startswith("-")
        and number(text) is None
        and text.lower() not in ("-inf", "-nan")
    )


def number(text: str) -> Decimal | None:
    try:
        return Decimal(text)
    except InvalidOperation:
        return None


def hints_of(command: Any) -> dict[str, Any]:
    """The type of each field, as it was written."""
    hints = get_type_hints(command, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(command)}


def positional(hint: Any) -> bool:
    return tyro.conf.Positional in getattr(hint, "__metadata__", ())


def plain(hint: Any) -> Any:
    """A type without what is noted beside it, and of an optional one the other."""
    if get_origin(hint) is Annotated:
        return plain(get_args(hint)[0])
    if get_origin(hint) in (Union, types.UnionType):
        return plain(next(kind for kind in get_args(hint) if kind is not type(None)))
    return hint


def field_of(text: str, known: dict[str, Any]) -> tuple[str | None, bool]:
    """The field of a flag, and whether the flag turns it off."""
    name = normalize_name(text)
    if not text.startswith("--"):
        return None, False
    if name in known:
        return name, False
    if name.startswith("no_") and plain(known.get(name[3:])) is bool:
        return name[3:], True
    return None, False


def read(token: Token, field: str, negated: bool, hint: Any) -> tuple[str, list[str], int]:
    """A known flag as tyro reads it, its values, and how many of the token's values they were."""
    kind, flag = plain(hint), dashed(field)
    if kind is bool:
        said = token.values[0].lower() if token.values else ""
        if said not in ("true", "false"):
            if token.equals:
                raise InvalidValue(
                    f"{flag} is {token.values[0]!r}; write {flag} or {dashed('no_' + field)}"
                )
            return (dashed("no_" + field) if negated else flag), [], 0
        return (flag if (said == "true") is not negated else dashed("no_" + field)), [], 1
    if not token.values and get_origin(kind) is not tuple:
        raise InvalidValue(f"{flag} needs a value: {flag} {placeholder(kind)}")
    if get_origin(kind) is tuple:
        inner, taken, used = get_args(kind)[0], [], 0
        for text in token.values:
            pieces = [piece.strip() for piece in text.strip("()[] ").split(",") if piece.strip()]
            if used and any(number(piece) is None for piece in pieces):
                break
            taken += [value(flag, piece, inner) for piece in pieces]
            used += 1
        return flag, taken, used
    return flag, [value(flag, token.values[0], kind)], 1


def value(flag: str, text: str, kind: Any) -> str:
    """One value as tyro reads it; raises InvalidValue when it is not of the kind."""
    if get_origin(kind) is Literal:
        if text not in get_args(kind):
            raise InvalidValue(f"{flag} is {text!r}; choose one of {', '.join(get_args(kind))}")
    elif kind is float:
        if number(text) is None:
            raise InvalidValue(f"{flag} is {text!r}; it must be a number")
    elif kind is int:
        found = number(text)
        if (
            found is None
            or not found.is_finite()
            or found.adjusted() > MAX_DIGITS
            or found != found.to_integral_value()
        ):
            raise InvalidValue(f"{flag} is {text!r}; it must be a whole number")
        return str(int(found))
    return text


def placeholder(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return "|".join(get_args(kind))
    if get_origin(kind) is tuple:
        return "NUMBER,NUMBER"
    return {int: "NUMBER", float: "NUMBER", Path: "PATH"}.get(kind, "VALUE")


def dashed(field: str) -> str:
    return "--" + field.replace("_", "-")


def answer(token: Token, known: dict[str, Any], cls: Any, name: str | None) -> str:
    """What an unknown flag is called here, or which flags are nearest to it."""
    said = normalize_name(token.text)
    rows = [row for row in aliases_for(cls) if name or row.field in known]
    for asked in (said, said.removeprefix("no_")):
        for row in rows:
            if asked in alias_names(row) or asked == row.field:
                return meant(token, row, asked != said, known, name)
    if name and said in ABSENT:
        return f"{token.text} has no counterpart: {ABSENT[said]}"
    if name and cls and (absent := missing(token, said, cls, name)):
        return absent
    fields = {other: row.field for row in rows for other in alias_names(row)}
    fields |= {field: field for field in known}
    near = difflib.get_close_matches(said, [*fields], n=2, cutoff=0.6)
    meanings = dict.fromkeys(dashed(fields[one]) for one in near if fields[one] in known)
    hint = f", did you mean {' or '.join(meanings)}?" if meanings else ""
    return f"no flag is called {token.text}{hint}"


def meant(token: Token, row: Alias, negated: bool, known: dict[str, Any], name: str | None) -> str:
    """That a flag is another one here, with the value that was given where it is the same here."""
    if row.field not in known:
        word = token.values[0] if token.values else row.field.upper()
        place, example = (
            ("first", f"{word} ENVIRONMENT")
            if row.field == "algorithm"
            else ("second", f"{name} {word}")
        )
        return (
            f"{token.text} is no flag here: the {row.field} is the {place} word, "
            f"as in `etude train {example}`"
        )
    kind, ours, carried = plain(known[row.field]), dashed(row.field), ""
    given = token.values[:1]
    if kind is bool:
        given = given if given and given[0].lower() in ("true", "false") else []
        if negated != (bool(given) and given[0].lower() == "false"):
            ours = dashed("no_" + row.field)
    else:
        if get_origin(kind) is tuple:
            given += itertools.takewhile(lambda text: number(text) is not None, token.values[1:])
        carried = " ".join(given) if not row.conversion else ""
    mark = "=" if token.equals else " "
    theirs, ours = (
        flag + (mark + text if text else "")
        for flag, text in ((token.text, " ".join(given)), (ours, carried))
    )
    return f"{theirs} is {ours} here" + (f" ({row.conversion})" if row.conversion else "")


def missing(token: Token, said: str, cls: Any, name: str) -> str:
    """That the algorithm has no such hyperparameter, where others have; empty when none does."""
    for row in ALIASES:
        if said in alias_names(row) and not applies_to(row, cls):
            having = [
                one for one in algorithms_with(row.field) if applies_to(row, algorithm_class(one))
            ]
            return f"{name} has no {row.field}, as {token.text} is called in {listed(having)}"
    if having := algorithms_with(said):
        return f"{name} has no {said}, a hyperparameter of {listed(having)}"
    return ""


def listed(names: list[str], most: int = 4) -> str:
    names = names if len(names) <= most else [*names[: most - 1], "others"]
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def shown(cls: Any, rows: list[Alias]) -> Any:
    """A dataclass like another, whose help has the names of a field elsewhere beside its default.

    It has the other's name and module, where tyro looks for the comments that are its fields' help.
    """
    annotations = {}
    for field, hint in hints_of(cls).items():
        names = describe_aliases(field, rows) if not positional(hint) else ""
        after = functools.partial(behavior, names=names) if names else None
        metavar = METAVARS.get(plain(hint)) if type(None) in get_args(hint) else None
        noted = tyro.conf.arg(help_behavior_hint=after, metavar=metavar)
        annotations[field] = Annotated[hint, noted] if names or metavar else hint
    return type(
        cls.__name__,
        (cls,),
        {
            "__module__": cls.__module__,
            "__qualname__": cls.__qualname__,
            "__doc__": cls.__doc__,
            "__annotations__": annotations,
        },
    )


def behavior(default: str, names: str) -> str:
    """What the help says after the sentence on a field."""
    return f"(default: {default}; {names})" if default else f"({names})"


def converted(instance: Any, cls: Any) -> Any:
    """An instance of another class with the same fields."""
    return cls(
        **{field.name: getattr(instance, field.name) for field in dataclasses.fields(instance)}
    )
