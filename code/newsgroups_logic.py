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
import csv
import functools
import io
import itertools
import json
import math
import re
import warnings
from collections.abc import Callable, Iterable, Mapping, Set
from pathlib import Path
from typing import NamedTuple

import numpy as np

import answers
import payload
from job import Job, JobError, read_description, run
from signature import describe as describe_tensors
from table import PayloadError, shorten

FORMAT_VERSION = 1
LIBRARIES = ("numpy", "scikit-learn", "scipy")

TEXT = "text/plain"
# In the order in which a wildcard chooses.
OFFERED = (payload.JSON, TEXT, payload.CSV, payload.JSONLINES)
SCALE = "unnormalized log-probability"

# ---------------------------------------------------------------- cleaning

# The first paragraph, if each of its lines is "Name: value" or continues the line before, and one
# of them says whom the post is from or what it is about. Other texts may begin with a colon, too.
_HEADERS = re.compile(r"[\r\n]*(?:(?:[!-9;-~]+:|[ \t]).*\n){1,100}\r?\n")
_FROM_OR_SUBJECT = re.compile(r"^(?:From|Subject):", re.MULTILINE)
# Of people and of messages. It looks back so that a run of a million letters is scanned once.
_ADDRESS = re.compile(r"(?<![\w.+-])[\w.+-]+@[\w.-]+")
_WORD = re.compile(r"\w\w+")


