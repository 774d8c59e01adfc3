"""
Streamed penalised least squares, and penalised iteratively reweighted least squares on top of it.

    minimise  sum_i w_i d(y_i, mu_i) + sum_j lambda_j b_j' S_j b_j
    with      g(mu_i) = offset_i + b_0 + sum_j B_j(x_ij) b_j

Rows are reduced to sums chunk by chunk, so memory does not grow with their number.
"""

from typing import NamedTuple

import numpy as np
from scipy.linalg import eigh
from scipy.sparse import csr_array

from gam_model._basis import Basis
from gam_model._normal import (
    Arrowhead,
    Normal,
    Solution,
    expand,
    residual_square,
    satisfy,
    solve,
)
from gam_model._progress import report
from gam_model._rows import CHUNK
from gam_model._smoothing import estimate_scale, start_weights

_ENOUGH = 1e-4  # squared standard errors that the fit still moves when smoothing has settled
_FALL_BACK_SOON = 4
_STALLED = 3  # consecutive steps without a decrease, after which the iteration stops
_HALVINGS = 40
# Of binned rows: the error that is left at the end, and what a step may be of the one before.
_REFINED, _SLOW = 1e-9, 0.3
_ROUGH, _FINE = 1e-2, 1e-8  # how far their smoothing is searched at first, and then
_NOISE = 1e-3  # of the restricted likelihood: a share that doesn't count as worse
_EQUAL = 3e-3  # of twice its logarithm: a change with which smoothing has settled
_DAMPED_AFTER = 10  # steps after which updates of the smoothing parameters are damped
_FALL_BACK_AT = 30  # step at which they return to the best restricted likelihood
# Separation: what the rows tell of a direction, as a share of what they told at the start, and as
# the precision of a slope that has standard deviation 1 over the rows.
_VANISHED = 0.05, 0.04


def accumulate(rows, family, link, coef):
    """
    Sum up the normal equations of one P-IRLS step.

    w = weight / (g'(mu)^2 V(mu)),  z = eta - offset + g'(mu) (y - mu)

    Parameters
    ----------
    rows : Rows or BinnedRows
        Passed over once.
    family : Family
        Distribution of the response.
    link : Link
        Its link.
    coef : ndarray of shape (n_coef,)
        Where to expand.

    Returns
    -------
    Normal
        The sums over all rows.

    References
    ----------
    Wood (2017), "Generalized Additive Models", 2nd edition, section 6.1.1.
    """
    if not rows.exact:
        return rows.accumulate(family, link, coef)
    basis = rows.basis
    coef, dense = basis.rotate(coef), basis.n_dense
    # Sums are by wide functions, then marked ones, then the levels of the term that stands last.
    # One index more is for functions left out, and for no mark.
    order = np.concatenate([basis.wide, basis.marked, np.arange(dense, len(coef))])
    n_wide, n_marked, n_levels = len(basis.wide), len(basis.marked), len(coef) - dense
    full, effects = np.append(coef[basis.wide], 0.0), coef[dense:]
    marked = np.append(coef[basis.marked], 0.0)
    gram, met = np.zeros((n_wide, n_wide)), np.zeros((n_marked, n_wide))
    shared = np.zeros((n_marked, n_marked))
    moments, means = np.zeros(len(coef)), np.zeros(len(coef))
    cross, own = np.zeros((n_levels, dense)), np.zeros(n_levels)
    square, deviance, design = 0.0, 0.0, np.empty((CHUNK, n_wide + 1))
    for columns, values, marks, levels, y, weight, offset in rows:
        eta = offset + full[0] + np.einsum("ij,ij->i", full[columns], values)
        if n_marked:
            eta += marked[marks].sum(axis=1)
        if levels is not None:
            eta += effects[levels]
        working, residual, lost = expand(family, link, eta, y, weight)
        deviance += lost
        root = np.sqrt(working)
        z = root * (eta - offset + residual)
        B = design[: len(y)]
        B.fill(0.0)
        B[:, 0] = root
        np.put_along_axis(B, columns, values * root[:, None], axis=1)
        B = B[:, :n_wide]
        gram += B.T @ B
        moments[:n_wide] += B.T @ z
        square += float(z @ z)
        prior = values * weight[:, None]
        means[:n_wide] += np.bincount(columns.ravel(), prior.ravel(), n_wide + 1)[:n_wide]
        if n_marked:
            at = slice(n_wide, dense)
            by_mark = _sort_rows(marks, root, n_marked + 1)
            met += (by_mark @ B)[:-1]
            shared += (by_mark @ by_mark.T).toarray()[:-1, :-1]
            moments[at] += (by_mark @ z)[:-1]
            prior = np.repeat(weight, marks.shape[1])
            means[at] += np.bincount(marks.ravel(), prior, n_marked + 1)[:-1]
        if levels is not None:
            here, which = np.unique(levels, return_inverse=True)
            by_level = _sort_rows(which[:, None], root, len(here))
            cross[here, :n_wide] += by_level @ B
            if n_marked:
                cross[here, n_wide:] += (by_level @ by_mark.T).toarray()[:, :-1]
            own[here] += np.bincount(which, root * root)
            moments[dense + here] += by_level @ z
            means[dense + here] += np.bincount(which, weight)
    rotation = basis.rotation[np.ix_(basis.wide, basis.wide)]
    met = met @ rotation
    total = np.block([[rotation.T @ gram @ rotation, met.T], [met, shared]])
    cross[:, :n_wide] = cross[:, :n_wide] @ rotation
    moments[:n_wide] = rotation.T @ moments[:n_wide]
    if n_marked:  # back to the order of the coefficients
        back = np.argsort(order)
        total, cross = total[np.ix_(back[:dense], back[:dense])], cross[:, back[:dense]]
        moments, means = moments[back], means[back]
    gram = Arrowhead(total, cross, own)
    return Normal(gram, moments, square, deviance, means / rows.weight, rows.n_rows)


