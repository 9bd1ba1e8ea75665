"""Aliases: the names of hyperparameters and flags in Stable-Baselines3 and CleanRL.

`etude train` shows them in its help and answers with them when a flag has the name of another
library. `make index` writes a page of them.
"""

from typing import Any, NamedTuple

from etude.algorithms import ALGORITHMS, algorithm_class, algorithm_factory
from etude.cli.nested import all_flags


class Alias(NamedTuple):
    """A field of an algorithm or of the run, and its names in other libraries, space-separated."""

    field: str  # with its path, where it is one of a nested struct
    sb3: str = ""
    cleanrl: str = ""
    others: str = ""  # other common names
    algorithms: str = ""  # algorithms to which the alias applies; all with the field if empty
    conversion: str = ""  # how to convert the value; the same value if empty


RUN = (  # fields of the run, for every algorithm
    Alias("algorithm", others="algo agent"),
    Alias("environment", sb3="env", cleanrl="env_id", others="env_name gym_id task"),
    Alias(
        "steps",
        sb3="total_timesteps",
        cleanrl="total_timesteps",
        others="timesteps n_timesteps num_timesteps total_steps max_steps",
    ),
    Alias("num_envs", sb3="n_envs", cleanrl="num_envs", others="nb_envs n_env num_env vec_envs"),
    Alias("seeds", others="num_seeds n_seeds"),
    Alias("frame_stack", sb3="n_stack", others="framestack num_stack stack_size"),
    Alias(
        "options",
        sb3="env_kwargs",
        others="environment_kwargs",
        conversion="NAME=VALUE, once for each argument",
    ),
    Alias(
        "checkpoint_interval",
        sb3="save_freq",
        others="checkpoint_freq save_interval",
        conversion="SB3 counts steps of each copy, so multiply by num_envs",
    ),
    Alias("evaluation_episodes", sb3="n_eval_episodes", others="eval_episodes num_eval_episodes"),
    Alias(
        "evaluate_every",
        sb3="eval_freq",
        others="eval_every eval_interval evaluation_interval evaluate_freq",
        conversion="SB3 counts steps of each copy, so multiply by num_envs",
    ),
    Alias(
        "until",
        sb3="reward_threshold",
        others="stop_reward target_reward target_return until_return",
    ),
    Alias(
        "patience",
        sb3="max_no_improvement_evals",
        others="early_stopping early_stopping_patience no_improvement",
    ),
    Alias("video", cleanrl="capture_video", others="record_video"),
    Alias(
        "out",
        sb3="log_path",
        cleanrl="exp_name",
        others="output output_dir log_dir logdir save_path log_folder",
    ),
)

