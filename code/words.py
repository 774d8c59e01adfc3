"""Texts to words, of every script, and to pairs of words."""

import itertools
import re
import unicodedata
from collections.abc import Callable, Set

# The first paragraph, if each of its lines is "Name: value" or continues the line before, and one
# of them says whom the post is from or what it is about. Other texts may begin with a colon, too.
_HEADERS = re.compile(r"[\r\n]*(?:(?:[!-9;-~]+:|[ \t]).*\n){1,100}\r?\n")
_FROM_OR_SUBJECT = re.compile(r"^(?:From|Subject):", re.MULTILINE)
# Of people and of messages. It looks back so that a run of a million letters is scanned once.
_ADDRESS = re.compile(r"(?<![\w.+-])[\w.+-]+@[\w.-]+")


def _list_marks() -> str:
    """Return all combining marks, such as accents and vowel signs, as ranges of a regex."""
    codes = itertools.chain(range(0x300, 0x20000), range(0xE0100, 0xE01F0))
    marks = [code for code in codes if unicodedata.category(chr(code))[0] == "M"]
    ranges = itertools.groupby(enumerate(marks), lambda pair: pair[1] - pair[0])
    runs = ([code for _, code in run] for _, run in ranges)
    return "".join(f"{chr(run[0])}-{chr(run[-1])}" for run in runs)


_MARKS = _list_marks()
_JOINERS = "\u200c\u200d"  # they shape letters inside words of Persian, Sinhala, Malayalam, ...
# Han, kana, Thai, Lao, Burmese and Khmer, which put no spaces between words.
_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf"
    "\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f\U0001b000-\U0001b16f\U00020000-\U0003ffff"
)
_CHARACTER = re.compile(rf"(?=\w)[{_UNSPACED}][{_MARKS}]*")
_WORD = re.compile(rf"\w[\w{_MARKS}{_JOINERS}]+")
_CHARACTER_OR_WORD = re.compile(f"{_CHARACTER.pattern}|{_WORD.pattern}")
# Soft hyphens, marks of direction and their like, and joiners at the end of a word.
_UNSEEN = re.compile(
    rf"[\u00ad\u061c\u200e\u200f\u202a-\u202e\u2060-\u2069\ufeff]"
    rf"|[{_JOINERS}]+(?![\w{_MARKS}{_JOINERS}])"
)
# No word has as many, and sorting them takes quadratic time. The limit is that of Unicode's
# stream-safe text format (UAX 15, section 13).
_MANY_MARKS = re.compile(f"([{_MARKS}]{{30}})[{_MARKS}]+")


def _normalize(text: str) -> str:
    """Return a text in NFC, so that a word is the same however its accents are encoded."""
    if text.isascii():
        return text
    return unicodedata.normalize("NFC", _MANY_MARKS.sub(r"\1", _UNSEEN.sub("", text)))


def _split_words(text: str) -> list[str]:
    return _WORD.findall(_normalize(text))


def _split_characters(text: str) -> list[str]:
    return _CHARACTER_OR_WORD.findall(_CHARACTER.sub(r" \g<0> ", _normalize(text)))


# What finds the words of a text, by the name that model.json has for it.
_ANALYZERS: dict[str, Callable[[str], list[str]]] = {
    "words": _split_words,
    "characters": _split_characters,
    "format-1": re.compile(r"\w\w+").findall,
}


def clean(text: str, stop_words: Set[str], analyzer: str = "words") -> list[str]:
    r"""Return the terms of a document, in training and in serving alike.

    Headers and addresses are taken off, the rest is in lower case. Words are runs of letters and
    digits, each with its combining marks, in Unicode's form NFC; they have two characters at least
    and are none of the stop words. After them come the pairs of words that then stand beside one
    another.

    Parameters
    ----------
    text : str
    stop_words : set of str
        In lower case.
    analyzer : {"words", "characters", "format-1"}
        "characters" takes each character of a script without spaces, such as Chinese and Japanese,
        for a word. "format-1" splits words as models of format version 1 have learned them.

    Returns
    -------
    list of str

    Examples
    --------
    >>> clean("Subject: Moon\n\nTo the Moon by Jan, a@b.org wrote", {"to", "the", "by"})
    ['moon', 'jan', 'wrote', 'moon jan', 'jan wrote']
    >>> clean("月面へ", frozenset(), "characters")
    ['月', '面', 'へ', '月 面', '面 へ']
    """
    headers = _HEADERS.match(text)
    if headers and _FROM_OR_SUBJECT.search(text, 0, headers.end()):
        text = text[headers.end() :]
    if "@" in text:
        text = _ADDRESS.sub(" ", text)
    words = [word for word in _ANALYZERS[analyzer](text.lower()) if word not in stop_words]
    return words + [f"{left} {right}" for left, right in itertools.pairwise(words)]


def is_unspaced(text: str) -> bool:
    """Return whether a good part of a text is in scripts without spaces between words."""
    return len(_CHARACTER.findall(text)) > len(text) / 4
