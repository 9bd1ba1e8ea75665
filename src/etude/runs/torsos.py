"""Networks of the user's own in a run: handed in by a person, and asked for again by their name."""

import dataclasses
from typing import Any

from etude.algorithms import ALGORITHMS, algorithm_class
from etude.errors import InvalidInput
from etude.importing import import_object, is_importable
from etude.kinds import code_fields, qualified_name
from etude.nn.custom_torso import TorsoMaker
from etude.storage.files import CorruptFile
from etude.struct import replace

TorsoLike = TorsoMaker | str


def has_torso(cls: Any) -> bool:
    """Whether the algorithms of a class have networks that a torso can stand in for."""
    return "torso" in code_fields(cls)


def torso_of(algorithm: Any) -> TorsoMaker | None:
    """The maker of networks that an algorithm or one nested in it has, None where none has one."""
    if has_torso(type(algorithm)) and algorithm.torso is not None:
        return algorithm.torso
    values = (getattr(algorithm, field.name) for field in dataclasses.fields(algorithm))
    structs = (x for x in values if dataclasses.is_dataclass(x) and not isinstance(x, type))
    return next((torso for x in structs if (torso := torso_of(x)) is not None), None)


def names_torso(hyperparameters: Any) -> bool:
    """Whether hyperparameters in config.json, or those nested in them, name a torso."""
    return isinstance(hyperparameters, dict) and (
        hyperparameters.get("torso") is not None or any(map(names_torso, hyperparameters.values()))
    )


def find_torso(torso: TorsoLike | None) -> TorsoMaker | None:
    """The maker that is handed in, or that is called module:function by a person, not by a file.

    Raises InvalidInput for a name of nothing.
    """
    if not isinstance(torso, str):
        return torso
    if ":" not in torso:
        raise InvalidInput(f"torso is {torso!r}; name a function in a module, as module:function")
    return import_object("torso", torso)


def with_torso(algorithm: Any, name: str, torso: TorsoLike | None) -> Any:
    """The algorithm, called `name`, with a torso that is handed in beside it.

    One with an agent in a field hands it on to that. Raises InvalidInput for an algorithm without
    networks, and for one with another torso.
    """
    maker = find_torso(torso)
    if maker is None:
        return algorithm
    if not has_torso(type(algorithm)) and hasattr(algorithm, "agent"):
        return replace(algorithm, agent=with_torso(algorithm.agent, name, maker))
    if not has_torso(type(algorithm)):
        takers = ", ".join(key for key in ALGORITHMS if has_torso(algorithm_class(key)))
        raise InvalidInput(
            f"torso is {qualified_name(maker)}, and {name} takes none; leave it out (these take "
            f"one: {takers})"
        )
    if algorithm.torso not in (None, maker):
        raise InvalidInput(
            f"torso is {qualified_name(maker)}, and that of the algorithm is "
            f"{qualified_name(algorithm.torso)}; give one of them"
        )
    return replace(algorithm, torso=maker)


def restore_torso(name: Any, torso: TorsoLike | None) -> TorsoMaker | None:
    """The torso that is called `name` in the config.json of a run, None where there is none.

    Raises InvalidInput where `torso` is not the run's, and where the run needs it: a file never
    makes etude import a module.
    """
    if name is None:
        return None
    if not (isinstance(name, str) and ":" in name):
        raise CorruptFile(f"config.json gives torso as {name!r}, which is no name module:function")
    maker = find_torso(torso)
    if maker is None:
        words = f"add --torso {name} (in Python torso=..., the function)"
        raise InvalidInput(
            f"this run's torso is {name}, and a file never makes etude import a module; "
            f"{words if is_importable(name) else 'go on in Python, with torso=..., the function'}"
        )
    if name.split(":")[-1] != qualified_name(maker).split(":")[-1]:
        raise InvalidInput(
            f"this run's torso is {name}, not {qualified_name(maker)}; load the run with its own "
            "in Python (etude.load(path, torso=...)) and give that Run"
        )
    return maker
