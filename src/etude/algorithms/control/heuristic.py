"""Heuristics: controllers written by hand, each for one environment, that learn nothing."""

from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from etude.algorithms.control.task_experts import avoiding, draw_route, lanes, push_block
from etude.algorithms.protocol import algorithm
from etude.data.transition import Transition
from etude.errors import InvalidInput
from etude.spaces import Box, Discrete, EnvironmentSpec, Space
from etude.struct import static, struct
from etude.types import Array


class Controller(NamedTuple):
    """A heuristic, and the spaces that it is written for."""

    # observation [env, ...], memory -> action in the policy's units, next memory
    act: Callable[[Array, Any], tuple[Array, Any]]
    observation_space: Space  # of a Box its shape alone
    action_space: Space
    # number of environments, key -> what an episode begins with in each of them
    initial_memory: Callable[[int, Array], Any] = lambda num_envs, key: ()


def memoryless(action: Callable[[Array], Array]) -> Callable[[Array, Any], tuple[Array, Any]]:
    """The `act` of a controller whose action follows from the observation."""
    return lambda observation, memory: (action(observation), memory)


@struct
class HeuristicState:
    """What Heuristic knows; it learns nothing."""

    controller: Controller = static()  # of the environment that it acts in


@algorithm
class Heuristic:
    """A controller written by hand for the environment, where there is one; no learning."""

    rollout_length: int = static(1, at_least=1)
    """Environment steps of each copy between updates, which do nothing."""
    learns: ClassVar[bool] = False

    def init(self, key: Array, spec: EnvironmentSpec) -> HeuristicState:
        """The controller of the environment `spec.id`; the key is not used.

        Raises InvalidInput where there is none, or if the spaces are not those of that id.
        """
        if spec.id not in HEURISTICS:
            name = repr(spec.id) if spec.id else "an environment without an id"
            raise InvalidInput(
                f"there is no heuristic for {name}; there is one for {', '.join(HEURISTICS)}. "
                "Take one of these, or random, which acts in every environment"
            )
        controller = HEURISTICS[spec.id]
        if not (
            has_form(spec.observation, controller.observation_space)
            and spec.action == controller.action_space
        ):
            raise InvalidInput(
                f"the heuristic for {spec.id!r} reads {controller.observation_space} and acts in "
                f"{controller.action_space}; "
                f"this environment's are {spec.observation} and {spec.action}. Leave out what "
                "changes them, such as --frame-stack, --action-masks or --options"
            )
        return HeuristicState(controller)

    def initial_memory(self, state: HeuristicState, spec: EnvironmentSpec, key: Array) -> Any:
        """What the controller's episodes begin with, [env, ...]; () without a memory."""
        return state.controller.initial_memory(spec.num_envs, key)

    def act(
        self, state: HeuristicState, observation: Array, memory: Any, key: Array, explore: bool
    ) -> tuple[Array, Any]:
        """The controller's action of each copy, [env, *action], and its next memory.

        They are the same exploring or not: what a controller leaves to chance, it draws when an
        episode begins.
        """
        return state.controller.act(observation, memory)

    def update(
        self, state: HeuristicState, experience: Transition, key: Array
    ) -> tuple[HeuristicState, dict[str, Any]]:
        """The unchanged state: Heuristic does not learn."""
        return state, {"updates": 0}


def has_form(space: Space, expected: Space) -> bool:
    """Whether a space is the expected one; of a Box only the shape has to be the same."""
    if isinstance(expected, Box):
        return isinstance(space, Box) and space.shape == expected.shape
    return space == expected


def lunar_lander(observation: Array) -> Array:
    """LunarLander's action, int32 [...], from observations [..., 8].

    The main engine fires if the lander has to rise more than it has to turn; otherwise a side
    engine fires if it has to turn. Below 0.05 either is too little to act on.
    """
    turn, lift = turn_and_lift(observation)
    needs_lift = (lift > jnp.abs(turn)) & (lift > 0.05)
    # the main engine is 2, the right one 3, the left one 1, and 0 is none
    return jnp.select([needs_lift, turn < -0.05, turn > 0.05], [2, 3, 1], 0)


def lunar_lander_continuous(observation: Array) -> Array:
    """LunarLanderContinuous's action [..., (main engine, side engines)], from [..., 8]."""
    turn, lift = turn_and_lift(observation)
    return jnp.clip(jnp.stack([20 * lift - 1, -20 * turn], -1), -1, 1)