def _sort_rows(marks, root, size):
    """Return the rows' indicators, times `root`, as a sparse matrix of shape (size, n_rows)."""
    n, m = marks.shape
    data, starts = np.repeat(root, m), np.arange(0, n * m + 1, m)
    return csr_array((data, marks.ravel(), starts), shape=(n, size)).T


class Reference(NamedTuple):
    """
    Information of the rows at the constant model, the reference for that of later steps.

    Parameters
    ----------
    n_rows : float
        Number of rows.
    weights : ndarray of shape (n_penalties,)
        Those at which penalty and data count alike.
    total : float
        Sum of the working weights.
    variances : ndarray of shape (n_lines,)
        Of the straight lines over the rows.
    whitening : ndarray of shape (n_lines, rank)
        Combinations of lines, uncorrelated and of variance 1 / total.
    """

    n_rows: float
    weights: np.ndarray
    total: float
    variances: np.ndarray
    whitening: np.ndarray

    @classmethod
    def read(cls, normal, basis):
        """Compute it from the normal equations at the constant model."""
        total, lines = normal.gram.dense[0, 0], _centre_lines(normal, basis)
        variances = lines.diagonal() / total
        unit = 1 / np.sqrt(np.where(variances > 0, variances, 1.0) * total)
        values, vectors = eigh(lines * unit * unit[:, None])
        there = values > 1e-10 * len(values)
        whitening = unit[:, None] * vectors[:, there] / np.sqrt(values[there])
        weights = start_weights(normal, basis)
        return cls(normal.n_rows, weights, total, variances, whitening)

    def scale(self, factor):
        """Return the reference for `factor` times as many rows."""
        n_rows, weights, total = (
            factor * value for value in (self.n_rows, self.weights, self.total)
        )
        return Reference(n_rows, weights, total, self.variances, self.whitening / factor**0.5)

    def find_vanished(self, normal, basis, scale):
        """
        Look for a direction about which the rows no longer carry information.

        Parameters
        ----------
        normal : Normal
            The equations as they are now.
        basis : Basis
            Their basis, without a penalty on the lines.
        scale : float
            The scale, or an estimate.

        Returns
        -------
        ndarray of shape (n_lines,) or None
            Coefficient of each line in that direction, per standard deviation.
        """
        if not self.whitening.size:
            return None
        now = self.whitening.T @ _centre_lines(normal, basis) @ self.whitening
        values, vectors = eigh(now, subset_by_index=[0, 0])
        left, precision = _VANISHED
        if values[0] > left or values[0] * self.total > precision * scale:
            return None
        return self.whitening @ vectors[:, 0] * np.sqrt(self.variances)


