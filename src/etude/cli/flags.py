"""Preparation of command-line arguments for tyro, with answers to unknown flags.

Unknown flags fail in one message, which suggests the flags that were meant. Numbers may be written
as 1e5, 100_000 and 64,64.
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
from tyro.conf import OmitArgPrefixes

from etude.algorithms import algorithm_class
from etude.cli import nested
from etude.cli.aliases import (
    ABSENT,
    ALIASES,
    WORDS,
    Alias,
    algorithms_with,
    alias_names,
    aliases_for,
    applies_to,
    describe_aliases,
    normalize_name,
)
from etude.cli.console import fail
from etude.kinds import code_fields

HELP = {"-h", "--help"}
METAVARS = {int: "INT", float: "FLOAT", str: "STR", Path: "PATH"}  # of optional values
MAX_DIGITS = 18  # of a whole number with an exponent


class Token(NamedTuple):
    """A flag as typed, with the values that follow it."""

    text: str
    values: list[str]
    equals: bool  # whether it was written as --flag=value


class InvalidValue(Exception):
    """A value does not fit its flag."""


def parse(command: Any, prog: str, arguments: list[str]) -> Any:
    """Parse the arguments to an instance of `command`; unknown flags fail in one message."""
    if not is_passthrough(arguments):
        arguments = prepare(arguments, type_hints_of(command), f"`{prog} --help` lists the flags")
        if missing := missing_arguments(command, arguments):
            fail(f"{prog} needs {' and '.join(missing)}; `{prog} --help` says more")
    return tyro.cli(with_alias_help(command, aliases_for(None)), prog=prog, args=arguments)


def missing_arguments(command: Any, arguments: list[str]) -> list[str]:
    """Return what `command` requires and the prepared arguments lack, as a person types it."""
    num_words = len(list(itertools.takewhile(lambda word: not is_flag(word), arguments)))
    hints = type_hints_of(command)
    words = [name for name, hint in hints.items() if is_positional(hint)]
    required = required_fields(command)
    return [name.upper() for name in words[num_words:] if name in required] + [
        flag_name(name) for name in required if name not in words and not is_typed(arguments, name)
    ]


def required_fields(cls: Any) -> list[str]:
    """The names of the fields of a dataclass that have no default."""
    return [
        field.name
        for field in dataclasses.fields(cls)
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    ]


def parse_train(
    run: Any, algorithm: Any, name: str, prog: str, arguments: list[str], description: str
) -> tuple[Any, Any]:
    """Parse the options of a run and an algorithm, whose defaults are `run` and `algorithm`."""
    algorithm = choose_kinds(algorithm, arguments)
    prepared = prepare_train(arguments, type(run), algorithm, name)
    return parse_structs({"run": run, "algorithm": algorithm}, prog, prepared, description)


def parse_settings(
    command: Any, settings: Any, prog: str, arguments: list[str], description: str
) -> tuple[Any, Any]:
    """Parse the options of a command and of a struct of settings, which are the defaults.

    A nested struct of the settings is chosen by its flag, as those of an algorithm are.
    """
    settings = choose_kinds(settings, arguments)
    if HELP & set(arguments):
        arguments = ["--help"]
    elif not is_passthrough(arguments):
        hints = type_hints_of(type(command)) | nested.known_flag_types(settings)
        arguments = prepare(arguments, hints, f"`{prog} --help` lists the flags", settings)
        if missing := missing_arguments(type(command), arguments):
            fail(f"{prog} needs {' and '.join(missing)}; `{prog} --help` says more")
    structs = {type(command).__name__.lower(): command, "settings": settings}
    return parse_structs(structs, prog, arguments, description)


def parse_structs(
    defaults_by_group: dict[str, Any], prog: str, prepared: list[str], description: str
) -> tuple[Any, Any]:
    """Parse prepared arguments to two structs, of which the second may nest others.

    `defaults_by_group` are both with their defaults, by their names in the help, which shows the
    aliases of the fields. A nested struct has a group of its own in it.
    """
    (run_group, run), (group, algorithm) = defaults_by_group.items()
    rows = aliases_for(type(algorithm))
    structs = nested.structs_of(algorithm)
    groups = {path: path.replace(".", "__") or group for path in structs}
    help_run = with_alias_help(type(run), rows)
    fields: list[tuple[str, Any]] = [(run_group, Annotated[help_run, OmitArgPrefixes])]
    defaults = {run_group: convert(run, help_run)}
    for path, struct in structs.items():
        help_struct = with_alias_help(type(struct), rows, path)
        prefix: Any = tyro.conf.arg(name=path) if path else OmitArgPrefixes
        fields.append((groups[path], Annotated[help_struct, prefix]))
        defaults[groups[path]] = convert(struct, help_struct)
    command: Any = dataclasses.make_dataclass("Command", fields)
    command.__doc__ = description
    parsed = tyro.cli(command, prog=prog, args=prepared, default=command(**defaults))
    values = {path: getattr(parsed, groups[path]) for path in structs}
    parsed_run = getattr(parsed, run_group)
    return convert(parsed_run, type(run)), nested.rebuild(algorithm, values)


def choose_kinds(algorithm: Any, arguments: list[str]) -> Any:
    """Return the algorithm with the kinds of nested structs that the arguments name."""
    while True:
        known_flags = nested.known_flag_types(algorithm)
        choices = {}
        for token in tokens(arguments):
            field, negated = match_field(token.text, known_flags)
            if field is not None:
                is_off = bool(token.values) and token.values[0].lower() == "false"
                is_switch = known_flags[field] is bool
                text = token.values[0] if token.values else ""
                choices[field] = (negated == is_off) if is_switch else text
        chosen = nested.choose(algorithm, choices)
        if chosen == algorithm:
            return algorithm
        algorithm = chosen


def prepare_train(arguments: list[str], run: Any, algorithm: Any, name: str) -> list[str]:
    """Prepare the arguments of `etude train` for tyro; unknown flags fail in one message."""
    if HELP & set(arguments):
        return ["--help"]  # alone, so that the usage line shows the positional arguments too
    if is_passthrough(arguments):
        return arguments
    hints = type_hints_of(run) | nested.known_flag_types(algorithm)
    help_hint = f"`etude train {name} ENVIRONMENT --help` lists every flag"
    return prepare(arguments, hints, help_hint, algorithm, name)


def is_typed(arguments: list[str], field: str) -> bool:
    """Whether the arguments have the flag of a field."""
    return any(normalize_name(token.text) == field for token in tokens(arguments))


def check_train_words(arguments: list[str], run: Any) -> None:
    """Fail at flags for the positional arguments of `etude train`, if no word is an algorithm."""
    hints = type_hints_of(run)
    known_flags = {field: kind for field, kind in hints.items() if not is_positional(kind)}
    messages = [
        explain_unknown(token, known_flags, None, "ALGORITHM")
        for token in tokens(arguments)
        if any(
            row.field in WORDS and normalize_name(token.text) in (*alias_names(row), row.field)
            for row in aliases_for(None)
        )
    ]
    if messages:
        fail(
            join_sentences(
                [*messages, "`etude train ALGORITHM ENVIRONMENT --help` lists every flag"]
            )
        )


def is_passthrough(arguments: list[str]) -> bool:
    """Return whether the arguments ask for help or for the shell completion of tyro."""
    return bool(HELP & set(arguments)) or any(text.startswith("--tyro-") for text in arguments)


def prepare(
    arguments: list[str],
    hints: dict[str, Any],
    help_hint: str,
    algorithm: Any = None,
    name: str | None = None,
) -> list[str]:
    """Prepare arguments for tyro: positional ones, then flags, with numbers in plain digits.

    `hints` has the type of every field. Unknown flags fail with suggestions, and otherwise values
    that do not fit their flags.
    """
    known_flags = {field: kind for field, kind in hints.items() if not is_positional(kind)}
    words: list[str] = []
    flags: list[str] = []
    unknown: list[str] = []
    invalid: list[str] = []
    for token in tokens(arguments):
        field, negated = match_field(token.text, known_flags)
        if not is_flag(token.text):
            words.append(token.text)
        elif field is None:
            unknown.append(explain_unknown(token, known_flags, algorithm, name))
        else:
            try:
                flag, flag_values, num_used = read_flag(token, field, negated, known_flags[field])
            except InvalidValue as error:
                invalid.append(str(error))
            else:
                flags += [flag, *flag_values]
                words += token.values[num_used:]
    if unknown:
        fail(join_sentences([*unknown, help_hint]))
    if invalid:
        fail(join_sentences(invalid))
    if extra := words[len(hints) - len(known_flags) :]:
        fail(f"{extra[0]!r} belongs to no flag; {help_hint}")
    return [*words, *flags]


def join_sentences(parts: list[str]) -> str:
    """Join sentences to one line."""
    return "".join(part + (" " if part.endswith("?") else "; ") for part in parts).rstrip("; ")


def tokens(arguments: list[str]) -> Iterator[Token]:
    """Yield each flag with the words up to the next flag; words before the first flag alone."""
    i = 0
    while i < len(arguments):
        text, i = arguments[i], i + 1
        if not is_flag(text):
            yield Token(text, [], False)
            continue
        name, equals, first_value = text.partition("=")
        values = [first_value] if equals else []
        start = i
        while i < len(arguments) and not is_flag(arguments[i]):
            i += 1
        yield Token(name, values + arguments[start:i], bool(equals))


def is_flag(text: str) -> bool:
    """Return whether the text is a flag; a negative number is not."""
    return (
        len(text) > 1
        and text.startswith("-")
        and number(text) is None
        and text.lower() not in ("-inf", "-nan")
    )


def number(text: str) -> Decimal | None:
    """Parse a number; None if the text is no number."""
    try:
        return Decimal(text)
    except InvalidOperation:
        return None


def type_hints_of(command: Any) -> dict[str, Any]:
    """Return the annotated type of each field."""
    hints = get_type_hints(command, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(command)}


def is_positional(hint: Any) -> bool:
    """Return whether a field with this type is a positional argument."""
    return tyro.conf.Positional in getattr(hint, "__metadata__", ())


def unwrap_type(hint: Any) -> Any:
    """Remove annotations and `| None` from a type."""
    if get_origin(hint) is Annotated:
        return unwrap_type(get_args(hint)[0])
    if get_origin(hint) in (Union, types.UnionType):
        return unwrap_type(next(kind for kind in get_args(hint) if kind is not type(None)))
    return hint


def match_field(text: str, known_flags: dict[str, Any]) -> tuple[str | None, bool]:
    """Return the field of a flag, None if unknown, and whether the flag is negated."""
    name = normalize_name(text)
    if not text.startswith("--"):
        return None, False
    if name in known_flags:
        return name, False
    positive = without_negation(name)
    if positive != name and unwrap_type(known_flags.get(positive)) is bool:
        return positive, True
    return None, False


def read_flag(token: Token, field: str, negated: bool, hint: Any) -> tuple[str, list[str], int]:
    """Return a known flag for tyro, its values, and the number of the token's values used."""
    kind, flag = unwrap_type(hint), flag_name(field)
    if kind is bool:
        lowercase = token.values[0].lower() if token.values else ""
        if lowercase not in ("true", "false"):
            if token.equals:
                raise InvalidValue(
                    f"{flag} is {token.values[0]!r}; write {flag} or {flag_name(negation(field))}"
                )
            return (flag_name(negation(field)) if negated else flag), [], 0
        return (flag if (lowercase == "true") is not negated else flag_name(negation(field))), [], 1
    if not token.values and get_origin(kind) is not tuple:
        raise InvalidValue(f"{flag} needs a value: {flag} {placeholder(kind)}")
    if get_origin(kind) is tuple:
        element_type, flag_values, num_used = get_args(kind)[0], [], 0
        for text in token.values:
            pieces = [piece.strip() for piece in text.strip("()[] ").split(",") if piece.strip()]
            is_word = any(number(piece) is None for piece in pieces)
            if num_used and is_word and element_type is not str:
                break  # a positional argument, after numbers
            flag_values += [parse_value(flag, piece, element_type) for piece in pieces]
            num_used += 1
        return flag, flag_values, num_used
    return flag, [parse_value(flag, token.values[0], kind)], 1


