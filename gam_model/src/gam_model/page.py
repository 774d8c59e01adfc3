"""A page for the people who decide: a model in one HTML file that answers without Python."""

import base64
import hashlib
import json
import re
import warnings
from pathlib import Path

import numpy as np

from gam_model import __version__
from gam_model._functions import SplineBasis
from gam_model._links import LINKS
from gam_model._model import AdditiveModel
from gam_model._terms import LevelTerm

__all__ = ["write_page"]

_FOLDER = Path(__file__).with_name("_page")
# In this order, as one script: each file uses only those before it when it is loaded.
_SCRIPTS = ("model", "dates", "recourse", "rows", "view", "form", "reasons", "curves", "changes")
_SCRIPTS += ("table", "record", "app")
_LANGUAGES = ("en", "de")
_BINS = 24
_MOST_COEFS = 500  # beyond it, the covariance would be larger than all the rest
_MOST_BYTES = 500_000  # of a page that is easily sent
# What model.js reads.
_VERSION, _KINDS = 4, ("smooth", "levels")
_LINKS = ("identity", "log", "inverse", "sqrt", "logit", "probit", "cloglog")
_WORDS = {
    "title": str,
    "about": str,
    "outcome": str,
    "unit": str,
    "good": ("high", "low"),
    "threshold": float,
    "labels": list,
    "language": _LANGUAGES,
    "features": dict,
}
_FEATURE_WORDS = {
    "label": str,
    "description": str,
    "unit": str,
    "change": ("any", "up", "down", "never"),
    "reason": str,
    "levels": dict,
}


def write_page(model, path, X=None, **words):
    """
    Write a page that answers, explains and compares cases, as one HTML file.

    Parameters
    ----------
    model : GAMRegressor, GAMClassifier, AdditiveModel, str or Path
        A fitted estimator; or a frozen model, or the file that it was saved to, which knows no
        intervals.
    path : str or Path
        The file to write.
    X : array-like of shape (n_samples, n_features), optional
        Training rows, or a sample of them, whose histograms and medians the page shows; as the
        estimator's `fit` reads them, or numbers as the frozen model does. No row is in the page.
    **words
        What the page says, all of it optional:

        - title, about : what it is called, and what it is for
        - outcome, unit : name and unit of the answer
        - good : "high" or "low", which answers are good for the person; the page then gives the
          reasons that count against the person
        - threshold : the mean response from which on the decision is another, with
          labels : its two names, below the threshold and from it on
        - language : "en" or "de", to begin with
        - features : a dict by name of what the page says of a feature, a dict with the keys label,
          description, unit, levels (a dict of labels), reason (a sentence for letters, in which
          {value} stands for the value), and change, "any", "up", "down" or "never": how
          people may change it

    Raises
    ------
    ValueError
        If the words are not these, name a feature that the model does not have, the threshold
        is none that the response can cross, or the page cannot show such a model.

    Warns
    -----
    UserWarning
        If the page has no intervals, as the model has more than 500 coefficients; if the model was
        fitted with an offset, which counts as 0 on the page; and if the file exceeds 500 kB.

    Notes
    -----
    The file holds all that it needs, refers to nothing outside itself and sends nothing. The hash
    that it names is the SHA-256 of the model's file as `AdditiveModel.save` writes it.

    Examples
    --------
    >>> import tempfile
    >>> from gam_model import GAMRegressor
    >>> x = np.linspace(0, 6, 50)
    >>> path = Path(tempfile.mkdtemp(), "page.html")
    >>> write_page(GAMRegressor().fit(x[:, None], np.sin(x)), path, title="Sine")
    >>> "<script" in path.read_text(encoding="utf-8")
    True
    """
    frozen, text, estimator = _read_model(model)
    described = json.loads(text)
    _check_shown(described)
    words = _check_words(words, frozen)
    rows = None
    if X is not None:
        rows = frozen._as_rows(X) if estimator is None else estimator._validate(X)
    content = {
        "model": described,
        "sha256": hashlib.sha256(text.encode()).hexdigest(),
        "library": f"gam_model {__version__}",
        "words": words,
        "data": _describe_data(frozen, rows),
        "limits": _find_limits(estimator),
        "errors": None if estimator is None else _describe_errors(estimator),
        "texts": {name: json.loads(_load(f"{name}.json")) for name in _LANGUAGES},
    }
    page = _assemble(content).encode()
    Path(path).write_bytes(page)
    if len(page) > _MOST_BYTES:
        warnings.warn(
            f"{path} has {len(page) / 1000:,.0f} kB, more than the {_MOST_BYTES // 1000} kB that "
            "are easily sent; most of it is the model's levels and coefficients",
            stacklevel=2,
        )


