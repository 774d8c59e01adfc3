"""News posts: TF-IDF and naive Bayes (or a linear model), explained word by word.

Training reads the channel ``train`` (and ``test``, if there is one) and writes model.npz,
model.json and report.json. What is saved are numbers and words, no Python objects, and serving
needs NumPy alone. Both models are sums over the terms of a document, each a word or a pair of
neighbouring words:

    score[class] = base[class] + sum over terms of tfidf[term] * weight[term, class]
    log-probability = score - logsumexp(score)
"""

import argparse
import collections
import functools
import json
import math
import warnings
from collections.abc import Iterable, Mapping, Set
from pathlib import Path
from typing import NamedTuple

import numpy as np

from program_toolkit import answers, payload
from program_toolkit.checks import Checks
from program_toolkit.documents import (
    TEXT,
    Corpus,
    Documents,
    read_corpus,
    read_parameters,
    read_request,
)
from program_toolkit.job import Job, JobError, read_description, run
from program_toolkit.limits import count_rows
from program_toolkit.table import PayloadError, shorten
from program_toolkit.words import OLD, clean, is_unspaced

FORMAT_VERSION = 2  # 1, which is still served, has another rule for what a word is
LIBRARIES = ("numpy", "scikit-learn", "scipy")
_SHARE = 0.05  # of the texts; smaller shares are not reported

# In the order in which a wildcard chooses.
OFFERED = (payload.JSON, TEXT, payload.CSV, payload.JSONLINES)
SCALE = "unnormalized log-probability"

# ---------------------------------------------------------------- the frozen model


class Terms(NamedTuple):
    """The known terms of one document, and the TF-IDF of each, of Euclidean norm 1."""

    index: np.ndarray
    tfidf: np.ndarray


class Model(NamedTuple):
    """A fitted pipeline without scikit-learn.

    Parameters
    ----------
    labels : list of str
        The k names of the classes.
    stop_words : frozenset of str
    names : list of str
        The p terms.
    vocabulary : dict of str to int
        Their places.
    idf : ndarray of float64, shape (p,)
        Inverse document frequencies.
    weights : ndarray of float64, shape (p, k)
        What a term adds to the score of each class; each row has mean 0, because what a term adds
        to all classes alike says nothing about any.
    base : ndarray of float64, shape (k,)
        Scores of a document without any known term.
    analyzer : str
        As in `clean`.
    """

    labels: list[str]
    stop_words: frozenset[str]
    names: list[str]
    vocabulary: dict[str, int]
    idf: np.ndarray
    weights: np.ndarray
    base: np.ndarray
    analyzer: str

    def terms(self, text: str) -> Terms:
        """Weigh the terms of a document: (1 + log count) * idf, over their norm."""
        terms = clean(text, self.stop_words, self.analyzer)
        counts = collections.Counter(map(self.vocabulary.get, terms))
        counts.pop(None, None)  # words never seen
        index = np.fromiter(counts.keys(), np.intp, len(counts))
        tfidf = np.fromiter(counts.values(), np.float64, len(counts))
        np.log(tfidf, out=tfidf)
        tfidf += 1
        tfidf *= self.idf[index]
        tfidf /= math.sqrt(tfidf @ tfidf) or 1
        return Terms(index, tfidf)

    def scores(self, terms: Terms) -> np.ndarray:
        """Return the k scores of a document."""
        return self.base + terms.tfidf @ self.weights[terms.index]


def assemble(
    arrays: Mapping[str, np.ndarray],
    labels: list[str],
    stop_words: Iterable[str],
    analyzer: str = "words",
) -> Model:
    """Return the model of the arrays in model.npz."""
    names = arrays["vocabulary"].tobytes().decode().split("\n")
    weights = arrays["weights"].astype(np.float64)
    return Model(
        labels=labels,
        stop_words=frozenset(stop_words),
        names=names,
        vocabulary={name: place for place, name in enumerate(names)},
        idf=arrays["idf"],
        weights=weights - weights.mean(axis=1, keepdims=True),
        base=arrays["base"],
        analyzer=analyzer,
    )


# ---------------------------------------------------------------- serving


def model_fn(model_dir: str) -> Model:
    """Load what `train` wrote."""
    folder = Path(model_dir)
    described = read_description(folder, 1, FORMAT_VERSION)
    analyzer = OLD if described["format_version"] == 1 else described["analyzer"]
    with np.load(folder / "model.npz", allow_pickle=False) as arrays:
        return assemble(arrays, described["labels"], described["stop_words"], analyzer)


