"""An environment in which most actions are forbidden, those that pay best among them."""

import jax
import jax.numpy as jnp
import numpy as np

from etude.environments.protocol import StepResult
from etude.spaces import Box, Composite, Discrete, MultiBinary, MultiDiscrete

STATES, END = 4, 4  # where play ends, nothing is allowed
ONE, PAIR = Discrete(3), MultiDiscrete((2, 3), (0, 0), (2,))
# of each state, the legal choices of one question with 3 answers and of one with 2; at least one
THREE = np.array([[0, 1, 0], [0, 1, 1], [1, 0, 1], [0, 0, 1], [0, 0, 0]], np.int8)
TWO = np.array([[0, 1], [1, 0], [1, 1], [0, 1], [0, 0]], np.int8)
MASKS = {ONE: THREE, PAIR: np.concatenate([TWO, THREE], -1)}


class Masked:
    """Four states in any order; what is forbidden is paid 10, what is legal less than 1. A state is
    observed as a choice, or as a number in a Box."""

    def __init__(self, action_space=ONE, in_box=False):
        self.action_space, self.masks, self.in_box = action_space, MASKS[action_space], in_box
        mask = MultiBinary(self.masks.shape[1:])
        states = Box((1,)) if in_box else Discrete(STATES + 1)
        self.observation_space = Composite((mask, states), ("action_mask", "observation"))

    def observe(self, state):
        seen = state[..., None].astype(jnp.float32) if self.in_box else state
        return {"action_mask": jnp.asarray(self.masks)[state], "observation": seen}

    def reset(self, key):
        state = jax.random.randint(key, (), 0, STATES)
        return state, self.observe(state)

    def step(self, state, action, key):
        key_end, key_state = jax.random.split(key)
        ended = jax.random.uniform(key_end) < 0.3
        after = jnp.where(ended, END, self.reset(key_state)[0])
        legal = self.is_legal(jnp.asarray(self.masks)[state], action)
        reward = jnp.where(legal, jnp.sum(action) / 10, 10.0)
        return after, StepResult(self.observe(after), reward, ended, jnp.bool_(False))

    def is_legal(self, mask, action):
        """Whether a mask [..., choice] allows an action [..., *action]."""
        sizes = getattr(self.action_space, "sizes", (3,))
        first = np.cumsum((0, *sizes[:-1]))
        action = jnp.reshape(action, (*mask.shape[:-1], len(sizes)))
        return (jnp.take_along_axis(mask, first + action, -1) > 0).all(-1)
