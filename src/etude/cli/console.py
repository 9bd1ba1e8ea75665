"""Shared by the commands: error messages and the cache of compiled programs."""

import os
import sys
from pathlib import Path
from typing import NoReturn


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
