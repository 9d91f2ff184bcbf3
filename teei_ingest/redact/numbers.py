"""Numbers that identify a person and can be told from others: by check digits, a date of birth, or their grouping.

Here: national ids, IBANs, cards; finding them in texts is `text`'s business. Left out are ids of nine to eleven bare
digits with one check digit and no date of birth (Dutch BSN, German tax id, Ukrainian RNOKPP): one order number in ten
would be one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

_DAYS = (0, 31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)


def _digits(text: str) -> list[int]:
    return [int(c) for c in text if c.isdigit()]


def _weighted(digits: Sequence[int], weights: Sequence[int]) -> int:
    return sum(w * d for w, d in zip(weights, digits, strict=False))


def luhn(digits: Sequence[int]) -> bool:
    """ISO/IEC 7812-1, annex B."""
    doubled = [d if i % 2 == 0 else (2 * d - 9 if d > 4 else 2 * d) for i, d in enumerate(reversed(digits))]
    return sum(doubled) % 10 == 0


def _is_day(day: str | int, month: str | int) -> bool:
    return 1 <= int(month) <= 12 and 1 <= int(day) <= _DAYS[int(month)]


# --- national ids: each check gets the id without separators, in capitals --------------------------------------------


def _is_norwegian(text: str) -> bool:
    """Skatteetaten, fødselsnummer, D number (day + 40) and H number (month + 40)."""
    digits = _digits(text)
    return (
        _is_day(10 * (digits[0] % 4) + digits[1], int(text[2:4]) % 40)
        and _weighted(digits, (3, 7, 6, 1, 8, 9, 4, 5, 2, 1)) % 11 == 0
        and _weighted(digits, (5, 4, 3, 2, 7, 6, 5, 4, 3, 2, 1)) % 11 == 0
    )


def _is_swedish(text: str) -> bool:
    """Skatteverket, personnummer and samordningsnummer (day + 60)."""
    short = text[-10:]
    day = int(short[4:6])
    return _is_day(day - 60 if day > 60 else day, short[2:4]) and luhn(_digits(short))


def _is_danish(text: str) -> bool:
    """CPR number; since 2007 its check digit may be wrong, so its hyphen is asked for."""
    return _is_day(text[:2], text[2:4])


_FINNISH = "0123456789ABCDEFHJKLMNPRSTUVWXY"


def _is_finnish(text: str) -> bool:
    """Henkilötunnus, with the separators of 2023."""
    return _is_day(text[:2], text[2:4]) and _FINNISH[int(text[:6] + text[-4:-1]) % 31] == text[-1]


def _is_spanish(text: str) -> bool:
    """DNI and NIE."""
    number = text[:-1].translate(str.maketrans("XYZ", "012"))
    return "TRWAGMYFPDXBNJZSQVHLCKE"[int(number) % 23] == text[-1]


_ITALIAN_ODD = dict(zip("0123456789", (1, 0, 5, 7, 9, 13, 15, 17, 19, 21), strict=True)) | dict(
    zip(
        "ABCDEFGHIJKLMNOPQRSTUVWXYZ",
        (1, 0, 5, 7, 9, 13, 15, 17, 19, 21, 2, 4, 18, 20, 11, 3, 6, 8, 12, 14, 16, 10, 22, 25, 24, 23),
        strict=True,
    )
)


def _is_italian(text: str) -> bool:
    """Codice fiscale, with letters for digits where two people would share one."""
    even = sum(int(c) if c.isdigit() else ord(c) - 65 for c in text[1:15:2])
    return (even + sum(_ITALIAN_ODD[c] for c in text[0:15:2])) % 26 == ord(text[15]) - 65


def _is_french(text: str) -> bool:
    """Numéro de sécurité sociale (INSEE)."""
    corsican = text[5:7] in ("2A", "2B")
    number = text[:5] + str(19 - (text[6] == "B")) + text[7:13] if corsican else text[:13]
    return number.isdigit() and 97 - int(number) % 97 == int(text[13:])


def _is_polish(text: str) -> bool:
    """PESEL; months of the 21st century are counted from 21."""
    return _is_day(text[4:6], int(text[2:4]) % 20) and _weighted(_digits(text), (1, 3, 7, 9) * 2 + (1, 3, 1)) % 10 == 0


def _is_belgian(text: str) -> bool:
    """Rijksregisternummer."""
    born = _is_day(text[4:6], text[2:4])
    return born and any(97 - int(century + text[:9]) % 97 == int(text[9:]) for century in ("", "2"))


def _is_swiss(text: str) -> bool:
    """AHV number (EAN-13)."""
    return _weighted(_digits(text), (1, 3) * 6 + (1,)) % 10 == 0


def _is_brazilian(text: str) -> bool:
    """CPF."""
    digits = _digits(text)
    sums = (_weighted(digits[:9], range(10, 1, -1)), _weighted(digits[:10], range(11, 1, -1)))
    return [total * 10 % 11 % 10 for total in sums] == digits[9:]


def _is_american(text: str) -> bool:
    """Social security number; it has no check digit, so its hyphens are asked for."""
    return text[:3] not in ("000", "666") and text[0] != "9" and text[3:5] != "00" and text[5:] != "0000"


class _Id(NamedTuple):
    form: str
    check: Callable[[str], bool]


_LETTER_OR_DIGIT = "[0-9LMNPQRSTUV]"
CODICE_FISCALE = (
    rf"[A-Z]{{6}}{_LETTER_OR_DIGIT}{{2}}[ABCDEHLMPRST]{_LETTER_OR_DIGIT}{{2}}[A-Z]{_LETTER_OR_DIGIT}{{3}}[A-Z]"
)
_IDS: tuple[_Id, ...] = (
    _Id(r"\d{6} ?\d{5}", _is_norwegian),
    _Id(r"(?:19|20)?\d{6}[-+ ]?\d{4}", _is_swedish),
    _Id(r"\d{6}-\d{4}", _is_danish),
    _Id(r"\d{6}[-+A-FU-Y]\d{3}[0-9A-Y]", _is_finnish),
    _Id(r"(?:\d{8}|\d{2}\.\d{3}\.\d{3}|[XYZ]-?\d{7})-?[A-HJ-NP-TV-Z]", _is_spanish),
    _Id(CODICE_FISCALE, _is_italian),
    _Id(r"[12][ .]?\d{2}[ .]?(?:0[1-9]|1[0-2])[ .]?(?:\d{2}|2[AB])[ .]?\d{3}[ .]?\d{3}[ .]?\d{2}", _is_french),
    _Id(r"\d{2}(?:[02]\d|[13][0-2])\d{7}", _is_polish),
    _Id(r"\d{2}[. ]?\d{2}[. ]?\d{2}[-. ]?\d{3}[-. ]?\d{2}", _is_belgian),
    _Id(r"756\.?\d{4}\.?\d{4}\.?\d{2}", _is_swiss),
    _Id(r"\d{3}\.\d{3}\.\d{3}-\d{2}", _is_brazilian),
    _Id(r"\d{3}-\d{2}-\d{4}", _is_american),
)
NATIONAL = "|".join(form for form, _ in _IDS)
LONGEST = 21  # characters, separators included
_CHECKS = tuple((re.compile(form, re.ASCII), check) for form, check in _IDS)
_SEPARATORS = str.maketrans("", "", " .-+")


def is_national(text: str) -> bool:
    """Whether a text in one of the forms of NATIONAL is an id of its country."""
    text = text.upper()
    bare = text.translate(_SEPARATORS)
    return any(form.fullmatch(text) and check(bare) for form, check in _CHECKS)


# --- cards and accounts ----------------------------------------------------------------------------------------------

CARD = (
    r"[2-6]\d{3}(?:\d{9,15}|([ \-])\d{4}\1\d{4}\1\d{4}(?:\1\d{3})?)"
    r"|3[0-9]\d{2}([ \-])\d{6}\2\d{4,5}"
)
_ISSUERS = re.compile(
    r"4|5[1-5]|2(?:22[1-9]|2[3-9]|[3-6]|7[01]|720)|3[47]|3(?:0[0-5]|[689])|35(?:2[89]|[3-8])"
    r"|6(?:011|4[4-9]|5|2|0[0-4]|3|7)|5[06-9]"
)


def is_card(text: str) -> bool:
    """The length and the check digit of a payment card, and the first digits of an issuer (ISO/IEC 7812)."""
    digits = _digits(text)
    if len(digits) < 13 or not _ISSUERS.match("".join(map(str, digits[:4]))):
        return False
    if digits[0] == 3 and digits[1] != 5:
        return len(digits) in (14, 15) and luhn(digits)
    return (len(digits) == 16 or (len(digits) in (13, 18, 19) and digits[0] in (4, 6))) and luhn(digits)


IBAN = r"[A-Z]{2}\d{2}(?:[ \-]?[A-Z0-9]{4}){2,7}(?:[ \-]?[A-Z0-9]{1,3})?"
# Country and length, from the registry of ISO 13616.
_IBANS = {
    entry[:2]: int(entry[2:])
    for entry in (
        "AD24 AE23 AL28 AT20 AZ28 BA20 BE16 BG22 BH22 BI27 BR29 BY28 CH21 CR22 CY28 CZ24 DE22 DJ27 DK18 DO28 EE20 EG29 "
        "ES24 FI18 FK18 FO18 FR27 GB22 GE22 GI23 GL18 GR27 GT28 HN28 HR21 HU28 IE22 IL23 IQ23 IS26 IT27 JO30 KW30 KZ20 "
        "LB28 LC32 LI21 LT20 LU20 LV21 LY25 MC27 MD24 ME22 MK19 MN20 MR27 MT31 MU30 NI28 NL18 NO15 OM23 PK24 PL28 PS29 "
        "PT25 QA29 RO24 RS22 RU33 SA24 SC31 SD18 SE24 SI19 SK24 SM27 SO23 ST25 SV28 TL23 TN24 TR26 UA29 VA22 VG24 XK20 "
        "YE30"
    ).split()
}


def is_iban(text: str) -> bool:
    """ISO 13616: the country's length, and the check digits modulo 97."""
    compact = text.translate(_SEPARATORS).upper()
    if _IBANS.get(compact[:2]) != len(compact):
        return False
    return int("".join(str(int(c, 36)) for c in compact[4:] + compact[:4])) % 97 == 1