def parse_value(flag: str, text: str, kind: Any) -> str:
    """Return a value as tyro reads it; raises InvalidValue when it is not of type `kind`."""
    if get_origin(kind) is Literal:
        if text not in get_args(kind):
            raise InvalidValue(f"{flag} is {text!r}; choose one of {', '.join(get_args(kind))}")
    elif kind is float:
        if number(text) is None:
            raise InvalidValue(f"{flag} is {text!r}; it must be a number")
    elif kind is int:
        parsed = number(text)
        if (
            parsed is None
            or not parsed.is_finite()
            or parsed.adjusted() > MAX_DIGITS
            or parsed != parsed.to_integral_value()
        ):
            raise InvalidValue(f"{flag} is {text!r}; it must be a whole number")
        return str(int(parsed))
    return text


def placeholder(kind: Any) -> str:
    """Return the example of a value of type `kind` in an error message."""
    if get_origin(kind) is Literal:
        return "|".join(get_args(kind))
    if get_origin(kind) is tuple:
        return "NUMBER,NUMBER"
    return {int: "NUMBER", float: "NUMBER", Path: "PATH"}.get(kind, "VALUE")


def flag_name(field: str) -> str:
    """Return the flag of a field."""
    return "--" + field.replace("_", "-")


def negation(field: str) -> str:
    """Return the name of a switch that is off: no_double, and agent.no_double with a path."""
    path, dot, name = field.rpartition(".")
    return f"{path}{dot}no_{name}"