ALIASES = (
    Alias(
        "learning_rate",
        sb3="learning_rate",
        cleanrl="learning_rate",
        others="lr alpha step_size",
        algorithms="q-learning td dqn pqn naf td3 reinforce actor-critic trpo ppo",
    ),
    Alias(
        "learning_rate",
        sb3="learning_rate",
        cleanrl="policy_lr q_lr",
        others="lr critic_lr actor_lr",
        algorithms="sac",
        conversion="one rate for policy, critics and temperature",
    ),
    Alias(
        "learning_rate_decay",
        cleanrl="anneal_lr",
        others="linear_schedule",
        conversion="the steps over which the rate falls to zero; CleanRL's is that of --steps",
    ),
    Alias("value_learning_rate", others="vf_lr critic_lr value_lr"),
    Alias("discount", sb3="gamma", cleanrl="gamma"),
    Alias("target_rate", sb3="tau", cleanrl="tau", others="polyak"),
    Alias(
        "target_interval",
        sb3="target_update_interval",
        cleanrl="target_network_frequency",
        others="target_update_freq",
        algorithms="dqn",
        conversion="gradient steps: theirs × gradient_steps / (rollout_length × num_envs)",
    ),
    Alias("batch_size", sb3="batch_size", cleanrl="batch_size", algorithms="dqn naf td3 sac"),
    Alias(
        "batch_size",
        sb3="batch_size",
        cleanrl="minibatch_size",
        others="mini_batch_size",
        algorithms="ppo pqn trpo",
    ),
    Alias(
        "batch_size",
        cleanrl="num_minibatches",
        others="nminibatches",
        algorithms="ppo pqn",
        conversion="samples in a minibatch: num_envs × rollout_length / num_minibatches",
    ),
    Alias(
        "capacity",
        sb3="buffer_size",
        cleanrl="buffer_size",
        others="replay_size memory_capacity",
        algorithms="dqn naf td3 sac",
    ),
    Alias(
        "warmup_steps",
        sb3="learning_starts",
        cleanrl="learning_starts",
        others="start_steps warmup",
    ),
    Alias(
        "rollout_length",
        sb3="n_steps",
        cleanrl="num_steps",
        others="rollout_steps horizon_length",
        algorithms="ppo pqn trpo actor-critic",
    ),
    Alias(
        "rollout_length",
        sb3="train_freq",
        cleanrl="train_frequency",
        others="update_every",
        algorithms="dqn naf td3 sac",
    ),
    Alias(
        "gradient_steps",
        sb3="gradient_steps",
        others="updates_per_step utd_ratio",
        algorithms="dqn naf td3 sac",
        conversion="a number of at least 1: SB3's -1 is rollout_length × num_envs",
    ),
    Alias("n_step", sb3="n_steps", cleanrl="n_step", others="multi_step", algorithms="dqn"),
    *(
        row
        for path in ("", "exploration.")
        for row in (
            Alias(
                f"{path}initial_epsilon",
                sb3="exploration_initial_eps",
                cleanrl="start_e",
                others="eps_start epsilon_start epsilon",
            ),
            Alias(
                f"{path}final_epsilon",
                sb3="exploration_final_eps",
                cleanrl="end_e",
                others="eps_end epsilon_end",
            ),
        )
    ),
    Alias(
        "exploration_steps",
        sb3="exploration_fraction",
        cleanrl="exploration_fraction",
        others="eps_decay epsilon_decay",
        conversion="environment steps: the fraction × steps",
    ),
    Alias(
        "max_gradient_norm",
        sb3="max_grad_norm",
        cleanrl="max_grad_norm",
        others="grad_clip gradient_clip",
    ),
    Alias("epochs", sb3="n_epochs", cleanrl="update_epochs", others="num_epochs noptepochs"),
    Alias("gae_lambda", sb3="gae_lambda", cleanrl="gae_lambda", others="lam lambda"),
    Alias("q_lambda", cleanrl="q_lambda", others="lambda"),
    Alias("trace_decay", others="lambda td_lambda"),
    Alias("clip", sb3="clip_range", cleanrl="clip_coef", others="clip_ratio eps_clip clip_param"),
    Alias("value_clip", sb3="clip_range_vf", others="vf_clip_param"),
    Alias(
        "value_clip",
        cleanrl="clip_vloss",
        conversion="a distance and no switch: that of clip as in CleanRL, or inf for none",
    ),
    Alias(
        "value_coefficient",
        sb3="vf_coef",
        cleanrl="vf_coef",
        others="value_coef value_loss_coef",
        conversion="SB3's value as it is; half of CleanRL's, whose loss is halved",
    ),
    Alias(
        "entropy_coefficient", sb3="ent_coef", cleanrl="ent_coef", others="entropy_coef ent_weight"
    ),
    Alias(
        "kl_target",
        sb3="target_kl",
        cleanrl="target_kl",
        algorithms="ppo",
        conversion="with --kl-stop; SB3's value as it is, CleanRL's divided by 1.5",
    ),
    Alias("kl_limit", sb3="target_kl", others="max_kl delta"),
    Alias(
        "normalize_advantage",
        sb3="normalize_advantage",
        cleanrl="norm_adv",
        others="normalize_advantages",
    ),
    Alias(
        "normalize_observation",
        sb3="norm_obs",
        others="normalize_observations normalize_obs obs_norm",
    ),
    Alias("normalize_reward", sb3="norm_reward", others="normalize_rewards"),
    Alias("normalize_observation.clip", sb3="clip_obs"),
    Alias("normalize_reward.clip", sb3="clip_reward"),
    Alias("hidden", sb3="net_arch", others="hidden_sizes hidden_size hidden_dim layers"),
    Alias("activation", sb3="activation_fn", others="act_fn", conversion="a name: tanh or relu"),
    Alias(
        "initial_std",
        sb3="log_std_init",
        others="log_std",
        algorithms="ppo trpo actor-critic reinforce",
        conversion="the exponential of SB3's",
    ),
    Alias("state_noise", sb3="use_sde", others="sde gsde"),
    Alias(
        "noise_interval",
        sb3="sde_sample_freq",
        conversion="SB3's -1, once a rollout, is rollout_length",
    ),
    Alias(
        "noise_per_rollout",
        sb3="use_sde",
        others="sde gsde",
        conversion="the noise is kept for a rollout, and does not depend on the state",
    ),
    Alias("recurrent.units", sb3="lstm_hidden_size", others="lstm_size memory_size"),
    Alias("optimizer_name", sb3="use_rms_prop", others="optimizer", conversion="adam or rmsprop"),
    Alias("policy_interval", sb3="policy_delay", cleanrl="policy_frequency", others="policy_freq"),
    Alias(
        "exploration_noise",
        sb3="action_noise",
        cleanrl="exploration_noise",
        others="expl_noise act_noise",
        conversion="the standard deviation of normal noise, in units of [-1, 1]",
    ),
    Alias("target_noise", sb3="target_policy_noise", cleanrl="policy_noise"),
    Alias("target_noise_clip", sb3="target_noise_clip", cleanrl="noise_clip"),
    Alias("num_critics", sb3="n_critics", others="critics n_qs num_qs"),
    Alias(
        "initial_temperature",
        sb3="ent_coef",
        cleanrl="alpha",
        others="entropy_coef temperature",
        algorithms="sac",
        conversion="a number fixes it with --no-learn-temperature; auto is --learn-temperature",
    ),
    Alias("learn_temperature", cleanrl="autotune", others="auto_entropy automatic_entropy_tuning"),
    Alias(
        "target_entropy_per_element",
        sb3="target_entropy",
        conversion="SB3's value / elements of the action; auto is -1",
    ),
    Alias("target_entropy_fraction", cleanrl="target_entropy_scale"),
    Alias("head.num_atoms", sb3="n_quantiles", cleanrl="n_atoms", others="num_quantiles"),
    Alias("head.v_min", cleanrl="v_min", others="vmin"),
    Alias("head.v_max", cleanrl="v_max", others="vmax"),
    Alias("double", others="double_q double_dqn"),
    Alias("dueling", others="dueling_dqn"),
    Alias(
        "replay",
        others="prioritized prioritized_replay per",
        conversion="one of uniform and prioritized",
    ),
    Alias("hindsight", others="her hindsight_replay use_her"),
    Alias("hindsight.strategy", sb3="goal_selection_strategy", others="her_strategy"),
    Alias(
        "hindsight.share",
        sb3="n_sampled_goal",
        others="her_ratio relabel_ratio replay_k future_p",
        conversion="of k sampled goals a transition, k / (k + 1)",
    ),
    Alias("replay.alpha", cleanrl="prioritized_replay_alpha", others="per_alpha priority_exponent"),
    Alias("replay.beta", cleanrl="prioritized_replay_beta", others="per_beta importance_exponent"),
    Alias("head.entropy_coefficient", sb3="ent_coef", cleanrl="ent_coef"),
    Alias("chunk", others="chunk_size pred_horizon", algorithms="bc"),
    Alias("execute", others="n_action_steps action_horizon", algorithms="bc"),
    Alias("damping", sb3="cg_damping"),
    Alias("conjugate_steps", sb3="cg_max_steps", others="cg_iters"),
    Alias("line_search_shrink", sb3="line_search_shrinking_factor", others="backtrack_coeff"),
    Alias("line_search_steps", sb3="line_search_max_iter", others="backtrack_iters"),
    Alias("value_epochs", sb3="n_critic_updates", others="train_v_iters vf_iters"),
    Alias("fisher_interval", sb3="sub_sampling_factor"),
)

