"""The names that hyperparameters and flags have in Stable-Baselines3 and CleanRL, and how values are converted.

One row of `ALIASES` is read by the help of `etude train`, by its answer to a flag that is named as elsewhere, and by
`make index`, which writes the page of all of them.
"""
import dataclasses
from typing import Any, NamedTuple

from etude.algorithms import ALGORITHMS, algorithm_class, algorithm_factory


class Alias(NamedTuple):
    """A field of an algorithm or of the run, and its names elsewhere."""
    field: str
    sb3: tuple[str, ...] = ()
    cleanrl: tuple[str, ...] = ()
    others: tuple[str, ...] = ()        # what people also type
    algorithms: tuple[str, ...] = ()    # where the names mean this field; empty: wherever the field is
    conversion: str = ""                # how the value differs; empty: it does not


RUN = (                                 # fields of the command, whatever the algorithm
    Alias("algorithm", (), (), ("algo", "agent")),
    Alias("environment", ("env",), ("env_id",), ("env_name", "gym_id", "task")),
    Alias("steps", ("total_timesteps",), ("total_timesteps",),
          ("timesteps", "n_timesteps", "num_timesteps", "total_steps", "max_steps"),
          conversion="steps are those of each seed"),
    Alias("num_envs", ("n_envs",), ("num_envs",), ("nb_envs", "n_env", "num_env", "vec_envs")),
    Alias("seeds", (), (), ("num_seeds", "n_seeds")),
    Alias("frame_stack", ("n_stack",), (), ("framestack", "num_stack", "stack_size")),
    Alias("options", ("env_kwargs",), (), ("environment_kwargs",), conversion="NAME=VALUE, once for each argument"),
    Alias("checkpoint_interval", ("save_freq",), (), ("checkpoint_freq", "save_interval"),
          conversion="SB3 counts steps of each copy, so multiply by num_envs"),
    Alias("evaluation_episodes", ("n_eval_episodes",), (), ("eval_episodes", "num_eval_episodes")),
    Alias("video", (), ("capture_video",), ("record_video",)),
    Alias("out", ("log_path",), ("exp_name",), ("output", "output_dir", "log_dir", "logdir", "save_path", "log_folder")),
)