def without_negation(field: str) -> str:
    """Return the name of a switch from that of the switch that is off, any other as it is."""
    path, dot, name = field.rpartition(".")
    return path + dot + name.removeprefix("no_")


def explain_unknown(
    token: Token, known_flags: dict[str, Any], algorithm: Any, name: str | None
) -> str:
    """Explain an unknown flag: its name here, or the flags most similar to it."""
    typed = normalize_name(token.text)
    cls = None if algorithm is None else type(algorithm)
    unchosen = {} if algorithm is None else nested.unchosen_flags(algorithm)
    every_flag = known_flags | {flag: kind_flag.type for flag, kind_flag in unchosen.items()}
    if typed in unchosen:
        return f"{token.text} needs {unchosen[typed]}"
    rows = [row for row in aliases_for(cls) if name or row.field in known_flags]
    # the name of a nested field without its path
    rows += [Alias(flag, others=flag.rpartition(".")[2]) for flag in every_flag if "." in flag]
    for candidate in (typed, without_negation(typed)):
        for row in rows:
            if candidate in alias_names(row) or candidate == row.field:
                answer = explain_alias(token, row, candidate != typed, every_flag, name)
                need = f", with {unchosen[row.field]}" if row.field in unchosen else ""
                return answer + need
    if name and typed in ABSENT:
        return f"{token.text} has no counterpart: {ABSENT[typed]}"
    if name and cls and (explanation := explain_missing(token, typed, cls, name)):
        return explanation
    fields = {other: row.field for row in rows for other in alias_names(row)}
    fields |= {field: field for field in every_flag}
    close_matches = difflib.get_close_matches(typed, [*fields], n=2, cutoff=0.6)
    suggestions = dict.fromkeys(
        flag_name(flag) + (f" (with {unchosen[flag]})" if flag in unchosen else "")
        for flag in (fields[match] for match in close_matches)
        if flag in every_flag
    )
    hint = f", did you mean {' or '.join(suggestions)}?" if suggestions else ""
    return f"no flag is called {token.text}{hint}"


