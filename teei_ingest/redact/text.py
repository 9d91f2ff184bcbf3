"""Finding people in text by pattern: what `scrub` replaces and what the guard stops.

Patterns find addresses, telephone numbers and numbers with check digits; names only where the record itself says
them. No pattern finds the person in "Sorted food with Ola", which is why free text is removed by default.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Collection, Iterator
from functools import lru_cache
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from teei_ingest.redact import numbers

MARK = "[REDACTED]"

# RE2 (Arrow) decides cheaply whether a text can hold anything at all; Python's patterns look closer. One digit that is
# not ASCII's is enough: these are rare, and their ranges seven times over took longer to compile than to match.
_BETWEEN = r"[\s().\-/\p{Zs}\p{Pd}]{0,2}"
_OTHER_DIGITS = "".join(letter for letter in map(chr, range(0x80, 0x20000)) if letter.isdecimal())
POSSIBLE = (
    r"[@＠]|%40"
    r"|[+＋][\s(\p{Zs}（]{0,2}\d|\d" + rf"(?:{_BETWEEN}\d){{6}}"
    r"|[A-Za-z]{2}\d{2}[ \-\p{Zs}\p{Pd}]?[A-Za-z\d]{4}"
    r"|\d{6}[A-FU-Ya-fu-y]\d{3}"
    rf"|(?i:{numbers.CODICE_FISCALE})"
    rf"|[{_OTHER_DIGITS}]"
)
_EDGE = r"(?<![A-Za-z0-9_-])"
_END = r"(?![A-Za-z0-9_-])"
_GOES_ON = re.compile(r"[A-Za-z0-9_-]")
_DIGIT = re.compile(r"[0-9]")

_TOKEN = r"[^\s@<>()\[\],;:\"']"
EMAIL = re.compile(rf"(?<!{_TOKEN}){_TOKEN}+(?:'{_TOKEN}+){{0,3}}(?:@|%40){_TOKEN}+")  # o'brien@ is one (RFC 5322)
# E.164 with its plus or zeros; whatever stands behind it, since no order number begins like this.
INTERNATIONAL = re.compile(
    r"(?:(?<![A-Za-z0-9_+])\+|(?<![A-Za-z0-9_+-])00)[ (]{0,2}"
    r"[1-9](?:(?:[ ().\-/]{1,2}(?!00[1-9][ \d]{7}))?\d){6,14}(?!\d)",
    re.ASCII,
)
PHONE = re.compile(
    rf"{_EDGE}(?:\(0?\d{{1,4}}\)[ \-.]?\d{{2,5}}(?:[ \-.]\d{{2,4}}){{1,3}}"  # (area) number
    r"|\d{3}[ .\-]\d{3}[ .\-]\d{4}"  # North America, Italy
    r"|0[1-9]\d{0,4}[ \-./]\d{2,8}(?:[ \-.]\d{2,4}){0,3}"  # national, with its zero
    r"|[2-9]\d\d \d\d \d{3}|[2-9]\d\d(?: \d\d){3}|[2-9]\d(?: \d\d){3}"  # in groups: Nordic, Spain
    rf"|[1-9]\d \d{{3}} \d\d \d\d|[2-9]\d\d \d{{3}} \d{{3}}){_END}",  # Poland
    re.ASCII,
)
IBAN = re.compile(rf"{_EDGE}{numbers.IBAN}{_END}", re.IGNORECASE | re.ASCII)
CARD = re.compile(rf"{_EDGE}(?:{numbers.CARD}){_END}", re.ASCII)
NATIONAL = re.compile(rf"{_EDGE}(?:{numbers.NATIONAL}){_END}", re.IGNORECASE | re.ASCII)


def _is_phone(text: str) -> bool:
    """7 to 15 digits (E.164); 12 with the zero that stands for the country."""
    digits = sum(c.isdigit() for c in text.removeprefix("00"))
    return 7 <= digits <= (12 if text[0] == "0" != text[1] else 15)


class _Finder(NamedTuple):
    kind: str
    pattern: re.Pattern[str]
    check: Callable[[str], bool]
    goes_on: re.Pattern[str] = _GOES_ON  # what may not follow


_FINDERS: tuple[_Finder, ...] = (
    _Finder("email", EMAIL, lambda text: True),
    _Finder("iban", IBAN, numbers.is_iban),
    _Finder("card", CARD, numbers.is_card),
    _Finder("national_id", NATIONAL, numbers.is_national),
    _Finder("phone", INTERNATIONAL, _is_phone, _DIGIT),
    _Finder("phone", PHONE, _is_phone),
)
_CURRENCY = r"(?:NOK|SEK|DKK|EUR|USD|GBP|CHF|PLN|UAH|JPY|INR|BRL|kr|zł|[€$£¥₴₹])"
# Records' ids, times, employers' numbers, and amounts with their currency, in which digits mean nothing else.
_UUID = r"[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}"
_SPARED = re.compile(
    rf"{_UUID}"
    r"|\d{4}-\d{2}-\d{2}(?:[T ][\d:.]+(?:Z|[+-]\d{2}:\d{2})?)?"
    r"|(?<![\w.+/-])[0-3]?\d([./-])[0-3]?\d\1(?:19|20)\d{2}(?![\w-]|[./]\d)"
    r"|(?<![\w.+/-])0[1-6]-\d{7}(?![\w-]|[./ ]\d)"
    rf"|(?<![\w.+-])\d{{1,3}}(?: \d{{3}})+(?:[.,]\d\d)? {_CURRENCY}(?![A-Za-z0-9])",
    re.ASCII,
)


class _Plain(dict[int, str]):
    """For `str.translate`: digits, spaces and hyphens of all scripts as those of ASCII, one for one."""

    def __missing__(self, code: int) -> str:
        letter = chr(code)
        kind = unicodedata.category(letter)
        made = str(unicodedata.digit(letter)) if kind == "Nd" else {"Zs": " ", "Pd": "-"}.get(kind, letter)
        return self.setdefault(code, made)


_PLAIN = _Plain(zip(map(ord, "＠＋（）．"), "@+().", strict=True))


def _plain(text: str) -> str:
    return text if text.isascii() else text.translate(_PLAIN)


def _pieces_of(plain: str) -> Iterator[tuple[int, int, bool]]:
    """(start, end, whether it is looked through) of the whole text."""
    at = 0
    for found in _SPARED.finditer(plain):
        yield at, found.start(), True
        yield found.start(), found.end(), False
        at = found.end()
    yield at, len(plain), True


def _hits(finder: _Finder, text: str) -> Iterator[tuple[int, int]]:
    """Where a pattern holds. What fails its check may have run on into the next word, or hide another match."""
    _, pattern, check, goes_on = finder
    at = 0
    while found := pattern.search(text, at):
        at = found.start() + 1
        shorter: re.Match[str] | None = found
        while shorter:
            end = shorter.end()
            if not goes_on.match(text, end) and check(shorter[0]):
                yield found.start(), end
                at = end
                break
            shorter = pattern.match(text, found.start(), end - 1)


@lru_cache(20_000)
def kinds(text: str) -> frozenset[str]:
    """The kinds of direct identifiers that a text holds."""
    plain = _plain(text)
    pieces = [plain[start:end] for start, end, looked in _pieces_of(plain) if looked]
    return frozenset(finder.kind for finder in _FINDERS for piece in pieces if any(_hits(finder, piece)))


@lru_cache(20_000)
def _without_identifiers(text: str) -> str:
    """Labels come again and again, so each is looked through once."""
    while (made := _looked_through(text)) != text:
        text = made  # a number that ran into the one before it now stands alone
    return text


def _looked_through(text: str) -> str:
    whole = _plain(text)
    made = []
    for first, last, looked in _pieces_of(whole):
        shown, plain = text[first:last], whole[first:last]
        for finder in _FINDERS if looked else ():
            for start, end in reversed(list(_hits(finder, plain))):
                shown = shown[:start] + MARK + shown[end:]
                plain = plain[:start] + MARK + plain[end:]
        made.append(shown)
    return "".join(made)


def is_identifier(text: str) -> bool:
    """Whether the whole text is an address, an international telephone number or a national id."""
    text = _plain(text).strip()
    if text[:1] == "+" and INTERNATIONAL.fullmatch(text):
        return True
    if len(text) <= numbers.LONGEST and NATIONAL.fullmatch(text):
        return numbers.is_national(text)
    return EMAIL.fullmatch(text) is not None


def scrub(text: str, names: Collection[str] = ()) -> str:
    """The text with what patterns find, and the given names as whole words, replaced by the mark."""
    text = _without_identifiers(text)
    if names:
        text = _without_names(text, names)
    return text


# Scripts that put no space between words, so that each letter has to count as one.
_UNSPACED = r"\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_PIECES = re.compile(rf"[{_UNSPACED}]|[^\W\d_{_UNSPACED}]+|[\W\d_]+")


def _without_names(text: str, names: Collection[str]) -> str:
    """The text without names; a pattern for each would have to be compiled, which costs ten times as much."""
    pieces = _PIECES.findall(unicodedata.normalize("NFC", text))
    folded = [piece.casefold() for piece in pieces]
    for name in sorted(names, key=len, reverse=True):
        wanted = _pieces(name)
        at = 0
        while wanted and wanted[0] in folded[at:]:
            at = folded.index(wanted[0], at)
            if folded[at : at + len(wanted)] == wanted:
                pieces[at : at + len(wanted)] = folded[at : at + len(wanted)] = [MARK]
            at += 1
    return "".join(pieces)


@lru_cache(50_000)
def _pieces(name: str) -> list[str]:
    """Words of a name and what is between them, casefolded."""
    bare = re.sub(r"^[\W\d_]+|[\W\d_]+$", "", unicodedata.normalize("NFC", name))
    return [piece.casefold() for piece in _PIECES.findall(bare)]


def possible(values: pa.Array) -> pa.Array:
    """For each text whether it can hold an identifier at all; null stays null."""
    found = pc.match_substring_regex(values, POSSIBLE)
    # Ids are most often UUIDs, and every other UUID has seven digits in a row.
    return pc.and_not(found, pc.match_substring_regex(values, rf"^{_UUID}$")) if pc.any(found).as_py() else found


WORD = re.compile(rf"[^\W\d_{_UNSPACED}]{{2,}}|[^\W\d_a-zA-Z]")  # in some scripts one letter is a name


@lru_cache(50_000)
def words(text: str) -> frozenset[str]:
    """Words of at least two letters, or one that is not ASCII, casefolded."""
    return frozenset(found.casefold() for found in WORD.findall(unicodedata.normalize("NFC", text)))


def fold(text: str) -> str:
    """The form in which texts are compared without regard to case."""
    return unicodedata.normalize("NFC", text).casefold()
