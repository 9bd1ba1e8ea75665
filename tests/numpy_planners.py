"""The sampling planners in plain NumPy, written from the papers; the noise is given.

Each returns (mean, standard deviation, best plan, its value), or more. `score` takes plans
[sample, ...] to values [sample].
"""

import numpy as np


class Best:
    """The best plan of all that were evaluated."""

    def __init__(self):
        self.plan, self.value = None, -np.inf

    def look_at(self, plans, values):
        if values.max() > self.value:
            self.plan, self.value = plans[values.argmax()], values.max()


def evaluated(score, plans):
    return np.asarray(score(plans), float)


def refit(plans, values, elites, mean, std, smoothing):
    """(new mean, new standard deviation, the elites, best first)"""
    elite = plans[np.argsort(-values, kind="stable")[:elites]]
    spread = np.sqrt(((elite - elite.mean(0)) ** 2).mean(0))
    return (
        smoothing * mean + (1 - smoothing) * elite.mean(0),
        smoothing * std + (1 - smoothing) * spread,
        elite,
    )


def cem(score, noise, mean, std, *, elites, smoothing, given=()):
    """Rubinstein (1999): noise [iteration, sample, ...]; `given` plans are in every iteration."""
    best = Best()
    for z in noise:
        plans = np.concatenate([np.clip(mean + std * z, -1, 1), *given])
        values = evaluated(score, plans)
        mean, std, _ = refit(plans, values, elites, mean, std, smoothing)
        best.look_at(plans, values)
    return mean, std, best.plan, best.value


def icem_populations(samples, elites, iterations):
    """Pinneri et al. (2020), algorithm 1: N γ^-i, but at least twice the elites; γ is 1.25."""
    return [max(int(samples / 1.25**i), min(samples, 2 * elites)) for i in range(iterations)]


def icem(score, noise, mean, std, *, elites, smoothing, kept):
    """Pinneri et al. (2020), algorithm 1: noise, one array for each iteration; 3/10 are kept."""
    best = Best()
    for i, z in enumerate(noise):
        last = [mean[None]] if i == len(noise) - 1 else []
        plans = np.concatenate([np.clip(mean + std * z, -1, 1), kept, *last])
        values = evaluated(score, plans)
        mean, std, elite = refit(plans, values, elites, mean, std, smoothing)
        kept = elite[: max(1, round(0.3 * elites))]
        best.look_at(plans, values)
    return mean, std, best.plan, best.value, kept


def mppi_weights(values, temperature):
    """Williams et al. (2017), algorithm 2; the temperature in units of best − mean."""
    spread = values.max() - values.mean()
    shares = np.array([np.exp((value - values.max()) / (temperature * spread)) for value in values])
    return shares / shares.sum()


def mppi(score, noise, mean, std, *, temperature):
    best = Best()
    for z in noise:
        plans = np.clip(mean + std * z, -1, 1)
        values = evaluated(score, plans)
        weights = mppi_weights(values, temperature)
        mean = sum(weight * plan for weight, plan in zip(weights, plans, strict=True))
        best.look_at(plans, values)
    return mean, np.broadcast_to(std, mean.shape), best.plan, best.value


