"""Networks of the user's own in a run: handed in by a person, and asked for again by their name."""

from typing import Any

from etude.algorithms import ALGORITHMS, algorithm_class, import_object
from etude.errors import InvalidInput
from etude.kinds import code_fields, qualified_name
from etude.nn.custom_torso import TorsoMaker
from etude.storage.files import CorruptFile
from etude.struct import replace

TorsoLike = TorsoMaker | str


def has_torso(algorithm: Any) -> bool:
    """Whether an algorithm, or a class of one, has networks that a torso can stand in for."""
    cls = algorithm if isinstance(algorithm, type) else type(algorithm)
    return "torso" in code_fields(cls)


def torso_of(algorithm: Any) -> TorsoMaker | None:
    """The maker of the algorithm's networks, None where they are etude's own."""
    return algorithm.torso if has_torso(algorithm) else None


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

    Raises InvalidInput for an algorithm without networks, and for one with another torso.
    """
    maker = find_torso(torso)
    if maker is None:
        return algorithm
    if not has_torso(algorithm):
        raise InvalidInput(no_torso(qualified_name(maker), name))
    if algorithm.torso not in (None, maker):
        raise InvalidInput(
            f"torso is {qualified_name(maker)}, and that of the algorithm is "
            f"{qualified_name(algorithm.torso)}; give one of them"
        )
    return replace(algorithm, torso=maker)


def no_torso(torso: str, name: str) -> str:
    """The message for a torso that is handed to what has no place for one, called `name`."""
    takers = ", ".join(key for key in ALGORITHMS if has_torso(algorithm_class(key)))
    return f"torso is {torso}, and {name} takes none; leave it out (these take one: {takers})"


def restore_torso(name: Any, torso: TorsoLike | None) -> TorsoMaker | None:
    """The torso of a run in whose config.json it is called `name`, None for a run without one.

    Raises InvalidInput where `torso` is not the run's, and where the run needs it: a file never
    makes etude import a module.
    """
    maker = find_torso(torso)
    if name is None and maker is None:
        return None
    if name is not None and not (isinstance(name, str) and ":" in name):
        raise CorruptFile(f"config.json gives torso as {name!r}, which is no name module:function")
    if name is None:
        raise InvalidInput(
            f"torso is {qualified_name(maker)}, and this run has etude's own networks; leave it out"
        )
    if maker is None:
        words = f"add --torso {name} (in Python torso=..., the function)"
        raise InvalidInput(
            f"this run's torso is {name}, and a file never makes etude import a module; "
            f"{words if is_importable(name) else 'go on in Python, with torso=..., the function'}"
        )
    if name.split(":")[-1] != qualified_name(maker).split(":")[-1]:
        raise InvalidInput(f"this run's torso is {name}, not {qualified_name(maker)}")
    return maker


def is_importable(name: str) -> bool:
    """Whether module:name can be typed on the command line: a name at the top of a module."""
    module, _, attribute = name.partition(":")
    return module != "__main__" and attribute.isidentifier()
