"""Fitted Q iteration (Ernst et al., 2005; Riedmiller, 2005): a variant of DQN.

    yᵢ = rᵢ + γ (1 - terminatedᵢ) maxₐ Q(s'ᵢ, a)
    Q ← argmin_Q Σᵢ loss(yᵢ - Q(sᵢ, aᵢ))

The two steps repeat: a long regression on fixed targets, then new targets. A regression is as many
gradient steps of Adam as `target_interval` says; keep it equal to `gradient_steps`. The loss is
half the square, whose minimum is the mean of the targets; Huber's, an option of the head, is biased
where they are spread. The transitions are those of a dataset where it does not play (offline), else
those that it has collected.
"""

from functools import partial

from etude.algorithms.value.dqn import DQN
from etude.algorithms.value.heads import ScalarHead

FittedQ = partial(
    DQN,
    head=ScalarHead("squared"),
    double=False,
    rollout_length=500,
    gradient_steps=500,
    target_interval=500,
)

# Name on the command line: (constructor, description).
ALGORITHMS = {
    "fitted-q": (
        FittedQ,
        "DQN as fitted Q iteration: hundreds of gradient steps for each target network",
    )
}
