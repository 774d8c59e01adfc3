r"""The terms of a text: its words, in whatever script, and the pairs of neighbouring ones.

A word is a run of letters, digits and underscores, with the marks that belong to them: vowel
signs of Devanagari or Thai, points of Hebrew and Arabic, accents. Texts are brought into Unicode's
composed form (NFC), so that one word has one spelling. Python's ``\w`` alone would end a word at
each mark.
"""

import itertools
import re
import unicodedata
from collections.abc import Set
from typing import NamedTuple

# The first paragraph, if each of its lines is "Name: value" or continues the line before, and one
# of them says whom the post is from or what it is about. Other texts may begin with a colon, too.
_HEADERS = re.compile(r"[\r\n]*(?:(?:[!-9;-~]+:|[ \t]).*\n){1,100}\r?\n")
_FROM_OR_SUBJECT = re.compile(r"^(?:From|Subject):", re.MULTILINE)


def _find_marks() -> str:
    """Return all combining marks as ranges of a regular expression."""
    ranges: list[list[int]] = []
    # Outside of these there is none: the planes between are ideographs.
    for code in itertools.chain(range(0x300, 0x20000), range(0xE0100, 0xE01F0)):
        if unicodedata.category(chr(code)).startswith("M"):
            if ranges and ranges[-1][1] == code - 1:
                ranges[-1][1] = code
            else:
                ranges.append([code, code])
    return "".join(f"{chr(first)}-{chr(last)}" for first, last in ranges)


_MARKS = _find_marks()
_JOINERS = "\u200c\u200d"  # inside words of Persian, Hindi, Sinhala
# Selectors of glyphs, soft hyphens, directions: they show nothing, and are not part of a spelling.
# U+200B isn't among them. It ends words, where scripts have no spaces.
_INVISIBLE = re.compile(
    "[\u00ad\u034f\u061c\u180b-\u180f\u200e\u200f\u202a-\u202e\u2060-\u206f\ufe00-\ufe0f\ufeff"
    f"\U000e0000-\U000e0fff]|(?<=[{_JOINERS}])[{_JOINERS}]+"
)
# Unicode's own bound for text that is processed as it comes (UAX 15, Stream-Safe Text Format).
# Putting a longer run in order takes quadratic time. The lookahead fails fast at other text.
_LONG_RUN = re.compile(rf"(?=\W{{31}})([{_MARKS}]{{30}})[{_MARKS}]+")
# Scripts that are written without spaces between words: Thai, Lao, Burmese and Khmer; kana,
# Bopomofo, ideographs.
_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\ua9e0-\ua9ff\uaa60-\uaa7f"
    "\u3005-\u3007\u3021-\u3029\u3031-\u3035\u303b\u3041-\u312f\u31a0-\u31bf\u31f0-\u31ff"
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f\U0001aff0-\U0001b16f"
    "\U00020000-\U0003ffff"
)
# Most marks are many ranges, so they are only looked for where there is no letter.
_CHARACTER = re.compile(rf"(?=\w)[{_UNSPACED}](?:(?!\w)[{_MARKS}]+)?")
_WORD = rf"\w[\w{_MARKS}{_JOINERS}]*[\w{_MARKS}]"
_CHARACTER_OR_WORD = (
    rf"{_CHARACTER.pattern}|"
    rf"[^\W{_UNSPACED}](?:[^\W{_UNSPACED}]+|(?!\w)[{_MARKS}{_JOINERS}]+)+(?<![{_JOINERS}])"
)


class _Analyzer(NamedTuple):
    """What is taken out of a text, and what is a word of the rest."""

    address: re.Pattern
    word: re.Pattern


def _compile(marks: str, word: str) -> _Analyzer:
    # Of people and of messages. It looks back so that a run of a million letters is scanned once.
    address = rf"(?<![\w.+{marks}-])[\w.+{marks}-]+@[\w.{marks}-]+"
    return _Analyzer(re.compile(address), re.compile(word))


OLD = "format-1"  # in models of format version 1
_ANALYZERS = {
    "words": _compile(_MARKS, _WORD),
    "characters": _compile(_MARKS, _CHARACTER_OR_WORD),
    OLD: _compile("", r"\w\w+"),
}


def clean(text: str, stop_words: Set[str], analyzer: str = "words") -> list[str]:
    r"""Return the terms of a document, in training and in serving alike.

    Headers and addresses are taken off, the rest is in lower case. Words have two characters at
    least, counting marks, and are none of the stop words; after them come the pairs of words that
    then stand beside one another.

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
    >>> clean("हिन्दी में", set())
    ['हिन्दी', 'में', 'हिन्दी में']
    >>> clean("月面 NASA", set(), "characters")
    ['月', '面', 'nasa', '月 面', '面 nasa']
    """
    if analyzer != OLD:
        text = _compose(text)
    headers = _HEADERS.match(text)
    if headers and _FROM_OR_SUBJECT.search(text, 0, headers.end()):
        text = text[headers.end() :]
    text = text.lower()
    if analyzer != OLD:
        text = unicodedata.normalize("NFC", text)  # anew: lower case may take letters apart
        if max(text, default="") < "\u0300":  # no mark: the same words, but found faster
            analyzer = OLD
    address, word = _ANALYZERS[analyzer]
    if "@" in text:
        text = address.sub(" ", text)
    words = [found for found in word.findall(text) if found not in stop_words]
    return words + [f"{left} {right}" for left, right in itertools.pairwise(words)]


def is_unspaced(text: str) -> bool:
    """Return whether a good part of a text is in scripts without spaces between words."""
    return len(_CHARACTER.findall(text)) > len(text) / 4


def _compose(text: str) -> str:
    if text.isascii():
        return text
    text = _LONG_RUN.sub(r"\1", _INVISIBLE.sub("", text))
    return unicodedata.normalize("NFC", text)
