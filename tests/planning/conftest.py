import jax
import numpy as np
import pytest


@pytest.fixture
def watched():
    """A function of a score: (the same score, the list of the candidates that it is asked about, in
    order)."""

    def watch(score):
        seen = []

        def asked(candidates):
            jax.debug.callback(lambda x: seen.append(np.asarray(x)), candidates, ordered=True)
            return score(candidates)

        return asked, seen

    return watch
