"""Shared by the commands: error messages, options, and the cache of compiled programs."""

import json
import os
import sys
from pathlib import Path
from typing import Any, NoReturn

from etude.errors import InvalidInput


def fail(message: str) -> NoReturn:
    """Print an error message and exit with status 2."""
    print(f"etude: {message}", file=sys.stderr)
    sys.exit(2)


def enable_cache() -> None:
    """Cache compiled programs in the user's cache directory, so that the next start is faster."""
    import jax
    import platformdirs

    import etude  # sets XLA's flags before JAX starts

    assert etude
    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        jax.config.update(
            "jax_compilation_cache_dir",
            str(Path(platformdirs.user_cache_dir("etude")) / "compiled"),
        )
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


def parse_options(options: list[str]) -> dict[str, Any]:
    """Parse NAME=VALUE pairs to keyword arguments; a value that is no JSON is a string."""
    values = {}
    for option in options:
        name, separator, value = option.partition("=")
        if not separator or not name.isidentifier():
            raise InvalidInput(f"--options {option!r} is not NAME=VALUE")
        try:
            values[name] = json.loads(value)
        except json.JSONDecodeError:
            values[name] = value
    return values