def turn_and_lift(observation: Array) -> tuple[Array, Array]:
    """How much the lander has to turn and to rise, [...] each, by PD control of angle and height.

        turn = 0.5 (θ* - θ) - θ',         θ* = 0.5 x + x', clipped to [-0.4, 0.4] rad
        lift = 0.5 (y* - y) - 0.5 y',     y* = 0.55 |x|

    The observation is (x, y, x', y', θ, θ', left leg on the ground, right leg on the ground), in
    Gymnasium's units, and the landing pad is at x = y = 0. The target angle θ* leans the lander
    toward the pad; the target height y* grows with the distance from it. With a leg on the ground,
    turn is 0 and lift is -0.5 y'.

    Source: the function `heuristic` of `gymnasium.envs.box2d.lunar_lander`.
    """
    x, y = observation[..., 0], observation[..., 1]
    x_velocity, y_velocity = observation[..., 2], observation[..., 3]
    angle, angular_velocity = observation[..., 4], observation[..., 5]
    on_ground = (observation[..., 6:] != 0).any(-1)
    target_angle = jnp.clip(0.5 * x + x_velocity, -0.4, 0.4)
    target_height = 0.55 * jnp.abs(x)
    turn = 0.5 * (target_angle - angle) - angular_velocity
    lift = 0.5 * (target_height - y) - 0.5 * y_velocity
    return jnp.where(on_ground, 0, turn), jnp.where(on_ground, -0.5 * y_velocity, lift)


def cart_pole(observation: Array) -> Array:
    """CartPole's action, int32 [...], from (x, x', θ, θ'), [..., 4], in Gymnasium's units.

    It pushes to the right, 1, where 0.1 x + 0.2 x' + 3 θ + θ' > 0, so that the cart runs under the
    pole, and slowly back to the middle.
    """
    return (observation @ jnp.array([0.1, 0.2, 3.0, 1.0]) > 0).astype(jnp.int32)


def cart_pole_without_velocity(observation: Array, memory: Array) -> tuple[Array, Array]:
    """The action of `cart_pole`, int32 [env], and (x, θ), [env, 2], which are observed.

    Velocities are differences from those of the step before, 0.02 s ago; at the first step of an
    episode, whose memory is NaN, they count as zero.
    """
    velocity = jnp.nan_to_num((observation - memory) / 0.02)
    x, angle = observation[..., 0], observation[..., 1]
    state = jnp.stack([x, velocity[..., 0], angle, velocity[..., 1]], -1)
    return cart_pole(state), observation


def tightrope(observation: Array) -> Array:
    """Tightrope's action, int32 [...], from places [...]: ahead on the rope, and back to it."""
    return 2 - observation


def t_maze(observation: Array, memory: Array) -> tuple[Array, Array]:
    """TMaze's action, int32 [env], and the cue, float32 [env], which is 0 until it is seen."""
    cue_seen, at_junction = observation[..., 0], observation[..., 1]
    cue = jnp.where(cue_seen != 0, cue_seen, memory)
    return 1 + jnp.where(at_junction > 0, cue, 0).astype(jnp.int32), cue


def fork(observation: Array, memory: Array) -> tuple[Array, Array]:
    """Fork's action, float32 [env, 1], and the side to pass the disc on, float32 [env].

    The point goes to y = 0.8 or y = -0.8, where it passes, as fast as it can. The side is the one
    that was drawn until the point is on one, as it is after a step: whoever brought it there, the
    way around the disc is on that side.
    """
    y = observation[..., 1]
    side = jnp.where(jnp.abs(y) > 0.1, jnp.sign(y), memory)
    return jnp.clip((0.8 * side - y) / 0.125, -1, 1)[..., None], side


def draw_sides(num_envs: int, key: Array) -> Array:
    """Left, 1, or right, -1, for each episode by a fair coin, float32 [env]."""
    return jax.random.rademacher(key, (num_envs,), float)


# Environment's id: its controller. A second heuristic is one function and one row.
HEURISTICS = {
    "LunarLander-v3": Controller(memoryless(lunar_lander), Box((8,)), Discrete(4)),
    "LunarLanderContinuous-v3": Controller(
        memoryless(lunar_lander_continuous), Box((8,)), Box((2,), low=-1.0, high=1.0)
    ),
    "CartPole-v1": Controller(memoryless(cart_pole), Box((4,)), Discrete(2)),
    "etude/CartPoleWithoutVelocity-v1": Controller(
        cart_pole_without_velocity,
        Box((2,)),
        Discrete(2),
        initial_memory=lambda num_envs, key: jnp.full((num_envs, 2), jnp.nan),
    ),
    "etude/Tightrope-v0": Controller(memoryless(tightrope), Discrete(3), Discrete(3)),
    "etude/TMaze-v0": Controller(
        t_maze, Box((2,)), Discrete(3), initial_memory=lambda num_envs, key: jnp.zeros(num_envs)
    ),
    "etude/Fork-v0": Controller(fork, Box((2,)), Box((1,), low=-1.0, high=1.0), draw_sides),
    "etude/Avoiding-v0": Controller(avoiding, Box((2,)), Box((2,), low=-1.0, high=1.0), draw_route),
    "etude/Push-v0": Controller(push_block, Box((4,)), Box((2,), low=-1.0, high=1.0), draw_sides),
    "etude/Lanes-v0": Controller(memoryless(lanes), Box((9, 20)), Box((1,), low=-1.0, high=1.0)),
}

# Name on the command line: (constructor, description).
ALGORITHMS = {
    "heuristic": (
        Heuristic,
        "a controller written by hand: LunarLander, CartPole and tasks of etude",
    )
}