ALIASES = (
    Alias("learning_rate", ("learning_rate",), ("learning_rate",), ("lr", "alpha", "step_size"),
          ("q-learning", "td", "dqn", "pqn", "naf", "td3", "reinforce", "actor-critic", "trpo", "ppo")),
    Alias("learning_rate", ("learning_rate",), ("policy_lr", "q_lr"), ("lr", "critic_lr", "actor_lr"), ("sac",),
          "one rate for policy, critics and temperature"),
    Alias("learning_rate_decay", (), ("anneal_lr",), ("linear_schedule",),
          conversion="the steps over which the rate falls to zero; CleanRL's is that of --steps"),
    Alias("value_learning_rate", (), (), ("vf_lr", "critic_lr", "value_lr")),
    Alias("discount", ("gamma",), ("gamma",)),
    Alias("target_rate", ("tau",), ("tau",), ("polyak",)),
    Alias("target_interval", ("target_update_interval",), ("target_network_frequency",), ("target_update_freq",), ("dqn",),
          "gradient steps: environment steps × gradient_steps / (rollout_length × num_envs)"),
    Alias("batch_size", ("batch_size",), ("batch_size",), (), ("dqn", "naf", "td3", "sac")),
    Alias("batch_size", ("batch_size",), ("minibatch_size",), ("mini_batch_size",), ("ppo", "pqn", "trpo")),
    Alias("batch_size", (), ("num_minibatches",), ("nminibatches",), ("ppo", "pqn"),
          "samples in a minibatch: num_envs × rollout_length / num_minibatches"),
    Alias("capacity", ("buffer_size",), ("buffer_size",), ("replay_size", "memory_capacity"), ("dqn", "naf", "td3", "sac")),
    Alias("warmup_steps", ("learning_starts",), ("learning_starts",), ("start_steps", "warmup")),
    Alias("rollout_length", ("n_steps",), ("num_steps",), ("rollout_steps", "horizon_length"),
          ("ppo", "pqn", "trpo", "actor-critic")),
    Alias("rollout_length", ("train_freq",), ("train_frequency",), ("update_every",), ("dqn", "naf", "td3", "sac")),
    Alias("gradient_steps", ("gradient_steps",), (), ("updates_per_step", "utd_ratio"), ("dqn", "naf", "td3", "sac"),
          "a number of at least 1: SB3's -1 is rollout_length × num_envs"),
    Alias("n_step", ("n_steps",), ("n_step",), ("multi_step",), ("dqn",)),
    Alias("initial_epsilon", ("exploration_initial_eps",), ("start_e",), ("eps_start", "epsilon_start", "epsilon")),
    Alias("final_epsilon", ("exploration_final_eps",), ("end_e",), ("eps_end", "epsilon_end")),
    Alias("exploration_steps", ("exploration_fraction",), ("exploration_fraction",), ("eps_decay", "epsilon_decay"),
          conversion="environment steps: the fraction × steps"),
    Alias("max_gradient_norm", ("max_grad_norm",), ("max_grad_norm",), ("grad_clip", "gradient_clip")),
    Alias("epochs", ("n_epochs",), ("update_epochs",), ("num_epochs", "noptepochs")),
    Alias("gae_lambda", ("gae_lambda",), ("gae_lambda",), ("lam", "lambda")),
    Alias("q_lambda", (), ("q_lambda",), ("lambda",)),
    Alias("trace_decay", (), (), ("lambda", "td_lambda")),
    Alias("clip", ("clip_range",), ("clip_coef",), ("clip_ratio", "eps_clip", "clip_param")),
    Alias("value_clip", ("clip_range_vf",), (), ("vf_clip_param",)),
    Alias("value_clip", (), ("clip_vloss",),
          conversion="a distance and no switch: that of clip as in CleanRL, or inf for none"),
    Alias("value_coefficient", ("vf_coef",), ("vf_coef",), ("value_coef", "value_loss_coef"),
          conversion="SB3's value as it is; half of CleanRL's, whose loss is half the squared error"),
    Alias("entropy_coefficient", ("ent_coef",), ("ent_coef",), ("entropy_coef", "ent_weight")),
    Alias("kl_target", ("target_kl",), ("target_kl",), (), ("ppo",),
          "with --kl-stop; SB3's value as it is, CleanRL's divided by 1.5"),
    Alias("kl_limit", ("target_kl",), (), ("max_kl", "delta")),
    Alias("normalize_advantage", ("normalize_advantage",), ("norm_adv",), ("normalize_advantages",)),
    Alias("normalize_observation", ("norm_obs",), (), ("normalize_observations", "normalize_obs", "obs_norm")),
    Alias("normalize_reward", ("norm_reward",), (), ("normalize_rewards",)),
    Alias("hidden", ("net_arch",), (), ("hidden_sizes", "hidden_size", "hidden_dim", "layers")),
    Alias("activation", ("activation_fn",), (), ("act_fn",), conversion="a name: tanh or relu"),
    Alias("initial_std", ("log_std_init",), (), ("log_std",), ("ppo", "trpo", "actor-critic", "reinforce"),
          "the exponential of SB3's"),
    Alias("state_noise", ("use_sde",), (), ("sde", "gsde")),
    Alias("noise_interval", ("sde_sample_freq",), (), (), conversion="SB3's -1, once a rollout, is rollout_length"),
    Alias("hold_noise", ("use_sde",), (), ("sde", "gsde"),
          conversion="the noise is kept for a rollout, and does not depend on the state"),
    Alias("memory_size", ("lstm_hidden_size",), (), ("lstm_size",), conversion="with --recurrent lstm"),
    Alias("optimizer_name", ("use_rms_prop",), (), ("optimizer",), conversion="adam or rmsprop"),
    Alias("policy_interval", ("policy_delay",), ("policy_frequency",), ("policy_freq",)),
    Alias("exploration_noise", ("action_noise",), ("exploration_noise",), ("expl_noise", "act_noise"),
          conversion="the standard deviation of normal noise, in units of [-1, 1]"),
    Alias("target_noise", ("target_policy_noise",), ("policy_noise",)),
    Alias("target_noise_clip", ("target_noise_clip",), ("noise_clip",)),
    Alias("critics", ("n_critics",), (), ("num_critics", "n_qs", "num_qs")),
    Alias("initial_temperature", ("ent_coef",), ("alpha",), ("entropy_coef", "temperature"), ("sac",),
          "a number fixes it with --no-learn-temperature; auto is --learn-temperature"),
    Alias("learn_temperature", (), ("autotune",), ("auto_entropy", "automatic_entropy_tuning")),
    Alias("target_entropy_per_element", ("target_entropy",), (), (),
          conversion="SB3's value / elements of the action; auto is -1"),
    Alias("target_entropy_fraction", (), ("target_entropy_scale",)),
    Alias("atoms", ("n_quantiles",), ("n_atoms",), ("num_atoms", "num_quantiles")),
    Alias("lowest_return", (), ("v_min",), ("vmin",)),
    Alias("highest_return", (), ("v_max",), ("vmax",)),
    Alias("double", (), (), ("double_q", "double_dqn")),
    Alias("dueling", (), (), ("dueling_dqn",)),
    Alias("prioritised", (), (), ("prioritized", "prioritized_replay", "per")),
    Alias("priority_exponent", (), ("prioritized_replay_alpha",), ("per_alpha",)),
    Alias("importance_exponent", (), ("prioritized_replay_beta",), ("per_beta",)),
    Alias("damping", ("cg_damping",)),
    Alias("conjugate_steps", ("cg_max_steps",), (), ("cg_iters",)),
    Alias("shrink", ("line_search_shrinking_factor",), (), ("backtrack_coeff",)),
    Alias("line_search_steps", ("line_search_max_iter",), (), ("backtrack_iters",)),
    Alias("value_epochs", ("n_critic_updates",), (), ("train_v_iters", "vf_iters")),
    Alias("fisher_interval", ("sub_sampling_factor",)),
)

