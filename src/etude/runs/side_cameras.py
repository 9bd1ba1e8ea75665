"""Recording with side cameras, which show how to come back to where the expert always is.

An expert drives by the camera in the middle. What a camera to its left and one to its right see
beside it become episodes of their own, with the expert's action corrected towards the middle; so a
policy that learns from all three knows what to do where the expert never is (Bojarski et al.,
"End to End Learning for Self-Driving Cars", 2016). `etude.environments.wrappers.side_views` says
how an environment has such cameras.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from etude.algorithms.protocol import Expert, Policy
from etude.data.dataset import Dataset, to_recorded_arrays
from etude.environments.registry import env_factory
from etude.environments.sources import EnvironmentLike, FactorySource, environment_source
from etude.environments.wrappers.side_views import (
    CENTER,
    CORRECTION,
    SIDES,
    VIEW,
    make_with_side_views,
)
from etude.errors import InvalidInput
from etude.spaces import Composite, EnvironmentSpec
from etude.storage.datasets.recorded_episodes import FIELDS, RecordedEpisodes
from etude.struct import replace, static, struct
from etude.types import Array


def side_camera_source(
    environment: EnvironmentLike,
    options: dict[str, Any] | None,
    frame_stack: int,
    action_masks: bool,
    timeout: float,
) -> FactorySource:
    """The source of an environment whose side cameras are observed; see `SideViewsWrapper`.

    Raises InvalidInput where it has none, and for an environment written in JAX.
    """
    plain = environment_source(environment, options, frame_stack, action_masks, timeout)
    plain.outline(1, plain.evaluation_backend)  # says where it cannot be made
    if isinstance(environment, str):
        make_env: Any = env_factory(environment, options, action_masks=action_masks)
    elif isinstance(plain, FactorySource):
        make_env = plain.make_env
    else:
        raise InvalidInput(
            f"{plain.name} is written in JAX, and side cameras are a method of a Gymnasium "
            "environment; leave side_cameras out, or give such an environment"
        )
    source = FactorySource(partial(make_with_side_views, make_env), frame_stack, False, timeout)
    source.name = plain.name
    return source


def center_spec(spec: EnvironmentSpec) -> EnvironmentSpec:
    """The spec of an environment with side cameras, without them."""
    assert isinstance(spec.observation, Composite) and spec.observation.names is not None
    center = spec.observation.parts[spec.observation.names.index(CENTER)]
    return replace(spec, observation=center)


@struct
class CenterPolicy:
    """A policy that sees what the camera in the middle does, among observations of all three."""

    policy: Policy = static()
    spec: EnvironmentSpec = static()
    needs: tuple[str, ...] = static(())

    def initial_memory(self, state: Any, spec: EnvironmentSpec, key: Array) -> Any:
        """The policy's own memory."""
        return self.policy.initial_memory(state, self.spec, key)

    def act(
        self, state: Any, observation: Any, memory: Any, key: Array, explore: bool
    ) -> tuple[Array, Any]:
        """The policy's action and next memory."""
        return self.policy.act(state, observation[CENTER], memory, key, explore)


def with_center_view(expert: Expert, spec: EnvironmentSpec) -> Expert:
    """The expert, for an environment whose side cameras are observed; `spec` is that without."""
    policy: Any = CenterPolicy(expert.policy, spec)
    return Expert(expert.state, policy)


def split_cameras(
    played: Dataset, spec: EnvironmentSpec, seeds: Sequence[int | None]
) -> RecordedEpisodes:
    """Three episodes for each one played: of the center, the left and the right.

    Args:
        played: episodes with the observations of `SideViewsWrapper`.
        spec: that of the environment without side cameras.
        seeds: [episode], of the resets; nobody drove by the cameras of the sides, so their episodes
            have none.

    Returns:
        The episodes, of which those of a side have the actions corrected, within their bounds, and
        the rewards and ends of the center.
    """
    steps = played.transitions
    cameras = [_arrays_of(played, spec, steps.observation[CENTER], steps.next_observation[CENTER])]
    low, high = spec.action.bounds
    for side in SIDES:
        seen, next_seen = steps.observation[side], steps.next_observation[side]
        arrays = _arrays_of(played, spec, seen[VIEW], next_seen[VIEW])
        actions = arrays["actions"]
        # of a stack of frames, the correction of the latest
        correction = seen[CORRECTION].reshape(len(actions), -1, *actions.shape[1:])[:, -1]
        arrays["actions"] = np.clip(actions + correction, low, high).astype(actions.dtype)
        cameras.append(arrays)
    by_camera = [
        RecordedEpisodes("etude", spec.id, spec, arrays, ()).by_episode().fields
        for arrays in cameras
    ]
    fields = {
        field: [
            episode
            for drive in zip(*(fields[field] for fields in by_camera), strict=True)
            for episode in drive
        ]
        for field in FIELDS
    }
    return RecordedEpisodes(
        "etude",
        spec.id,
        spec,
        fields,
        tuple(known for seed in seeds for known in (seed, None, None)),
        is_side_view=(False, True, True) * len(seeds),
    )


def _arrays_of(played, spec, observation, next_observation):
    """The recorded arrays of episodes, with other observations."""
    transitions = replace(
        played.transitions, observation=observation, next_observation=next_observation
    )
    one_copy = replace(spec, num_envs=1)
    return to_recorded_arrays(replace(played, transitions=transitions, spec=one_copy))