def clean(text: str, stop_words: Set[str]) -> list[str]:
    r"""Return the terms of a document, in training and in serving alike.

    Headers and addresses are taken off, the rest is in lower case. Words have two characters at
    least and are none of the stop words; after them come the pairs of words that then stand
    beside one another.

    Parameters
    ----------
    text : str
    stop_words : set of str
        In lower case.

    Returns
    -------
    list of str

    Examples
    --------
    >>> clean("Subject: Moon\n\nTo the Moon by Jan, a@b.org wrote", {"to", "the", "by"})
    ['moon', 'jan', 'wrote', 'moon jan', 'jan wrote']
    """
    headers = _HEADERS.match(text)
    if headers and _FROM_OR_SUBJECT.search(text, 0, headers.end()):
        text = text[headers.end() :]
    if "@" in text:
        text = _ADDRESS.sub(" ", text)
    words = [word for word in _WORD.findall(text.lower()) if word not in stop_words]
    return words + [f"{left} {right}" for left, right in itertools.pairwise(words)]


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
    """

    labels: list[str]
    stop_words: frozenset[str]
    names: list[str]
    vocabulary: dict[str, int]
    idf: np.ndarray
    weights: np.ndarray
    base: np.ndarray

    def terms(self, text: str) -> Terms:
        """Weigh the terms of a document: (1 + log count) * idf, over their norm."""
        counts = collections.Counter(map(self.vocabulary.get, clean(text, self.stop_words)))
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
    arrays: Mapping[str, np.ndarray], labels: list[str], stop_words: Iterable[str]
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
    )


# ---------------------------------------------------------------- serving


def model_fn(model_dir: str) -> Model:
    """Load what `train` wrote."""
    folder = Path(model_dir)
    described = read_description(folder, FORMAT_VERSION)
    with np.load(folder / "model.npz", allow_pickle=False) as arrays:
        return assemble(arrays, described["labels"], described["stop_words"])


def input_fn(body: bytes | str, content_type: str) -> list[str]:
    """Read a request's documents.

    text/plain is one document. text/csv is one a record: of a single column, or of the column
    ``text`` where the first record names several (or is said to, by ``header=present``).
    JSON is a text, a record ``{"text": ...}``, or an array of them, also under ``instances``; in
    JSON lines, one a line. Bytes that are no text in their charset become U+FFFD.
    """
    media, parameters, text = payload.open_body(body, content_type, _READERS, errors="replace")
    return _READERS[media](text.removeprefix("\ufeff"), parameters)


def _read_csv(text: str, parameters: Mapping[str, str]) -> list[str]:
    # It stops at cells of 128 kB. The limit is the process's, and threads share it: only upwards.
    csv.field_size_limit(max(csv.field_size_limit(), len(text)))
    # NUL is part of no word, and the csv module of Python 3.10 cannot read it.
    lines = io.StringIO(text.replace("\0", " "), newline="")
    try:
        records = [record or [""] for record in csv.reader(lines, strict=True)]
    except csv.Error as error:
        raise PayloadError(f"not comma-separated values: {error}") from None
    if not records:  # nothing but a byte order mark
        raise PayloadError("got no documents; send at least one")
    first, header = records[0], parameters.get("header")
    named = header == "present" or (header is None and len(first) > 1 and "text" in first)
    if named and len(first) > 1 and "text" not in first:
        raise PayloadError(f"no column is named 'text'; got {shorten(first)}")
    width = len(first) if named else 1
    for number, record in enumerate(records, 1):
        if len(record) != width:
            raise PayloadError(
                f"record {number} has {len(record)} cells where {width} is expected; put a text "
                'that holds commas into quotes, and double the quotes in it: "a ""b"", c"'
            )
    column = first.index("text") if width > 1 else 0
    return _documents([record[column] for record in records[named:]])


def _read_json(text: str, _: Mapping[str, str]) -> list[str]:
    content = payload.load_json(text)
    if isinstance(content, dict):
        content = content.get("instances", content)
    return _documents(content if isinstance(content, list) else [content])


def _read_jsonlines(text: str, _: Mapping[str, str]) -> list[str]:
    return _documents(
        [
            payload.load_json(line, f"line {number}: ")
            for number, line in enumerate(text.split("\n"), 1)
            if line.strip()
        ]
    )


def _documents(rows: list) -> list[str]:
    if not rows:
        raise PayloadError("got no documents; send at least one")
    texts = [row.get("text") if isinstance(row, dict) else row for row in rows]
    for number, text in enumerate(texts):
        if not isinstance(text, str):
            raise PayloadError(
                f'document {number} is {shorten(rows[number])}; send a text or {{"text": "..."}}'
            )
    return texts


_READERS: dict[str, Callable[[str, Mapping[str, str]], list[str]]] = {
    TEXT: lambda text, _: [text],
    payload.CSV: _read_csv,
    payload.JSON: _read_json,
    payload.JSONLINES: _read_jsonlines,
}


class Answer(NamedTuple):
    """The scores of n documents, and what they are made of."""

    model: Model
    terms: list[Terms]
    scores: np.ndarray

    def describe(self, row: int, explained: bool, top_k: int) -> dict:
        """Return what JSON says of a document."""
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
    terms = [model.terms(text) for text in texts]
    return Answer(model, terms, np.stack([model.scores(each) for each in terms]))


def output_fn(answer: Answer, accept: str) -> tuple[bytes, str]:
    """Write the labels; in JSON and JSON lines also their probabilities and what is asked for.

    ``top_k=3`` asks for the three likeliest labels of each document, and ``explain=true`` for what
    each term adds to the score of the predicted label; both together, for what each term adds to
    the scores of all three.
    """
    media, parameters = answers.negotiate(accept, OFFERED)
    explained, top_k = parameters.get("explain") == "true", _read_top_k(parameters)
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
    if media == payload.JSONLINES:
        return answers.join_lines(json.dumps(row) for row in rows), media
    columns = {key: [row[key] for row in rows] for key in rows[0]}
    if explained:
        columns["scale"] = SCALE
    return json.dumps(columns).encode(), media


def metadata_fn(_: Model) -> dict[str, list[dict]]:
    """Return what the model takes and answers."""
    return describe_tensors({"text": str}, {"prediction": str, "probability": float})


def _read_top_k(parameters: Mapping[str, str]) -> int:
    value = parameters.get("top_k")
    if value is None:
        return 0
    if not re.fullmatch("0*[1-9][0-9]{0,8}", value):
        raise PayloadError(f"top_k={shorten(value)} is no number of labels; send top_k=3")
    return int(value)


# ---------------------------------------------------------------- training


class Corpus(NamedTuple):
    """Documents and the label of each."""

    texts: list[str]
    labels: list[str]


def read(job: Job, channel: str) -> Corpus:
    """Read a channel: tables with the columns ``text`` and ``label``, or a folder for each label.

    Tables end in .csv, .jsonl or .parquet. Any other file is one document, whose label is the
    name of the folder that it lies in; UTF-8 if it can be, else Latin-1.
    """
    folder = job.folder(channel)
    texts, labels = [], []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if not path.is_file() or any(part.startswith((".", "_")) for part in name.parts):
            continue
        if path.suffix in TABLES:
            table = _read_table(path, name)
            texts += table.texts
            labels += table.labels
        elif name.parent != Path():
            texts.append(_decode(path.read_bytes()))
            labels.append(name.parent.name)
        else:
            raise JobError(
                f"{name}: unknown ending; expected one of {', '.join(TABLES)}, or documents in "
                "one folder for each label"
            )
    if not texts:
        raise JobError(f"channel {channel!r} holds no document")
    for label in set(labels):
        if not label.isprintable() or label != label.strip() or not label:
            raise JobError(f"{shorten(label)} is no label; take one line of printable characters")
    return Corpus(texts, labels)


TABLES = (".csv", ".jsonl", ".parquet")


def _read_table(path: Path, name: Path) -> Corpus:
    import pandas

    try:
        if path.suffix == ".csv":
            table = pandas.read_csv(path, dtype=str, keep_default_na=False)
        elif path.suffix == ".jsonl":
            table = pandas.read_json(path, lines=True, dtype=False)
        else:
            table = pandas.read_parquet(path)
    except (ValueError, OSError) as error:
        raise JobError(f"{name} cannot be read: {error}".replace("\n", " ")) from None
    for column in ("text", "label"):
        if column not in table:
            there = ", ".join(map(repr, table.columns)) or "none"
            raise JobError(f"{name} has no column {column!r}; its columns are {there}")
    for column in ("text", "label"):
        for row, value in enumerate(table[column].tolist(), 1):
            if not isinstance(value, str):
                raise JobError(
                    f"{name}: row {row}, column {column!r} is {shorten(value)}, not a text"
                )
    return Corpus(table["text"].tolist(), table["label"].tolist())


def _decode(content: bytes) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError:
        return content.decode("latin-1")


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
                    analyzer=functools.partial(clean, stop_words=stop_words),
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
    """Refuse hyperparameters that no model can have."""
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
    corpora = {"train": read(job, "train")}
    if "test" in job.channels:
        corpora["test"] = read(job, "test")
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
    model = assemble(arrays, classes, stop_words)
    print(f"{len(texts)} documents, {len(classes)} labels, {len(model.idf)} terms", flush=True)

    metrics, reports = {}, {}
    for split, corpus in corpora.items():
        reports[split] = report(model, corpus)
        metrics |= {
            f"macro_f1_{split}": reports[split]["macro avg"]["f1-score"],
            f"accuracy_{split}": reports[split]["accuracy"],
        }
    job.log_metrics(**metrics)

    np.savez_compressed(job.model_dir / "model.npz", **arrays)
    job.write_json("report.json", reports)
    job.write_description(
        LIBRARIES,
        format_version=FORMAT_VERSION,
        hyperparameters=vars(arguments),
        labels=classes,
        stop_words=sorted(stop_words),
        metrics=metrics,
    )


def report(model: Model, corpus: Corpus) -> dict:
    """Return precision, recall, F1 and support of each label, their means, and the accuracy."""
    from sklearn.metrics import classification_report

    scores = [model.scores(model.terms(text)) for text in corpus.texts]
    predicted = [model.labels[k] for k in np.argmax(scores, axis=1)]
    return classification_report(corpus.labels, predicted, output_dict=True, zero_division=0)


if __name__ == "__main__":
    run(add_arguments, train)