def explain_alias(
    token: Token, row: Alias, negated: bool, known_flags: dict[str, Any], name: str | None
) -> str:
    """Say which flag an alias is here, with the typed value where it needs no conversion."""
    if row.field not in known_flags:
        word = token.values[0] if token.values else row.field.upper()
        position, example = (
            ("first", f"{word} ENVIRONMENT")
            if row.field == "algorithm"
            else ("second", f"{name} {word}")
        )
        return (
            f"{token.text} is no flag here: the {row.field} is the {position} word, "
            f"as in `etude train {example}`"
        )
    kind, own_flag, own_value = unwrap_type(known_flags[row.field]), flag_name(row.field), ""
    typed_values = token.values[:1]
    if kind is bool:
        typed_values = (
            typed_values if typed_values and typed_values[0].lower() in ("true", "false") else []
        )
        if negated != (bool(typed_values) and typed_values[0].lower() == "false"):
            own_flag = flag_name(negation(row.field))
    else:
        if get_origin(kind) is tuple:
            typed_values += itertools.takewhile(
                lambda text: number(text) is not None, token.values[1:]
            )
        own_value = " ".join(typed_values) if not row.conversion else ""
    separator = "=" if token.equals else " "
    typed_flag, own_flag = (
        flag + (separator + text if text else "")
        for flag, text in ((token.text, " ".join(typed_values)), (own_flag, own_value))
    )
    return f"{typed_flag} is {own_flag} here" + (f" ({row.conversion})" if row.conversion else "")