def input_fn(body: bytes | str, content_type: str) -> Documents:
    """Read a request."""
    return read_request(body, content_type)


class Answer(NamedTuple):
    """The scores of n documents, what they are made of, and what the request asks for."""

    model: Model
    terms: list[Terms]
    scores: np.ndarray
    parameters: Mapping[str, object]
    by_line: bool

    def warnings(self) -> dict[str, np.ndarray]:
        """Return warnings about the answers, each with the rows that it is about."""
        unknown = np.array([terms.index.size == 0 for terms in self.terms])
        if not unknown.any():
            return {}
        return {
            "no word is known from training, so the answer is the one to an empty text: "
            f"{count_rows(unknown)}": unknown
        }

    def describe(self, row: int, explained: bool, top_k: int) -> dict:
        """Return a document's entry in the JSON answer."""
        scores, labels = self.scores[row], self.model.labels
        probability = np.exp(scores - scores.max())
        probability /= probability.sum()
        best = int(scores.argmax())
        content = {"prediction": labels[best], "probability": float(probability[best])}
        if top_k:
            content["top_k"] = [
                {"label": labels[k], "probability": float(probability[k])}
                | (self.explain(row, k) if explained else {})
                for k in np.argsort(-scores, kind="stable")[:top_k].tolist()
            ]
        if explained:
            content |= self.explain(row, best) | {"scale": SCALE}
        return content

    def explain(self, row: int, k: int) -> dict:
        """Return what each term adds to the score of a document's class, the largest first."""
        index, tfidf = self.terms[row]
        added = tfidf * self.model.weights[index, k]
        largest = np.argsort(-abs(added), kind="stable")
        names = map(self.model.names.__getitem__, index[largest].tolist())
        values = dict(zip(names, added[largest].tolist(), strict=True))
        return {"shap_base": float(self.model.base[k]), "shap_values": values}


def predict_fn(texts: list[str], model: Model) -> Answer:
    """Score every document."""
    documents = texts if isinstance(texts, Documents) else Documents(texts)
    terms = [model.terms(text) for text in documents]
    scores = np.stack([model.scores(each) for each in terms])
    return Answer(model, terms, scores, documents.parameters, documents.by_line)


def output_fn(answer: Answer, accept: str) -> tuple[bytes, str]:
    """Write the labels; in JSON and JSON lines also their probabilities and what is asked for.

    ``top_k=3`` asks for the three likeliest labels of each document, and ``explain=true`` for what
    each term adds to the score of the predicted label; both together, for what each term adds to
    the scores of all three. What Accept says wins over the request's own ``parameters``.
    """
    media, accepted = answers.negotiate(accept, OFFERED)
    if media == payload.JSON and answer.by_line:
        media = payload.JSONLINES
    accepted = {name: accepted[name] for name in ("top_k", "explain") if name in accepted}
    asked = {**answer.parameters, **read_parameters(accepted)}
    explained, top_k = asked.get("explain", False), asked.get("top_k", 0)
    if media in (TEXT, payload.CSV):
        if explained or top_k:
            raise PayloadError(
                f"{media} carries labels only; for top_k or explain accept {payload.JSON}",
                status=406,
            )
        labels = [answer.model.labels[k] for k in answer.scores.argmax(axis=1)]
        if media == TEXT:
            return answers.join_lines(labels), TEXT
        return answers.encode(answers.Answer(np.array(labels)), payload.CSV)
    rows = [answer.describe(row, explained, top_k) for row in range(len(answer.terms))]
    cautions = answer.warnings()
    if media == payload.JSONLINES:
        for caution, marked in cautions.items():
            for row in np.flatnonzero(marked):
                rows[row].setdefault("warnings", []).append(caution)
        return answers.join_lines(json.dumps(row) for row in rows), media
    columns = {key: [row[key] for row in rows] for key in rows[0]}
    if explained:
        columns["scale"] = SCALE
    if cautions:
        columns["warnings"] = list(cautions)
    return json.dumps(columns).encode(), media


def signature_fn(model: Model) -> dict[str, dict[str, str]]:
    """Return the columns and their datatypes, for KServe's metadata."""
    return {
        "inputs": {"text": "BYTES"},
        "outputs": {"prediction": "BYTES", "probability": "FP64"},
    }


