"""Names that import: module:Name, which a person types, and which no file ever makes etude import.

Whatever imports by name, or asks whether a name would import, asks here. Read without JAX.
"""

import importlib
import re
from types import ModuleType
from typing import Any

from etude.errors import InvalidInput

_MODULE = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")


def split_name(role: str, name: str) -> tuple[str, str]:
    """Split module:Name into the module and the name in it; a name without a colon has no module.

    Raises InvalidInput, which calls the name by its role, for more than one colon and for what
    cannot name a module.
    """
    module, colon, attribute = name.rpartition(":")
    if not colon:
        return "", name
    if not (_MODULE.fullmatch(module) and attribute):
        raise InvalidInput(
            f"{role} is {name!r:.80}; write it as module:Name, with one colon after the module"
        )
    return module, attribute


def is_importable(name: str) -> bool:
    """Whether module:name can be typed on the command line: a name at the top of a module."""
    module, _, attribute = name.partition(":")
    return bool(_MODULE.fullmatch(module)) and module != "__main__" and attribute.isidentifier()


def import_module(role: str, name: str) -> ModuleType:
    """Import the module of module:Name, for a name that a person typed, never a file's.

    Raises InvalidInput where there is none.
    """
    module, _ = split_name(role, name)
    try:
        return importlib.import_module(module)
    except (Exception, SystemExit) as error:  # whatever a module does as it is imported
        is_missing = isinstance(error, ImportError)
        raise InvalidInput(
            f"{role} {name!r}: the module {module!r} cannot be imported ({type(error).__name__}: "
            f"{error}); {'install it, or mend its name' if is_missing else 'mend it'}"
        ) from error


def import_object(role: str, name: str) -> Any:
    """Return what is called `name`, module:Name, for a name that a person typed, never a file's.

    Raises InvalidInput, which calls it by its role, where there is none.
    """
    module, attribute = split_name(role, name)
    imported = import_module(role, name)
    try:
        return getattr(imported, attribute)
    except AttributeError:
        raise InvalidInput(f"{role} {name!r}: {module} has no {attribute}") from None
