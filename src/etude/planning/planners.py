"""The planners by what they need, and what each of them fits.

                        needs               best action of a Q    MPC    `etude plan`
    RandomShooting      a score             yes                   yes    yes
    CEM                 a score             yes                   yes    yes
    ICEM                a score             yes                   yes    yes
    MPPI                a score             yes                   yes    yes
    CMAES               a score             yes                   yes    yes
    ILQR                derivatives         no                    (1)    yes
    DDP                 derivatives         no                    (1)    yes
    MultipleShooting    derivatives         no                    (1)    yes
    GradientShooting    derivatives         no                    (1)    yes
    Collocation         continuous time     no                    no     yes
    MCTS                discrete actions    no                    no     games

(1) on a model whose state is a vector of floats and whose episodes do not end. For the best action
of a Q function, a plan is of one action. Collocation solves with SciPy, seconds for a plan. PETS
plans on a learned model with what fits MPC, and with MCTS for Discrete actions.
"""

from etude.planning.sampling.cem import CEM
from etude.planning.sampling.cma_es import CMAES
from etude.planning.sampling.icem import ICEM
from etude.planning.sampling.mppi import MPPI
from etude.planning.sampling.random_shooting import RandomShooting
from etude.planning.trajectory.optimizers import (
    DDP,
    ILQR,
    Collocation,
    GradientShooting,
    MultipleShooting,
)

SamplingPlanner = RandomShooting | CEM | ICEM | MPPI | CMAES  # of a score
GradientPlanner = ILQR | DDP | MultipleShooting | GradientShooting  # of derivatives, compiled
AnyPlanner = SamplingPlanner | GradientPlanner | Collocation