def _centre_lines(normal, basis):
    """Return the lines' block of the equations, adjusted for the intercept."""
    dense, lines = normal.gram.dense, basis.lines
    shared = dense[0, lines]
    return dense[np.ix_(lines, lines)] - np.outer(shared, shared) / dense[0, 0]


def _find_step(normal, penalty, coef):
    """
    Return the step from given coefficients to those that solve the equations.

    It is 0 in directions of which the equations tell too little, and so lowers the penalised
    deviance; the solution itself is 0 there.
    """
    left = normal.moment - normal.gram.dot(coef) - penalty * coef
    return solve(normal._replace(moment=left), penalty).coef


class Fit(NamedTuple):
    """
    Where the iteration ended.

    Parameters
    ----------
    normal : Normal
        The equations, and the deviance, at the coefficients that were found.
    basis : Basis
        With a penalty on the straight lines, if they were held.
    weights : ndarray of shape (n_penalties,)
        lambda of each penalty of this basis.
    solution : Solution
        The coefficients, and the inverse at them.
    reference : Reference
        What the rows told at the constant.
    settled : bool
        Whether the iteration came to its end.
    vanished : ndarray of shape (n_lines,) or None
        If the likelihood has no maximum, the direction in which it has none, as
        `Reference.find_vanished` tells it.
    """

    normal: Normal
    basis: Basis
    weights: np.ndarray
    solution: Solution
    reference: Reference
    settled: bool = True
    vanished: np.ndarray | None = None


class Start(NamedTuple):
    """
    Where the iteration starts.

    Parameters
    ----------
    constant : ndarray of shape (n_coef,)
        The model that is the same for all rows, but for their offsets.
    deviance : float
        Its deviance.
    guess : Fit or None
        A fit of some of the rows.
    factor : float
        How many times as many there are in all.
    """

    constant: np.ndarray
    deviance: float
    guess: Fit | None = None
    factor: float = 1.0


def fit_linear(rows, family, link, smoothing, start, hold=0.0):
    """
    Fit where one step is all: the gaussian family with identity link.

    Parameters
    ----------
    rows, family, link, smoothing, start, hold
        As in `iterate`.

    Returns
    -------
    Fit
        Its equations are those at the constant, as the working response is the response; the
        deviance is that of the solution.
    """
    normal = accumulate(rows, family, link, start.constant)
    reference = Reference.read(normal, rows.basis)
    basis = rows.basis.hold_lines(reference.variances) if hold else rows.basis
    bounds = smoothing.bound(reference, basis, hold)
    weights = smoothing.choose(normal, basis, bounds, None, None if rows.exact else _ROUGH)
    solution = solve(normal, basis.penalize(weights))
    if not rows.exact:
        found = weights, solution.coef
        normal, weights, solution = _refine(rows, family, link, smoothing, basis, bounds, *found)
    normal = normal._replace(deviance=residual_square(normal, solution.coef))
    return Fit(normal, basis, weights, solution, reference)


def _refine(rows, family, link, smoothing, basis, bounds, weights, coef):
    """
    Bring weights and coefficients that bins have found to those of the rows.

    Returns the equations, the weights and the solution.
    """
    before = None
    while True:
        normal = accumulate(rows, family, link, coef)
        if before is None or rows.exact:
            weights = smoothing.choose(normal, basis, bounds, weights, _FINE)
        penalty = basis.penalize(weights)
        moved = _find_step(normal, penalty, coef)
        coef = coef + moved
        size = _measure(normal, penalty, moved, coef)
        left = size * min(size / before, 1.0) if before else size
        if rows.exact or not left > _REFINED:
            return normal, weights, solve(normal, penalty)._replace(coef=coef)
        if before and size > _SLOW * before:
            rows = rows.spread_out()
        before = size