def _find_limits(estimator):
    """Return the keys of the texts that say what the page cannot show; warn of it, too."""
    if estimator is None:
        return ["noIntervalsSaved", "offsetUnknown"]  # the file names neither
    limits = []
    if (n_coefs := _count_coefs(estimator)) > _MOST_COEFS:
        limits.append("noIntervalsLarge")
        warnings.warn(
            f"the page shows no intervals, as the model has {n_coefs:,} coefficients and a page "
            f"has room for the covariance of {_MOST_COEFS}; fewer levels or a smaller df help",
            stacklevel=3,
        )
    if estimator._has_offset:
        limits.append("offsetZero")
        warnings.warn(
            "the model was fitted with an offset, which counts as 0 on the page, as it says",
            stacklevel=3,
        )
    return limits


def _count_coefs(estimator):
    return 1 + sum(term.size for term in estimator._posterior.basis.terms)


def _check_shown(content):
    """Refuse a model that the page's script cannot read."""
    kinds = [term["kind"] for term in content["terms"]]
    unknown = [kind for kind in kinds if kind not in _KINDS]
    if content["version"] > _VERSION:
        what = f"version {content['version']} of the format"
    elif unknown:
        what = f"a term of kind {unknown[0]!r}"
    elif content["link"] not in _LINKS:
        what = f"link={content['link']!r}"
    else:
        return
    raise ValueError(f"a page cannot show this model: it has {what}, which the page cannot read")


def _read_model(model):
    """Return the frozen model, its file's text, and the estimator, if there is one."""
    if isinstance(model, (str, Path)):
        return AdditiveModel.load(model), Path(model).read_bytes().decode(), None
    frozen = model if isinstance(model, AdditiveModel) else getattr(model, "terms_", None)
    if not isinstance(frozen, AdditiveModel):
        raise ValueError(
            f"{type(model).__name__} is not a model that a page can show; give a fitted "
            "GAMRegressor or GAMClassifier, an AdditiveModel, or the file that it was saved to"
        )
    return frozen, frozen.to_json(), None if frozen is model else model


# ---------------------------------------------------------------- words


def _check_words(words, model):
    words = {key: value for key, value in words.items() if value is not None}
    _check_keys("the page's words", words, _WORDS)
    for name, said in words.get("features", {}).items():
        if name not in model.features:
            raise ValueError(
                f"the page's words name the feature {name!r}; the model has "
                + ", ".join(map(repr, model.features))
            )
        if not isinstance(said, dict):
            raise ValueError(f"the words of feature {name!r} must be a dict, got {said!r}")
        _check_keys(f"the words of feature {name!r}", said, _FEATURE_WORDS)
        known = set(map(str, model.levels.get(name, ())))
        unknown = [level for level in said.get("levels", {}) if str(level) not in known]
        if unknown:
            raise ValueError(f"feature {name!r} has no level {unknown[0]!r} to be labelled")
    labels = words.get("labels")
    if labels is not None and (len(labels) != 2 or not all(isinstance(x, str) for x in labels)):
        raise ValueError(
            "labels must be two texts, for answers below the threshold and from it on, "
            f"got labels={labels!r}"
        )
    if "threshold" in words:
        low, high = LINKS[model.link].means
        if not low < words["threshold"] < high:
            raise ValueError(
                f"threshold must lie between {low:g} and {high:g}, "
                f"got threshold={words['threshold']!r}"
            )
    defaults = {"title": "What the model answers", "outcome": "Answer", "language": "en"}
    return defaults | words


def _check_keys(what, words, known):
    for key, value in words.items():
        if key not in known:
            raise ValueError(f"{what} have the key {key!r}; known are {', '.join(known)}")
        wanted = known[key]
        if isinstance(wanted, tuple):
            fits, wish = value in wanted, f"one of {wanted}"
        elif wanted is float:
            fits = isinstance(value, (int, float)) and not isinstance(value, bool)
            wish = "a number"
        elif wanted is list:
            fits, wish = isinstance(value, (list, tuple)), "a list"
        else:
            fits, wish = isinstance(value, wanted), {str: "a text", dict: "a dict"}[wanted]
        if not fits:
            raise ValueError(f"{what}: {key} must be {wish}, got {key}={value!r}")


# ---------------------------------------------------------------- data


