"""Reference solver: the same model, fitted by statsmodels' GLMGam."""

import warnings

import numpy as np

from gam_model._normal import Arrowhead, Normal, solve
from gam_model._optional import load
from gam_model._solver import Fit, Reference


def fit_glmgam(basis, block, totals, smoothing):
    """
    Fit a gaussian additive model with identity link by statsmodels.

    Parameters
    ----------
    basis : Basis
        Has the knots of each term.
    block : Block
        All rows.
    totals : Totals
        Theirs.
    smoothing : Smoothing
        Has the weight of each term's penalty.

    Returns
    -------
    Fit
        As the stream's; its deviance is that of the solution.
    """
    # Imported here, as nothing else requires statsmodels.
    load("statsmodels", 'solver="statsmodels" needs', "statsmodels")
    from statsmodels.gam.generalized_additive_model import GLMGam, penalized_wls
    from statsmodels.gam.smooth_basis import BSplines
    from statsmodels.tools.sm_exceptions import SingularMatrixWarning

    X, y, weight, _ = block
    weight = weight * totals.unit
    # GLMGam has no splines of degree 1: straight lines are passed as linear columns.
    curves = [k for k, term in enumerate(basis.terms) if term.degree > 1]
    lines = [k for k, term in enumerate(basis.terms) if term.degree == 1]
    exog = np.column_stack(
        [np.ones(len(y))]
        + [
            basis.terms[k].design(X[:, basis.terms[k].feature], "linear", None)[:, 1]
            for k in lines
        ]
    )
    terms, alpha = [basis.terms[k] for k in curves], smoothing.alpha[curves]
    bases = BSplines(
        X[:, [term.feature for term in terms]],
        df=[term.n_splines for term in terms],
        degree=[term.degree for term in terms],
        knot_kwds=[{"all_knots": term.knots} for term in terms],
    )
    model = GLMGam(y, exog=exog, smoother=bases, alpha=alpha.tolist())
    with warnings.catch_warnings():
        # Collinear columns are not an error: the minimum-norm solution predicts as well as any.
        warnings.simplefilter("ignore", SingularMatrixWarning)
        # With an identity link P-IRLS is this one step; GLMGam.fit fails on an exact fit.
        penalty = model.penal.penalty_matrix(alpha=model.alpha)
        step = penalized_wls(y, model.exog, penalty, weight)
    places = [np.arange(b.start, b.stop) for b in basis.blocks]
    order = np.argsort(np.concatenate([[0], *(places[k] for k in (*lines, *curves))]))
    design, coef = model.exog[:, order], step.params[order]
    weighed, rotation = design * weight[:, None], basis.rotation
    gram = rotation.T @ (design.T @ weighed) @ rotation
    k = len(coef)
    normal = Normal(
        gram=Arrowhead(gram, np.empty((0, k)), np.empty(0)),
        moment=rotation.T @ (weighed.T @ y),
        square=float(weight @ y**2),
        deviance=float(weight @ (y - design @ coef) ** 2),
        means=weighed.sum(axis=0) / totals.weight,
        n_rows=totals.n_rows,
    )
    reference = Reference.read(normal, basis)
    weights = 2 * smoothing.alpha[basis.owners]
    solution = solve(normal, basis.penalize(weights))
    inverse = rotation.T @ step.normalized_cov_params[np.ix_(order, order)] @ rotation
    solution = solution._replace(
        coef=rotation.T @ coef, inverse=solution.inverse._replace(dense=inverse)
    )
    return Fit(normal, basis, weights, solution, reference)
