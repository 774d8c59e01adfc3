"""The page in front of an endpoint, which it asks for each answer and its explanation."""

import hashlib
import json
from typing import NamedTuple

from gam_model import __version__
from gam_model.dates import read_iso
from gam_model.page import _LANGUAGES, _LINKS, _assemble, _check_words, _load

__all__ = ["render_endpoint_page"]

_ANSWER = {"column": "prediction", "probability": False, "link": "identity", "rules": False}
_TAIL = 20  # times the distance from minimum to median: beyond, a slider needs a scale of its own


class _Described(NamedTuple):
    """What the page's words are checked against."""

    features: list
    levels: dict
    link: str


def render_endpoint_page(described, name, url="invocations", **words):
    """
    Return a page that asks an endpoint for its answers, as HTML.

    Parameters
    ----------
    described : dict
        What the model's model.json says:

        - features : for each a dict with name; with levels, its categories, or min and max, and
          median, whole (whether values are whole numbers) and unit ("date" or "duration", whose
          values are ISO 8601); most_common, a level; missing, not 0 where values may be missing.
          unused, true for one that the model does not read. Without features the model is one
          of texts.
        - page : the words of `write_page`, to begin with
        - answer : column, the key of the response that holds the numbers to show; probability,
          whether they are probabilities; link, the scale that "link" means in a response; rules,
          whether the explanations are rules
    name : str
        The endpoint's, as the page shows it.
    url : str
        Where the endpoint is invoked, relative to the page and of the same origin.
    **words
        As in `write_page`; they come before those in `described`.

    Returns
    -------
    str

    Raises
    ------
    ValueError
        If model.json does not say enough of a feature, or the words are not those of
        `write_page`.

    Notes
    -----
    The page sends cases to its own origin alone, which its security policy enforces.

    Examples
    --------
    >>> described = {"features": [{"name": "age", "min": 18, "max": 90}]}
    >>> "<form" in render_endpoint_page(described, "credit")
    True
    """
    answer = _ANSWER | described.get("answer", {})
    features = described.get("features", [])
    unused = [feature["name"] for feature in features if feature.get("unused")]
    features = [feature for feature in features if not feature.get("unused")]
    texts = not features
    if texts:
        terms, data = [{"kind": "text", "name": "text", "missing": None}], [{"typical": ""}]
    else:
        terms = [_describe_term(feature) for feature in features]
        data = [_describe_typical(*pair) for pair in zip(terms, features, strict=True)]
    for j, term in enumerate(terms):
        term["feature"] = j
    link = answer["link"] if answer["link"] in _LINKS else "identity"
    checked = _Described(
        [term["name"] for term in terms],
        {term["name"]: term["levels"] for term in terms if "levels" in term},
        "logit" if answer["probability"] else link,
    )
    words = _check_words({"title": name} | described.get("page", {}) | words, checked)
    scale = {"name": link, "probability": bool(answer["probability"])}
    content = {
        "model": {"features": checked.features, "terms": terms, "link": scale},
        "endpoint": {
            "name": name,
            "url": url,
            "column": answer["column"],
            "link": scale,
            "unused": unused,
            "texts": texts,
            "rules": bool(answer["rules"]),
            "explains": True,
        },
        "sha256": hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest(),
        "library": f"gam_model {__version__}",
        "words": words,
        "data": data,
        "limits": [],
        "errors": None,
        "texts": {language: json.loads(_load(f"{language}.json")) for language in _LANGUAGES},
    }
    return _assemble(content)


def _describe_term(feature):
    name = feature["name"]
    term = {"name": name, "missing": 0 if feature.get("missing") else None}
    if "levels" in feature:
        return term | {"kind": "levels", "levels": feature["levels"]}
    if "min" not in feature or "max" not in feature:
        raise ValueError(
            f"model.json says neither the levels nor min and max of feature {name!r}, which a "
            "page needs; train the model again with a program that writes them"
        )
    low, high, unit = feature["min"], feature["max"], feature.get("unit")
    if unit:
        low, high = (read_iso(end, unit) for end in (low, high))
    term |= {"kind": "smooth", "range": [low, high], "unit": unit, "warp": None}
    center = feature.get("median")
    if center is not None and not unit:
        scale = center - low or (1 if feature.get("whole") else (high - low) / 1000)
        if high - center > _TAIL * scale > 0:
            term["warp"] = [center, scale]
    return term


def _describe_typical(term, feature):
    if term["kind"] == "levels":
        common = feature.get("most_common")
        levels = feature["levels"]
        return {"typical": levels.index(common) if common in levels else 0}
    whole, (low, high) = bool(feature.get("whole")), term["range"]
    typical = feature.get("median", (low + high) / 2)
    typical = round(typical) if whole else float(f"{typical:.3g}")
    return {"typical": min(max(typical, low), high), "whole": whole}