WORDS = ("algorithm", "environment")  # positional fields of the run

ABSENT = {  # names without a counterpart, and the reason
    "cuda": "JAX uses the device that it finds",
    "device": "JAX uses the device that it finds",
    "gpu": "JAX uses the device that it finds",
    "torch_deterministic": "a run repeats bit for bit on one machine",
    "track": "the run directory holds metrics.csv and the learning curve",
    "tensorboard_log": "the run directory holds metrics.csv and the learning curve",
    "verbose": "progress is always shown",
    "policy": "the network follows from the spaces; see --hidden, and --torso for one of your own",
    "policy_kwargs": "each of them is a hyperparameter; see --hidden, and --torso",
}


def normalize_name(name: str) -> str:
    """Spell a flag or a name as the table does."""
    return name.lstrip("-").replace("-", "_").lower()


def alias_names(alias: Alias) -> tuple[str, ...]:
    """Return all names of an alias in other libraries."""
    return tuple(f"{alias.sb3} {alias.cleanrl} {alias.others}".split())


def applies_to(alias: Alias, cls: Any) -> bool:
    """Return whether an alias applies to an algorithm class."""
    return alias.field in all_flags(cls) and (
        not alias.algorithms or cls in map(algorithm_class, alias.algorithms.split())
    )


def aliases_for(cls: Any) -> list[Alias]:
    """Return the aliases for the run and, unless it is None, for an algorithm class."""
    return [*RUN, *(alias for alias in ALIASES if cls is not None and applies_to(alias, cls))]


def algorithms_with(field: str) -> list[str]:
    """Return the names of the algorithms with a hyperparameter, without variants."""
    return [
        name
        for name in ALGORITHMS
        if isinstance(algorithm_factory(name), type) and field in all_flags(algorithm_class(name))
    ]


def describe_aliases(field: str, rows: list[Alias]) -> str:
    """Describe a field's names in other libraries for its help; empty if they are the same."""
    matching = [row for row in rows if row.field == field]
    sb3 = [name for row in matching for name in row.sb3.split() if name != field]
    cleanrl = [name for row in matching for name in row.cleanrl.split() if name != field]
    if sb3 and sb3 == cleanrl:
        return f"SB3 and CleanRL: {', '.join(sb3)}"
    parts = [f"SB3: {', '.join(sb3)}"] if sb3 else []
    if cleanrl:
        parts.append(f"CleanRL: {', '.join(cleanrl).replace('_', '-')}")
    return "; ".join(parts)