ABSENT = {                              # what has no counterpart, and why
    "cuda": "JAX uses the device that it finds", "device": "JAX uses the device that it finds",
    "gpu": "JAX uses the device that it finds",
    "torch_deterministic": "a run repeats bit for bit on one machine",
    "track": "the run directory holds metrics.csv and the learning curve",
    "tensorboard_log": "the run directory holds metrics.csv and the learning curve",
    "verbose": "progress is always shown",
    "policy": "the network follows from the spaces; see --hidden",
    "policy_kwargs": "each of them is a hyperparameter; see --hidden",
}


def normal(name: str) -> str:
    """A flag or a name as the table spells it."""
    return name.lstrip("-").replace("-", "_").lower()


def names_of(alias: Alias) -> tuple[str, ...]:
    return (*alias.sb3, *alias.cleanrl, *alias.others)


def holds(alias: Alias, cls: Any) -> bool:
    """Whether a row of ALIASES speaks of a field of this class of algorithms."""
    return (alias.field in {field.name for field in dataclasses.fields(cls)}
            and (not alias.algorithms or cls in map(algorithm_class, alias.algorithms)))


def rows_of(cls: Any) -> list[Alias]:
    """The rows that hold for a class of algorithms and for the run; of the run's alone when it is None."""
    return [*RUN, *(alias for alias in ALIASES if cls is not None and holds(alias, cls))]


def algorithms_with(field: str) -> list[str]:
    """The names of the algorithms that have a hyperparameter, without variants, which have those of their class."""
    return [name for name in ALGORITHMS if isinstance(algorithm_factory(name), type)
            and field in {one.name for one in dataclasses.fields(algorithm_class(name))}]


def elsewhere(field: str, rows: list[Alias]) -> str:
    """The names of a field in the other libraries, for a line of help; empty where they are the same."""
    sb3, cleanrl = ([name for row in rows if row.field == field for name in getattr(row, library) if name != field]
                    for library in ("sb3", "cleanrl"))
    if sb3 and sb3 == cleanrl:
        return f"SB3 and CleanRL: {', '.join(sb3)}"
    found = [f"{library}: {', '.join(names)}" for library, names in
             (("SB3", sb3), ("CleanRL", [name.replace("_", "-") for name in cleanrl])) if names]
    return "; ".join(found)


def page() -> str:
    """docs/hyperparameters.md."""
    lines = ["# Hyperparameters by their names elsewhere", "",
             "<!-- Generated by `make index` from src/etude/experiment/aliases.py: do not edit. -->", "",
             "`etude train ppo CartPole-v1 --gamma 0.9` answers that `--gamma 0.9` is `--discount 0.9` here. This page lists",
             "the names of [Stable-Baselines3](https://stable-baselines3.readthedocs.io) (with its contrib package) and",
             "[CleanRL](https://docs.cleanrl.dev). A value is the same unless the last column says otherwise. A variant of an",
             "algorithm, such as rainbow of dqn, has the hyperparameters of the algorithm.", "",
             "## The run", "", *table(RUN, False), "",
             "## Hyperparameters", "", *table(ALIASES, True), ""]
    return "\n".join(lines)


def table(rows: tuple[Alias, ...], by_algorithm: bool) -> list[str]:
    """Rows of Markdown: the field, the algorithms that have it, its names and the conversion."""
    def cell(names, flag=False):
        return ", ".join(f"`{'--' + name.replace('_', '-') if flag else name}`" for name in names)
    head = ["Here", *(["Algorithms"] if by_algorithm else []), "Stable-Baselines3", "CleanRL", "Value"]
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    for row in rows:
        if row.sb3 or row.cleanrl:
            having = [name for name in algorithms_with(row.field) if holds(row, algorithm_class(name))] if by_algorithm else []
            cells = [cell([row.field], True), *([", ".join(having)] if by_algorithm else []), cell(row.sb3),
                     cell(row.cleanrl, True), row.conversion]
            lines.append("| " + " | ".join(cells) + " |")
    return lines
