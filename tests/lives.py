"""Random lives, every observation of which has its own number, and what a ring should hold of them,
kept in lists."""

import jax.numpy as jnp
import numpy as np

from etude.data.transition import Transition


def picture(number):
    """A number below 2^16 as uint8 [..., 2, 2]; its second row repeats the first."""
    number = np.asarray(number)
    return np.stack([np.stack([number // 256, number % 256], -1)] * 2, -2).astype(np.uint8)


def number_of(pictures):
    pictures = np.asarray(pictures).astype(int)
    assert (pictures[..., 0, :] == pictures[..., 1, :]).all()
    return pictures[..., 0, 0] * 256 + pictures[..., 0, 1]


def flags(*shape):
    return np.zeros(shape, bool)


def example(pictures=True):
    """A transition of zeros: observations are numbers, as pictures beside numbers or as numbers
    alone."""
    observation = (
        {"eye": np.zeros((2, 2), np.uint8), "number": np.int32(0)} if pictures else np.int32(0)
    )
    return Transition(observation, np.int32(0), np.float32(0), observation, flags(), flags())


class Lives:
    """Copies that go on and on: `live` gives the next rollout, `rows` has every row ever lived,
    [time][env]."""

    def __init__(self, seed, num_envs, terminated=0.1, truncated=0.1, limit=10**9, images=True):
        self.rng = np.random.default_rng(seed)
        self.shares, self.limit, self.images = (terminated, truncated), limit, images
        self.age = np.zeros(num_envs, int)
        self.seen = num_envs
        self.now = np.arange(num_envs)
        self.rows = []

    def live(self, length):
        """A rollout [length, env]; the reward is a small whole number, the action the number of the
        observation."""
        new = []
        for _ in range(length):
            n = len(self.now)
            following = self.seen + np.arange(n)
            terminated, truncated = (self.rng.random(n) < share for share in self.shares)
            self.age += 1
            truncated |= self.age >= self.limit
            done = terminated | truncated
            new.append(
                [
                    dict(
                        observation=self.now[i],
                        reward=float(self.rng.integers(-5, 6)),
                        after=following[i],
                        terminated=terminated[i],
                        truncated=truncated[i],
                    )
                    for i in range(n)
                ]
            )
            self.now = np.where(done, self.seen + n + np.arange(n), following)
            self.age[done] = 0
            self.seen += 2 * n
        self.rows += new
        told = {name: np.array([[row[name] for row in step] for step in new]) for name in new[0][0]}
        before, after = (
            {"eye": jnp.asarray(picture(told[name])), "number": jnp.asarray(told[name], np.int32)}
            if self.images
            else jnp.asarray(told[name], np.int32)
            for name in ("observation", "after")
        )
        return Transition(
            before,
            jnp.asarray(told["observation"], np.int32),
            jnp.asarray(told["reward"], np.float32),
            after,
            jnp.asarray(told["terminated"]),
            jnp.asarray(told["truncated"]),
        )

    def cut(self, is_cut):
        """Cut off the running episodes of the copies in `is_cut` [env] at their newest row."""
        for i in np.flatnonzero(is_cut):
            row = self.rows[-1][i]
            if not (row["terminated"] or row["truncated"]):
                row["truncated"] = np.True_
                self.now[i], self.age[i] = self.seen, 0
                self.seen += 1

    def oldest(self, time, places):
        """The first row of time that a ring of `time` rows holds, with `places` for successors that
        were cut off."""
        cut = [
            t
            for t, step in enumerate(self.rows)
            for row in step
            if row["truncated"] and not row["terminated"]
        ]
        lost = cut[:-places] if self.images else []
        return max(len(self.rows) - time, 0, *(t + 1 for t in lost[-1:]))

    def n_step(self, t, env, n, discount):
        """From row (t, env) at most n steps, not over the end of an episode nor past the newest
        row, which cuts them off, in float64."""
        total = 0.0
        for k in range(n):
            row = self.rows[t + k][env]
            total += discount**k * row["reward"]
            is_newest = t + k == len(self.rows) - 1
            if row["terminated"] or row["truncated"] or is_newest or k == n - 1:
                cut = row["truncated"] or (is_newest and k < n - 1 and not row["terminated"])
                return total, row["after"], row["terminated"], cut, discount ** (k + 1)