def page_fn(model_dir: str) -> str:
    """Write the page that the server shows at / where MODEL_SERVER_PAGE asks for it."""
    from gam_model.endpoint_page import render_endpoint_page

    described = json.loads((Path(model_dir) / "model.json").read_text(encoding="utf-8"))
    return render_endpoint_page(described, "newsgroups_logic")


# ---------------------------------------------------------------- training


class WeightedLogistic:
    """A logistic regression for each class, on features that naive Bayes has weighed.

    Each feature is first multiplied by its log-count ratio r for that class,

        r = log(p / |p|_1) - log(q / |q|_1),

    p and q being alpha plus the feature's sums over the documents in the class and outside it.
    After S. Wang and C. D. Manning (2012), Baselines and bigrams: simple, good sentiment and
    topic classification, ACL 50, section 2.2.

    Parameters
    ----------
    alpha : float
        Smoothing of the counts.
    C : float
        Inverse weight of the penalty.
    """

    def __init__(self, alpha: float, C: float):
        self.alpha = alpha
        self.C = C

    def fit(self, X, y) -> "WeightedLogistic":
        """Learn ``classes_``, ``coef_`` of shape (k, p) and ``intercept_`` of shape (k,)."""
        from scipy.sparse import diags
        from sklearn.linear_model import LogisticRegression

        self.classes_, y = np.unique(y, return_inverse=True)
        sums = np.stack([np.ravel(X[y == k].sum(axis=0)) for k in range(len(self.classes_))])
        self.coef_ = np.empty_like(sums)
        self.intercept_ = np.empty(len(sums))
        for k, inside in enumerate(sums):
            p, q = inside + self.alpha, sums.sum(axis=0) - inside + self.alpha
            r = np.log(p / p.sum()) - np.log(q / q.sum())
            one = LogisticRegression(
                C=self.C, solver="liblinear", dual=True, max_iter=1000, random_state=0
            ).fit(X @ diags(r), y == k)
            # To three digits, in which the file of the model is half as large. No label of the
            # 7,532 test posts depends on the fourth.
            self.coef_[k] = (r * one.coef_[0]).astype(np.float16)
            self.intercept_[k] = one.intercept_[0]
        return self


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the hyperparameters."""
    parser.add_argument("--model", choices=["naive-bayes", "linear"], default="naive-bayes")
    parser.add_argument("--alpha", type=float, default=0.01, help="smoothing of the counts")
    # The training toolkit gives names of one letter a single dash.
    parser.add_argument(
        "-C", "--C", type=float, default=2.0, help="linear: inverse weight of the penalty"
    )
    parser.add_argument("--features", type=int, default=100_000, help="terms to keep, by chi2")
    parser.add_argument("--min-df", type=int, default=2, help="documents that a term is in")
    parser.add_argument("--stop-words", choices=["english", "none"], default="english")
    parser.add_argument(
        "--analyzer",
        choices=["words", "characters"],
        default="words",
        help="characters: in scripts without spaces, each character is a word",
    )


def make_pipeline(arguments: argparse.Namespace, stop_words: Set[str]):
    """Return the scikit-learn pipeline from texts to labels, not fitted."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.feature_selection import SelectKBest, chi2
    from sklearn.naive_bayes import MultinomialNB
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import Normalizer

    return Pipeline(
        [
            (
                "tfidf",
                TfidfVectorizer(
                    analyzer=functools.partial(
                        clean, stop_words=stop_words, analyzer=arguments.analyzer
                    ),
                    min_df=arguments.min_df,
                    sublinear_tf=True,
                ),
            ),
            ("select", SelectKBest(chi2, k=arguments.features)),
            ("normalize", Normalizer()),  # anew, over the terms that were kept
            (
                "classify",
                MultinomialNB(alpha=arguments.alpha)
                if arguments.model == "naive-bayes"
                else WeightedLogistic(arguments.alpha, arguments.C),
            ),
        ]
    )


def freeze(pipeline) -> dict[str, np.ndarray]:
    """Return the arrays of model.npz from a fitted pipeline."""
    tfidf, classify = pipeline["tfidf"], pipeline["classify"]
    kept = pipeline["select"].get_support()
    if isinstance(classify, WeightedLogistic):
        weights, base = classify.coef_.T.astype(np.float16), classify.intercept_
    else:
        weights, base = classify.feature_log_prob_.T, classify.class_log_prior_
    terms = "\n".join(tfidf.get_feature_names_out()[kept])
    return {
        "vocabulary": np.frombuffer(terms.encode(), np.uint8),
        "idf": tfidf.idf_[kept],
        "weights": weights,
        "base": base,
    }


