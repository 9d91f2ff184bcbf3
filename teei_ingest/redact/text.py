"""Finding people in text by pattern: what `scrub` replaces and what the guard stops.

Patterns find addresses, telephone numbers and numbers with check digits; names only where the record itself says
them. No pattern finds the person in "Sorted food with Ola", which is why free text is removed by default.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import lru_cache

import pyarrow as pa
import pyarrow.compute as pc

MARK = "[REDACTED]"

# RE2 (Arrow) decides cheaply whether a text can hold anything at all; Python's patterns look closer.
POSSIBLE = (
    r"@|＠|%40"
    r"|\+[\s(]{0,2}\d|\b00\d{2}"
    r"|\d[\s().\-]{0,2}\d[\s().\-]{0,2}\d[\s().\-]{0,2}\d[\s().\-]{0,2}\d[\s().\-]{0,2}\d[\s().\-]{0,2}\d"
    r"|[A-Za-z]{2}\d{2}[ ]?[A-Za-z0-9]{4}"
)
_EDGE = r"(?<![A-Za-z0-9_-])"
_END = r"(?![A-Za-z0-9_-])"
_GOES_ON = re.compile(r"[A-Za-z0-9_-]")

_TOKEN = r"[^\s@＠<>()\[\],;:\"']"
EMAIL = re.compile(rf"(?<!{_TOKEN}){_TOKEN}+(?:[@＠]|%40){_TOKEN}+")
PHONE = re.compile(
    rf"(?:(?<![\w+])(?:\+|00)[ (]{{0,2}}[1-9](?:(?:[ ().\-/]{{1,2}}(?!00[1-9]))?\d){{6,14}}"  # international
    rf"|{_EDGE}\(0?\d{{1,4}}\)[ \-.]?\d{{2,4}}(?:[ \-.]\d{{2,4}}){{1,3}}"  # (area) number
    rf"|{_EDGE}\d{{3}}[ .\-]\d{{3}}[ .\-]\d{{4}}"  # North America
    rf"|{_EDGE}0\d{{1,4}}[ \-./]\d{{2,8}}(?:[ \-.]\d{{2,4}}){{0,3}}"  # national, with its zero
    rf"|{_EDGE}[2-9]\d{{1,2}} \d{{2,3}} \d{{2,3}}(?: \d{{2}})?){_END}"  # Nordic, in groups
)
IBAN = re.compile(rf"{_EDGE}[A-Z]{{2}}\d{{2}}(?: ?[A-Z0-9]{{4}}){{2,7}}(?: ?[A-Z0-9]{{1,3}})?{_END}", re.IGNORECASE)
CARD = re.compile(rf"{_EDGE}[3-6]\d{{3}}(?:[ \-]?\d){{9,15}}{_END}")
NATIONAL = re.compile(rf"{_EDGE}(?:\d{{3}}-\d{{2}}-\d{{4}}|\d{{6}}[ +\-A]?\d{{3}}[0-9A-Y]\d?){_END}")


def _luhn(digits: Sequence[int]) -> bool:
    doubled = [d if i % 2 == 0 else (2 * d - 9 if d > 4 else 2 * d) for i, d in enumerate(reversed(digits))]
    return sum(doubled) % 10 == 0


def _is_card(text: str) -> bool:
    digits = [int(c) for c in text if c.isdigit()]
    return 13 <= len(digits) <= 19 and _luhn(digits)


def _is_iban(text: str) -> bool:
    """ISO 13616: the check digits, modulo 97."""
    compact = text.replace(" ", "").upper()
    turned = compact[4:] + compact[:4]
    return 15 <= len(compact) <= 34 and int("".join(str(int(c, 36)) for c in turned)) % 97 == 1


def _day_and_month(digits: Sequence[int]) -> bool:
    """Digits that begin with a day and a month, in either order of day and year."""
    day, month, last = (digits[0] * 10 + digits[1], digits[2] * 10 + digits[3], digits[4] * 10 + digits[5])
    return 1 <= month <= 12 and (1 <= day <= 31 or 1 <= last <= 31)


def _is_norwegian(d: Sequence[int]) -> bool:
    if len(d) != 11 or not _day_and_month([d[0] % 4, *d[1:6]]):
        return False
    first = sum(w * x for w, x in zip((3, 7, 6, 1, 8, 9, 4, 5, 2, 1), d, strict=False))
    second = sum(w * x for w, x in zip((5, 4, 3, 2, 7, 6, 5, 4, 3, 2, 1), d, strict=False))
    return first % 11 == 0 and second % 11 == 0


_FINNISH = "0123456789ABCDEFHJKLMNPRSTUVWXY"


def _is_national(text: str) -> bool:
    """National ids with check digits: US, Norway, Sweden, Finland; Danish ones where written with their hyphen."""
    if re.fullmatch(r"\d{3}-\d{2}-\d{4}", text):
        return text[:3] not in ("000", "666") and text[0] != "9" and text[4:6] != "00" and text[7:] != "0000"
    if re.fullmatch(r"\d{6}[+\-A]\d{3}[0-9A-Y]", text):
        if _FINNISH[int(text[:6] + text[7:10]) % 31] == text[10]:
            return True
        digits = [int(c) for c in text if c.isdigit()]
        return len(digits) == 10 and _day_and_month(digits) and (_luhn(digits) or "-" in text)
    digits = [int(c) for c in text if c.isdigit()]
    return _is_norwegian(digits)


def _is_phone(text: str) -> bool:
    """7 to 15 digits (E.164); 12 with the zero that stands for the country."""
    digits = sum(c.isdigit() for c in text.removeprefix("00"))
    return 7 <= digits <= (12 if text[0] == "0" != text[1] else 15)


_FINDERS: tuple[tuple[str, re.Pattern[str], Callable[[str], bool]], ...] = (
    ("email", EMAIL, lambda text: True),
    ("iban", IBAN, _is_iban),
    ("card", CARD, _is_card),
    ("national_id", NATIONAL, _is_national),
    ("phone", PHONE, _is_phone),
)
# Records' ids and times, in which digits mean nothing else.
_SPARED = re.compile(
    r"([0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}|\d{4}-\d{2}-\d{2}(?:[T ][\d:.]+(?:Z|[+-]\d{2}:\d{2})?)?)"
)


def _hits(pattern: re.Pattern[str], check: Callable[[str], bool], text: str) -> Iterator[tuple[int, int]]:
    """Where a pattern holds. What fails its check may have run on into the next word, or hide another match."""
    at = 0
    while found := pattern.search(text, at):
        at = found.start() + 1
        shorter: re.Match[str] | None = found
        while shorter:
            end = shorter.end()
            if not _GOES_ON.match(text, end) and check(shorter[0]):
                yield found.start(), end
                at = end
                break
            shorter = pattern.match(text, found.start(), end - 1)


@lru_cache(20_000)
def kinds(text: str) -> frozenset[str]:
    """The kinds of direct identifiers that a text holds."""
    pieces = _SPARED.split(text)[::2]
    return frozenset(kind for kind, pattern, check in _FINDERS for piece in pieces if any(_hits(pattern, check, piece)))


@lru_cache(20_000)
def _without_identifiers(text: str) -> str:
    """Labels come again and again, so each is looked through once."""
    pieces = _SPARED.split(text)
    for at in range(0, len(pieces), 2):
        for _, pattern, check in _FINDERS:
            for start, end in reversed(list(_hits(pattern, check, pieces[at]))):
                pieces[at] = pieces[at][:start] + MARK + pieces[at][end:]
    return "".join(pieces)


def is_identifier(text: str) -> bool:
    """Whether the whole text is an address, an international telephone number or a national id."""
    text = text.strip()
    if EMAIL.fullmatch(text):
        return True
    if NATIONAL.fullmatch(text):
        return _is_national(text)
    return text[:1] == "+" and PHONE.fullmatch(text) is not None


def scrub(text: str, names: Collection[str] = ()) -> str:
    """The text with what patterns find, and the given names as whole words, replaced by the mark."""
    text = _without_identifiers(text)
    if names:
        text = _without_names(text, names)
    return text


_PIECES = re.compile(r"[^\W\d_]+|[\W\d_]+")


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
    return pc.match_substring_regex(values, POSSIBLE)


WORD = re.compile(r"[^\W\d_]{2,}|[^\W\d_a-zA-Z]")  # in some scripts one letter is a name


@lru_cache(50_000)
def words(text: str) -> frozenset[str]:
    """Words of at least two letters, or one that is not ASCII, casefolded."""
    return frozenset(found.casefold() for found in WORD.findall(unicodedata.normalize("NFC", text)))


def fold(text: str) -> str:
    """The form in which texts are compared without regard to case."""
    return unicodedata.normalize("NFC", text).casefold()