def _measure(normal, penalty, moved, coef):
    """Return the size of a step, relative to the coefficients."""
    size = normal.gram.diagonal() + penalty
    return float(np.sqrt(size @ moved**2 / max(size @ coef**2, np.finfo(float).tiny)))


def iterate(rows, family, link, smoothing, start, hold=0.0, tol=1e-10, max_iter=100):
    """
    Fit by penalised iteratively reweighted least squares.

    In each step the smoothing parameters follow the working model, and the coefficients then
    lower the penalised deviance under them; so the deviance never ends above that of the constant.
    Where the two chase one another, and the restricted likelihood gets worse or does not settle,
    the smoothing parameters follow ever more slowly, and at last go back to where it was best.
    Then they are kept, and the coefficients brought to the minimum.

    Where the likelihood has no maximum, as with classes that a straight line separates, the
    slopes of all straight lines get a normal prior, in units of the lines' standard deviation over
    the rows. Its variance is chosen as the smoothing parameters are.

    Parameters
    ----------
    rows : Rows
        Passed over once a step.
    family : Family
        Distribution of the response.
    link : Link
        Its link.
    smoothing : Smoothing
        Chooses the weights of the penalties.
    start : Start
        Where to start.
    hold : float, default=0.0
        How strong the prior of the slopes may be in any case, as in `Smoothing.bound`; 0 for
        none.
    tol : float, default=1e-10
        Change of the coefficients, relative to themselves, that ends the iteration.
    max_iter : int, default=100
        Number of steps at most.

    Returns
    -------
    Fit

    References
    ----------
    Wood, Goude and Shaw (2015), "Generalized additive models for large data sets", Journal of the
    Royal Statistical Society C 64: the performance iteration.
    Gelman, Jakulin, Pittau and Su (2008), "A weakly informative default prior distribution for
    logistic and other regression models", Annals of Applied Statistics 2: priors on slopes, in
    units of standard deviations.
    """
    constant = None
    if start.guess is not None:
        coef, weights = start.guess.solution.coef, start.guess.weights * start.factor
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            normal = accumulate(rows, family, link, coef)
        reference = start.guess.reference.scale(start.factor)
        if not normal.is_finite:
            start = start._replace(guess=None)  # of rows that it has not seen, some are far off
    if start.guess is None:
        coef, weights = start.constant, None
        normal = constant = accumulate(rows, family, link, coef)
        reference = Reference.read(normal, rows.basis)
    basis = rows.basis.hold_lines(reference.variances) if hold else rows.basis
    bounds = smoothing.bound(reference, basis, hold)
    follow, previous = (0.0 if smoothing.given and not hold else 1.0), np.inf
    best, stalled, last = None, 0, np.inf
    # With fewer rows than coefficients, later steps only follow rounding errors.
    fall_back_at = _FALL_BACK_AT if normal.n_rows > len(coef) else _FALL_BACK_SOON
    if not follow:
        weights = bounds[0]
    for step in range(max_iter):
        report(step=step + 1, deviance=normal.deviance)
        if follow:
            wanted = smoothing.choose(normal, basis, bounds, weights)
            goal = solve(normal, basis.penalize(wanted))
            moved = goal.coef - coef
            scale = family.scale or estimate_scale(normal, goal, basis.penalize(wanted))
            bend = moved @ normal.gram.dot(moved) + basis.penalize(wanted) @ moved**2
            if weights is not None:
                wanted = weights * (wanted / weights) ** follow
            old, weights = weights, wanted
            if bend <= _ENOUGH * scale:
                follow = 0.0
            elif step >= fall_back_at:  # between nearly equivalent smoothing parameters
                follow, (_, weights, coef, normal) = 0.0, best
        penalty = basis.penalize(weights)
        before = normal.deviance + penalty @ coef**2
        ceiling = start.deviance * (1 + 1e-10)
        if not before <= ceiling:  # start from the closest coefficients under this penalty
            coef = solve(normal._replace(moment=normal.gram.dot(coef)), penalty).coef
            with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
                normal = accumulate(rows, family, link, coef)
            before = normal.deviance + penalty @ coef**2
        if not before <= ceiling:
            constant = constant or accumulate(rows, family, link, start.constant)
            coef, normal, before = start.constant, constant, constant.deviance
        moved = _find_step(normal, penalty, coef)
        for halving in range(_HALVINGS):
            trial = coef + moved / 2**halving
            with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
                found = accumulate(rows, family, link, trial)
                after = found.deviance + penalty @ trial**2
            if found.is_finite and after <= before + 1e-10 * abs(before):
                break
            if follow and old is not None:  # the penalties moved too far: go halfway back
                weights = np.sqrt(weights * old)
                penalty = basis.penalize(weights)
                before = normal.deviance + penalty @ coef**2
                moved = _find_step(normal, penalty, coef)
        else:
            trial, found, after = coef, normal, before
        size = _measure(normal, penalty, trial - coef, trial)
        # The sums may be less precise than tol requires.
        at_rest = before - after <= 1e-14 * abs(before) and size > 0.5 * last
        stalled = stalled + 1 if at_rest else 0
        done = not follow and (size <= tol or stalled > _STALLED)
        coef, normal = trial, found
        if not (follow or done or rows.exact) and size > _SLOW * last:
            rows = rows.spread_out()
            reference = Reference.read(accumulate(rows, family, link, start.constant), rows.basis)
            normal = accumulate(rows, family, link, coef)
        last = size
        if done:
            break
        solution = solve(normal, penalty)
        scale = family.scale or estimate_scale(normal, solution, penalty)
        if hold < 1:
            vanished = reference.find_vanished(normal, rows.basis, scale)
            if vanished is not None:
                start = start._replace(guess=None)
                held = iterate(rows, family, link, smoothing, start, 1.0, tol, max_iter)
                return held._replace(vanished=vanished)
        if follow:
            # The restricted likelihood at the current smoothing parameters and coefficients.
            merit = solution.log_det - basis.log_det(weights)[0]
            merit += after / scale if family.scale else normal.n_rows * np.log(after)
            follow *= 0.5 if merit > previous + _NOISE * abs(previous) else 2.0
            follow = min(follow, 1.0, _DAMPED_AFTER / (step + 1))
            if abs(merit - previous) <= _EQUAL:
                follow = 0.0
            previous = merit
            if best is None or merit < best[0]:
                best = merit, weights, coef, normal
    solution = solve(normal, basis.penalize(weights))._replace(coef=coef)
    return Fit(normal, basis, weights, solution, reference, done)