def check(arguments: argparse.Namespace) -> None:
    """Refuse hyperparameters that are out of range."""
    if not 0 < arguments.alpha < math.inf:
        raise JobError(f"alpha must be a positive number, got alpha={arguments.alpha}")
    if not 0 < arguments.C < math.inf:
        raise JobError(f"C must be a positive number, got C={arguments.C}")
    for name in ("features", "min_df"):
        if getattr(arguments, name) < 1:
            raise JobError(f"{name} must be at least 1, got {getattr(arguments, name)}")


def train(job: Job, arguments: argparse.Namespace) -> None:
    """Fit, measure and save one model."""
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

    check(arguments)
    checks = Checks()
    with checks:
        corpora = {"train": read_corpus(job, "train")}
        if "test" in job.channels:
            corpora["test"] = read_corpus(job, "test")
    texts, labels = corpora["train"]
    if len(set(labels)) < 2:
        raise JobError(f"every document has the label {labels[0]!r}; at least two are needed")
    stop_words = ENGLISH_STOP_WORDS if arguments.stop_words == "english" else frozenset()
    pipeline = make_pipeline(arguments, stop_words)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "k=.* is greater than n_features")  # all are kept
            pipeline.fit(texts, labels)
    except ValueError as error:  # no term is in min_df documents
        raise JobError(f"channel 'train': {error}") from None
    arrays, classes = freeze(pipeline), pipeline["classify"].classes_.tolist()
    model = assemble(arrays, classes, stop_words, arguments.analyzer)
    print(f"{len(texts)} documents, {len(classes)} labels, {len(model.idf)} terms", flush=True)

    metrics, reports = {}, {}
    for split, corpus in corpora.items():
        reports[split] = report(model, corpus)
        metrics |= {
            f"macro_f1_{split}": reports[split]["macro avg"]["f1-score"],
            f"accuracy_{split}": reports[split]["accuracy"],
        }
    job.log_metrics(**metrics)
    checks.add(*check_corpora(model, corpora))

    np.savez_compressed(job.model_dir / "model.npz", **arrays)
    job.write_json("report.json", reports)
    job.write_description(
        LIBRARIES,
        format_version=FORMAT_VERSION,
        hyperparameters=vars(arguments),
        labels=classes,
        stop_words=sorted(stop_words),
        analyzer=arguments.analyzer,
        metrics=metrics,
        checks=checks.findings,
        page={
            "title": "News posts",
            "outcome": "Newsgroup",
            "features": {"text": {"label": "Text"}},
        },
        answer={"column": "probability", "probability": True},
    )
    if box := checks.box():
        print(box, flush=True)


def check_corpora(model: Model, corpora: Mapping[str, Corpus]) -> list[str]:
    """Look for problems with the documents that the model's owner should know about.

    Parameters
    ----------
    model : Model
    corpora : mapping of str to Corpus
        By channel.
    """
    findings = []
    texts = corpora["train"].texts
    unspaced = sum(map(is_unspaced, texts))
    if model.analyzer == "words" and unspaced > _SHARE * len(texts):
        findings.append(
            f"{unspaced} of {len(texts)} training texts are in a script without spaces between "
            "words, such as Chinese, Japanese or Thai, and each run of it was taken for one word; "
            "set analyzer=characters"
        )
    if "test" in corpora:
        texts, labels = corpora["test"]
        unknown = sum(model.terms(text).index.size == 0 for text in texts)
        if unknown > _SHARE * len(texts):
            findings.append(f"{unknown} of {len(texts)} test texts hold no word of the model")
        if new := sorted(set(labels) - set(model.labels)):
            listed = ", ".join(map(shorten, new[:5])) + (", ..." if len(new) > 5 else "")
            findings.append(f"the test texts have labels that training has not: {listed}")
    return findings


def report(model: Model, corpus: Corpus) -> dict:
    """Return precision, recall, F1 and support of each label, their means, and the accuracy."""
    from sklearn.metrics import classification_report

    scores = [model.scores(model.terms(text)) for text in corpus.texts]
    predicted = [model.labels[k] for k in np.argmax(scores, axis=1)]
    return classification_report(corpus.labels, predicted, output_dict=True, zero_division=0)


if __name__ == "__main__":
    run(add_arguments, train)