def _describe_data(model, rows):
    """Return by feature a typical value, whether values are whole, and a histogram."""
    described = [{"typical": 0} for _ in model.features]
    for term in model.terms:
        x = None if rows is None else rows[:, term.feature]
        x = None if x is None else x[~np.isnan(x)]
        if x is not None and not len(x):
            x = None
        describe = _describe_levels if isinstance(term, LevelTerm) else _describe_numbers
        described[term.feature] = describe(term, x)
    return described


def _describe_levels(term, codes):
    if codes is None:
        return {"typical": int(np.argmin(np.abs(term.effects)))}
    counts = np.bincount(codes[codes >= 0].astype(int), minlength=len(term.levels))
    return {"typical": int(counts.argmax())}


def _describe_numbers(term, x):
    low, high = term.range
    if x is None:
        inner = term.knots[len(term.knots) // 2]
        middle = float(inner if term.warp is None else term.warp.invert(inner))
        middle = float(f"{min(max(middle, low), high):.3g}")
        return {"typical": min(max(middle, low), high), "whole": False}
    whole = bool((x == np.rint(x)).all())
    # A value between two rows, rounded, so that it is no row's own.
    median = float(np.median(x))
    rounded = float(f"{median:.3g}")
    typical = float(np.rint(median)) if whole else min(max(rounded, low), high)
    scaled, ends = x, (low, high)
    if term.warp is not None:
        scaled, ends = term.warp(x), tuple(term.warp(np.array([low, high])))
    counts, _ = np.histogram(np.clip(scaled, *ends), _BINS, range=ends)
    shares = [round(float(share), 3) for share in counts / counts.sum()]
    return {"typical": typical, "whole": whole, "histogram": shares}


def _describe_errors(estimator):
    """
    Return the covariance of the intercept and of the frozen model's coefficients.

    A frozen coefficient is one of the estimator's less the mean of its term, as B-splines sum to
    one. These covariances keep their digits where those of uncentred functions would cancel.
    """
    if _count_coefs(estimator) > _MOST_COEFS:
        return None
    posterior = estimator._posterior
    basis, means = posterior.basis, posterior.means
    blocks = [means[None, :]]
    for term, block in zip(basis.terms, basis.blocks, strict=True):
        own = np.zeros((term.size, len(means)))
        own[term.left_out :, block] = np.eye(term.size - term.left_out)
        if (
            isinstance(term, SplineBasis) and not term.left_out
        ):  # constant apart from missing cells
            own = np.concatenate([np.zeros((2, len(means))), own])
        # The effects of atoms are added to the curve, which is centred already.
        centred = np.ones(len(own), dtype=bool)
        if isinstance(term, SplineBasis):
            first = len(own) - term.missing - term.n_marks
            centred[first : first + term.n_marks] = False
        own[centred, block] -= means[block]
        if isinstance(term, SplineBasis):
            own = own[term.repeats]
        blocks.append(own)
    frozen = np.concatenate(blocks)
    covariance = frozen @ posterior.covariance.fill() @ frozen.T
    deviations = np.sqrt(np.maximum(covariance.diagonal(), 0.0))
    size = np.where(deviations > 0, deviations, 1.0)
    correlations = np.clip(covariance / np.outer(size, size), -1, 1)
    packed = np.rint(correlations[np.tril_indices(len(size), -1)] * 32767).astype("<i2")
    return {
        "deviations": [float(f"{deviation:.7g}") for deviation in deviations],
        "correlations": base64.b64encode(packed.tobytes()).decode(),
    }


# ---------------------------------------------------------------- the file


def _load(name):
    return (_FOLDER / name).read_text(encoding="utf-8")


def _assemble(content):
    """Return the page, whose security policy allows its own script and style, by their hashes."""
    style = _load("page.css")
    # Without an endpoint nothing is sent, and nothing that could send is in the page.
    asks = "endpoint" in content
    names = (*_SCRIPTS[:-1], *(["endpoint"] if asks else []), _SCRIPTS[-1])
    script = "".join(_load(f"{name}.js").replace('"use strict";\n', "") for name in names)
    script = f'"use strict";\n{script}'
    policy = (
        f"default-src 'none'; script-src '{_hash(script)}'; style-src '{_hash(style)}'; "
        "base-uri 'none'; form-action 'none'; require-trusted-types-for 'script'; trusted-types"
        + ("; connect-src 'self'" if asks else "")
    )
    # In a script, "<" could end it, or begin a comment.
    data = json.dumps(content, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    parts = {"policy": policy, "style": style, "script": script}
    parts["content"] = data.replace("<", "\\u003c")
    return re.sub(
        r"{(policy|style|content|script)}", lambda part: parts[part[1]], _load("page.html")
    )


def _hash(text):
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