def constrain(fit, rows, family, link, tol=1e-9, max_iter=100):
    """
    Move a fit to the least penalised deviance that its curves' shapes allow.

    The smoothing parameters stay as they are, chosen without the constraints.

    Parameters
    ----------
    fit : Fit
        Where the iteration ended.
    rows : Rows
        Passed over once a step, unless one step solves it.
    family : Family
        Distribution of the response.
    link : Link
        Its link.
    tol : float, default=1e-9
        Decrease of the penalised deviance, relative to itself, that ends the iteration.
    max_iter : int, default=100
        Number of steps at most.

    Returns
    -------
    Fit
        The same, if no curve has a shape to keep.
    """
    constraints, penalty = fit.basis.constraints(), fit.basis.penalize(fit.weights)
    if not len(constraints):
        return fit
    coef = satisfy(fit.solution, constraints)
    if link is family.one_step:
        normal = fit.normal._replace(deviance=residual_square(fit.normal, coef))
        return fit._replace(normal=normal, solution=fit.solution._replace(coef=coef))
    normal = accumulate(rows, family, link, coef)
    for step in range(max_iter):
        report(**{"step within shapes": step + 1})
        solution, before = solve(normal, penalty), normal.deviance + penalty @ coef**2
        moved = satisfy(solution, constraints) - coef
        for halving in range(_HALVINGS):
            trial = coef + moved / 2**halving  # between two points within the constraints
            with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
                found = accumulate(rows, family, link, trial)
                after = found.deviance + penalty @ trial**2
            if found.is_finite and after <= before:
                coef, normal = trial, found
                break
        else:
            after = before
        if before - after <= tol * abs(before):
            break
    solution = solve(normal, penalty)._replace(coef=coef)
    return fit._replace(
        normal=normal, solution=solution, settled=fit.settled and step + 1 < max_iter
    )