def explain_missing(token: Token, typed: str, cls: Any, name: str) -> str:
    """Say that other algorithms have a hyperparameter that this one lacks; empty if none has."""
    for row in ALIASES:
        if typed in alias_names(row) and not applies_to(row, cls):
            algorithms = [
                other
                for other in algorithms_with(row.field)
                if applies_to(row, algorithm_class(other))
            ]
            return (
                f"{name} has no {row.field}, as {token.text} is called in {join_names(algorithms)}"
            )
    if algorithms := algorithms_with(typed):
        return f"{name} has no {typed}, a hyperparameter of {join_names(algorithms)}"
    return ""


def join_names(names: list[str], limit: int = 4) -> str:
    """Join names as in a sentence, with "others" for those beyond the limit."""
    names = names if len(names) <= limit else [*names[: limit - 1], "others"]
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def with_alias_help(cls: Any, rows: list[Alias], path: str = "") -> Any:
    """Return a subclass of a dataclass whose help shows the aliases of its fields.

    It has the name and module of the dataclass, where tyro looks for the help of its fields. A
    nested struct is in it by the tag of its kind. `path` is that of the struct.
    """
    annotations: dict[str, Any] = dict.fromkeys(
        code_fields(cls), Annotated[Any, tyro.conf.Fixed, tyro.conf.Suppress]
    )
    for field, hint in nested.flag_types(cls).items():
        aliased = nested.join_path(path, field)
        names = describe_aliases(aliased, rows) if not is_positional(hint) else ""
        suffix = functools.partial(help_suffix, names=names) if names else None
        metavar = METAVARS.get(unwrap_type(hint)) if type(None) in get_args(hint) else None
        annotation = tyro.conf.arg(help_behavior_hint=suffix, metavar=metavar)
        annotations[field] = Annotated[hint, annotation] if names or metavar else hint
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


def help_suffix(default: str, names: str) -> str:
    """Return the end of the help of a field: its default and its aliases."""
    return f"(default: {default}; {names})" if default else f"({names})"


def convert(instance: Any, cls: Any) -> Any:
    """Convert a dataclass instance to another class with the same fields.

    A nested struct becomes the tag of its kind.
    """
    kinds = nested.nested_fields(type(instance))
    values = {field.name: getattr(instance, field.name) for field in dataclasses.fields(instance)}
    return cls(**values | {name: nested.chosen(values[name], kinds[name]) for name in kinds})