class CMAES:
    """Hansen (2016), equations (38) to (47) and table 1 (48) to (58), one number at a time in
    float64."""

    def __init__(self, mean, std, samples):
        self.n, self.samples = len(mean), samples
        self.m, self.sigma, self.C = (
            np.array(mean, float),
            1.0,
            np.diag(np.square(std).astype(float)),
        )
        self.p_sigma, self.p_c, self.g = np.zeros(self.n), np.zeros(self.n), 0
        n, mu = self.n, samples // 2
        raw = [np.log((samples + 1) / 2) - np.log(i) for i in range(1, samples + 1)]
        self.mu_eff = sum(raw[:mu]) ** 2 / sum(w**2 for w in raw[:mu])
        mu_eff_minus = sum(raw[mu:]) ** 2 / sum(w**2 for w in raw[mu:])
        self.c_1 = 2 / ((n + 1.3) ** 2 + self.mu_eff)
        self.c_mu = min(
            1 - self.c_1,
            2 * (1 / 4 + self.mu_eff + 1 / self.mu_eff - 2) / ((n + 2) ** 2 + 2 * self.mu_eff / 2),
        )
        self.c_c = (4 + self.mu_eff / n) / (n + 4 + 2 * self.mu_eff / n)
        self.c_sigma = (self.mu_eff + 2) / (n + self.mu_eff + 5)
        self.d_sigma = 1 + 2 * max(0, np.sqrt((self.mu_eff - 1) / (n + 1)) - 1) + self.c_sigma
        alphas = (
            1 + self.c_1 / self.c_mu,
            1 + 2 * mu_eff_minus / (self.mu_eff + 2),
            (1 - self.c_1 - self.c_mu) / (n * self.c_mu),
        )
        positive, negative = sum(w for w in raw if w > 0), -sum(w for w in raw if w < 0)
        self.w = [w / positive if w >= 0 else min(alphas) * w / negative for w in raw]
        self.chi = np.sqrt(n) * (1 - 1 / (4 * n) + 1 / (21 * n**2))

    def root(self, power):
        """C^power, which has one value whatever the signs of the eigenvectors."""
        values, vectors = np.linalg.eigh(self.C)
        return vectors @ np.diag(values**power) @ vectors.T

    def step(self, y):
        """After the moves y [samples, n], best first."""
        n, whiten = self.n, self.root(-0.5)
        mean_move = sum(max(w, 0) * one for w, one in zip(self.w, y, strict=True))
        self.m = self.m + self.sigma * mean_move
        self.p_sigma = (1 - self.c_sigma) * self.p_sigma + np.sqrt(
            self.c_sigma * (2 - self.c_sigma) * self.mu_eff
        ) * whiten @ mean_move
        length = np.sqrt((self.p_sigma**2).sum())
        self.sigma = self.sigma * np.exp(self.c_sigma / self.d_sigma * (length / self.chi - 1))
        steady = (
            length / np.sqrt(1 - (1 - self.c_sigma) ** (2 * (self.g + 1)))
            < (1.4 + 2 / (n + 1)) * self.chi
        )
        h = 1.0 if steady else 0.0
        self.p_c = (1 - self.c_c) * self.p_c + h * np.sqrt(
            self.c_c * (2 - self.c_c) * self.mu_eff
        ) * mean_move
        total = (
            1 + self.c_1 * (1 - h) * self.c_c * (2 - self.c_c) - self.c_1 - self.c_mu * sum(self.w)
        ) * self.C
        total = total + self.c_1 * np.outer(self.p_c, self.p_c)
        for w, one in zip(self.w, y, strict=True):
            w = w if w >= 0 else w * n / ((whiten @ one) ** 2).sum()
            total = total + self.c_mu * w * np.outer(one, one)
        self.C, self.g = total, self.g + 1
        return h


def mirrored(x):
    """x in [-1, 1], reflected at both ends, by going back and forth."""
    x = np.array(x, float)
    while (abs(x) > 1).any():
        x = np.where(x > 1, 2 - x, np.where(x < -1, -2 - x, x))
    return x


def cma_es(score, noise, mean, std, eigh):
    """Hansen (2016): noise [generation, sample, n]; `eigh` chooses the signs of eigenvectors."""
    search, best = CMAES(mean.ravel(), np.full(mean.size, std), noise.shape[1]), Best()
    for z in noise:
        variances, vectors = eigh(search.C)
        y = z * np.sqrt(variances) @ vectors.T
        plans = mirrored(search.m + search.sigma * y).reshape(-1, *mean.shape)
        values = evaluated(score, plans)
        search.step(y[np.argsort(-values, kind="stable")])
        best.look_at(plans, values)
    spread = search.sigma * np.sqrt(np.diag(search.C)).reshape(mean.shape)
    return mirrored(search.m).reshape(mean.shape), spread, best.plan, best.value
