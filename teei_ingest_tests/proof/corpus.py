"""Texts with a direct identifier in them and texts with none, made anew for each proof of the leak guard.

The check digits are computed here from their definitions and share no line with the product. What is drawn belongs
to nobody except by chance.
"""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from functools import cache

import phonenumbers
from faker import Faker
from phonenumbers import PhoneNumberFormat, PhoneNumberType

FIELD, TEXT = "field", "text"
LOCALES = {
    "en": "en_GB",
    "no": "no_NO",
    "sv": "sv_SE",
    "fi": "fi_FI",
    "de": "de_DE",
    "fr": "fr_FR",
    "es": "es_ES",
    "pl": "pl_PL",
    "uk": "uk_UA",
    "ja": "ja_JP",
}
SENTENCES = {
    "en": "Please ask {}.",
    "no": "Ta kontakt med {}, så ordner vi resten!",
    "sv": "Hälsa från\n{}\noch tack för hjälpen.",
    "fi": "Ryhmän yhteyshenkilö on {}; tervetuloa.",
    "de": "Bitte an {} wenden (nur vormittags).",
    "fr": "Merci de prévenir {}: la salle change.",
    "es": "Nos ayudó {}, con la mudanza.",
    "pl": "Prosimy o kontakt: {} albo sekretariat.",
    "uk": "Запитання можна ставити: {} або в офісі.",
    "ja": "担当は{}です。",
}
FIELDS = ("{}", "{}", "id: {}", "ref {}", "({})", "contact={};", '"{}"', "<td>{}</td>", "a\t{}\tb", "tlf.{}", "[{}, 2]")
REGIONS = ("NO", "SE", "DK", "FI", "GB", "DE", "FR", "ES", "IT", "NL", "PL", "UA", "US", "IN", "BR")


@dataclass(frozen=True)
class Positive:
    """A text that holds `value`; `group` is a country, language or spelling."""

    kind: str
    group: str
    place: str
    value: str
    text: str


@dataclass(frozen=True)
class Negative:
    """A text that identifies nobody."""

    kind: str
    text: str


def positives(dice: random.Random, share: float) -> list[Positive]:
    """Identifiers that have a pattern, each alone in a field and within a sentence; `share` 1 gives about 4,000."""
    made = []
    sentences = list(SENTENCES.values())
    for kind, group, make, count in _sources(dice):
        for _ in range(max(2, round(count * share))):
            value = make()
            made.append(Positive(kind, group, FIELD, value, dice.choice(FIELDS).format(value)))
            made.append(Positive(kind, group, TEXT, value, dice.choice(sentences).format(value)))
    return made


def names(dice: random.Random, count: int) -> list[Positive]:
    """First and last names within a sentence of their language."""
    made = []
    for language, locale in LOCALES.items():
        people = _faker(locale)
        people.seed_instance(dice.getrandbits(64))
        for _ in range(count):
            value = f"{people.first_name()} {people.last_name()}"
            if language == "ja":
                value = f"{people.last_name()}{people.first_name()}"
            made.append(Positive("name", language, TEXT, value, SENTENCES[language].format(value)))
    return made


def bare_phones(dice: random.Random, count: int) -> list[str]:
    """Telephone numbers as nothing but their national digits, which no pattern tells from an order's number."""
    numbers = (_phone(dice, region) for region in REGIONS for _ in range(count))
    return [phonenumbers.national_significant_number(number) for number in numbers]


def _sources(dice: random.Random) -> Iterator[tuple[str, str, Callable[[], str], int]]:
    """(kind, group, maker, how many)."""
    for spelling, write in _EMAILS.items():
        yield "email", spelling, lambda write=write: write(dice, _address(dice)), 50  # type: ignore[misc]
    for region in REGIONS:
        for spelling in _PHONES:
            yield "phone", region, lambda r=region, s=spelling: _PHONES[s](_phone(dice, r)), 6  # type: ignore[misc]
    for country, make in NATIONAL.items():
        yield "national_id", country, lambda make=make: make(dice), 50  # type: ignore[misc]
    for country in _BBAN:
        yield "iban", country, lambda country=country: _iban(dice, country), 16  # type: ignore[misc]
    for brand in _CARDS:
        yield "card", brand, lambda brand=brand: _card(dice, brand), 50  # type: ignore[misc]


# --- addresses ---------------------------------------------------------------------------------------------------


@cache
def _faker(locale: str) -> Faker:
    return Faker(locale)


def _word(dice: random.Random, low: int = 4, high: int = 9) -> str:
    letters = zip(dice.choices("bdfghklmnprstv", k=high), dice.choices("aeiou", k=high), strict=True)
    return "".join(a + b for a, b in letters)[: dice.randint(low, high)]


def _address(dice: random.Random) -> tuple[str, str]:
    local = dice.choice(("{}.{}", "{}{}", "{}_{}", "{}-{}", "{}.{}99")).format(_word(dice), _word(dice))
    top = dice.choice(("com", "org", "no", "se", "co.uk", "de", "io", "eu", "com.br", "in"))
    return local, f"{_word(dice)}{dice.choice(('', '-group', '.mail'))}.{top}"


_EMAILS: dict[str, Callable[[random.Random, tuple[str, str]], str]] = {
    "plain": lambda dice, a: "@".join(a),
    "upper": lambda dice, a: "@".join(a).upper(),
    "tagged": lambda dice, a: f"{a[0]}+{_word(dice)}@{a[1]}",
    "percent": lambda dice, a: "%40".join(a),
    "mailto": lambda dice, a: f"mailto:{'@'.join(a)}",
    "named": lambda dice, a: f"{_word(dice).title()} <{'@'.join(a)}>",
    "international": lambda dice, a: f"{a[0]}ø@bü{a[1]}",
    "wide": lambda dice, a: "＠".join(a),
}


# --- telephones --------------------------------------------------------------------------------------------------


def _phone(dice: random.Random, region: str) -> phonenumbers.PhoneNumber:
    """A number that is valid in its country."""
    kind = dice.choice((PhoneNumberType.MOBILE, PhoneNumberType.FIXED_LINE))
    example = phonenumbers.example_number_for_type(region, kind)
    digits = phonenumbers.national_significant_number(example)
    while True:
        keep = dice.randint(1, 3)
        drawn = digits[:keep] + "".join(dice.choices("0123456789", k=len(digits) - keep))
        number = phonenumbers.parse(f"+{example.country_code}{drawn}")
        if phonenumbers.is_valid_number(number):
            return number


def _spelled(spelling: int) -> Callable[[phonenumbers.PhoneNumber], str]:
    return lambda number: phonenumbers.format_number(number, spelling)


_international = _spelled(PhoneNumberFormat.INTERNATIONAL)
_national = _spelled(PhoneNumberFormat.NATIONAL)
_PHONES: dict[str, Callable[[phonenumbers.PhoneNumber], str]] = {
    "e164": _spelled(PhoneNumberFormat.E164),
    "international": _international,
    "rfc3966": _spelled(PhoneNumberFormat.RFC3966),
    "zeros": lambda number: f"00{number.country_code}{phonenumbers.national_significant_number(number)}",
    "dotted": lambda number: _international(number).replace(" ", ".").replace("-", "."),
    "hyphens": lambda number: _international(number).replace(" ", "-"),
    "no_break": lambda number: _international(number).replace(" ", "\N{NO-BREAK SPACE}"),
    "country_in_brackets": lambda number: f"(+{number.country_code}) {_national(number).lstrip('0')}",
    # Some countries write no more than their digits in two groups, and some in one.
    "national": lambda number: _national(number) if _grouped(_national(number)) else _international(number),
    "national_no_break": lambda number: (
        _national(number) if _grouped(_national(number)) else _international(number)
    ).replace(" ", "\N{NO-BREAK SPACE}"),
}


def _grouped(text: str) -> bool:
    return not text.isdigit()


# --- national ids ------------------------------------------------------------------------------------------------


def _birthday(dice: random.Random, first: int = 1930, last: int = 2009) -> date:
    return date(first, 1, 1) + timedelta(dice.randrange((last - first) * 365))


def _norwegian(dice: random.Random) -> str:
    """Skatteetaten: two check digits; the whole, weighted, is divisible by 11."""
    while True:
        stem = f"{_birthday(dice, 1940, 1999):%d%m%y}{dice.randrange(500):03d}"
        if dice.random() < 0.1:  # D number
            stem = str(int(stem[0]) + 4) + stem[1:]
        for one in range(10):
            for two in range(10):
                whole = f"{stem}{one}{two}"
                digits = [int(c) for c in whole]
                a = sum(d * w for d, w in zip(digits[:10], (3, 7, 6, 1, 8, 9, 4, 5, 2, 1), strict=True))
                b = sum(d * w for d, w in zip(digits, (5, 4, 3, 2, 7, 6, 5, 4, 3, 2, 1), strict=True))
                if a % 11 == b % 11 == 0:
                    return f"{whole[:6]} {whole[6:]}" if dice.random() < 0.3 else whole


def luhn_digit(digits: str) -> str:
    """The digit that makes a number valid (ISO/IEC 7812-1, annex B)."""
    total = 0
    for place, digit in enumerate(reversed(digits)):
        value = int(digit) * (2 if place % 2 == 0 else 1)
        total += value // 10 + value % 10
    return str(-total % 10)


def _swedish(dice: random.Random) -> str:
    born, serial = _birthday(dice), f"{dice.randrange(1, 1000):03d}"
    short = f"{born:%y%m%d}"
    check = luhn_digit(short + serial)
    day = dice.choice((f"{born:%Y%m%d}", short))
    return f"{day}{'-' if len(day) == 6 or dice.random() < 0.5 else ''}{serial}{check}"


def _finnish(dice: random.Random) -> str:
    born, serial = _birthday(dice), dice.randrange(2, 900)
    sign = dice.choice("-YXWVU") if born.year < 2000 else dice.choice("ABCDEF")
    rest = int(f"{born:%d%m%y}{serial:03d}") % 31
    return f"{born:%d%m%y}{sign}{serial:03d}{'0123456789ABCDEFHJKLMNPRSTUVWXY'[rest]}"


def _spanish(dice: random.Random) -> str:
    letters = "TRWAGMYFPDXBNJZSQVHLCKE"
    if dice.random() < 0.4:
        head, number = dice.randrange(3), dice.randrange(10**7)
        return (
            f"{'XYZ'[head]}{dice.choice(('', '-'))}{number:07d}{dice.choice(('', '-'))}"
            + (letters[(head * 10**7 + number) % 23])
        )
    number = dice.randrange(10**6, 10**8)
    digits = f"{number:08d}"
    if dice.random() < 0.3:
        digits = f"{digits[:2]}.{digits[2:5]}.{digits[5:]}"
    return f"{digits}{dice.choice(('', '-'))}{letters[number % 23]}"


_ODD = dict(
    zip(
        "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ",
        map(
            int, "1 0 5 7 9 13 15 17 19 21 1 0 5 7 9 13 15 17 19 21 2 4 18 20 11 3 6 8 12 14 16 10 22 25 24 23".split()
        ),
        strict=True,
    )
)


def _italian(dice: random.Random) -> str:
    """Decreto ministeriale 23 December 1976."""
    born = _birthday(dice)
    day = born.day + dice.choice((0, 40))
    town = f"{dice.choice('ABCDEFGHIL')}{dice.randrange(1, 1000):03d}"
    stem = f"{''.join(dice.choices('BCDFGLMNPRSTV', k=6))}{born:%y}{'ABCDEHLMPRST'[born.month - 1]}{day:02d}{town}"
    total = sum(_ODD[c] if place % 2 == 0 else (int(c) if c.isdigit() else ord(c) - 65) for place, c in enumerate(stem))
    return stem + chr(65 + total % 26)


def _french(dice: random.Random) -> str:
    born = _birthday(dice)
    department = dice.choice(("2A", "2B", "75", "13", "33", "69"))
    stem = f"{dice.choice('12')}{born:%y%m}{department}{dice.randrange(1, 990):03d}{dice.randrange(1, 1000):03d}"
    number = int(stem.replace("2A", "19").replace("2B", "18") if department[0] == "2" else stem)
    if department[0] == "2":
        number = int(stem[:5] + {"2A": "19", "2B": "18"}[department] + stem[7:])
    key = f"{97 - number % 97:02d}"
    if dice.random() < 0.5:
        return stem + key
    return " ".join((stem[0], stem[1:3], stem[3:5], stem[5:7], stem[7:10], stem[10:13], key))


def _polish(dice: random.Random) -> str:
    born = _birthday(dice)
    month = born.month + (20 if born.year >= 2000 else 0)
    stem = f"{born:%y}{month:02d}{born:%d}{dice.randrange(10_000):04d}"
    return stem + str(-sum(int(c) * w for c, w in zip(stem, (1, 3, 7, 9) * 3, strict=False)) % 10)


def _belgian(dice: random.Random) -> str:
    born, serial = _birthday(dice), f"{dice.randrange(1, 998):03d}"
    stem = f"{born:%y%m%d}{serial}"
    key = f"{97 - int(('2' if born.year >= 2000 else '') + stem) % 97:02d}"
    return f"{born:%y.%m.%d}-{serial}.{key}" if dice.random() < 0.6 else stem + key


NATIONAL: dict[str, Callable[[random.Random], str]] = {
    "NO": _norwegian,
    "SE": _swedish,
    "FI": _finnish,
    "ES": _spanish,
    "IT": _italian,
    "FR": _french,
    "PL": _polish,
    "BE": _belgian,
}


# --- accounts and cards ------------------------------------------------------------------------------------------

# The BBAN of a country (ISO 13616 registry): n is a digit, a a letter.
_BBAN = {
    "NO": "n" * 11,
    "SE": "n" * 20,
    "DK": "n" * 14,
    "FI": "n" * 14,
    "DE": "n" * 18,
    "FR": "n" * 23,
    "ES": "n" * 20,
    "IT": "a" + "n" * 22,
    "NL": "aaaa" + "n" * 10,
    "PL": "n" * 24,
    "GB": "aaaa" + "n" * 14,
    "BE": "n" * 12,
    "CH": "n" * 17,
    "UA": "n" * 25,
    "MT": "aaaa" + "n" * 23,
}


def _iban(dice: random.Random, country: str) -> str:
    """ISO 13616: letters count from 10, the whole turned round is 1 modulo 97."""
    account = "".join(dice.choice("0123456789" if c == "n" else "ABCDEFGHKLMNPRST") for c in _BBAN[country])
    spelled = "".join(c if c.isdigit() else str(ord(c) - 55) for c in f"{account}{country}00")
    whole = f"{country}{98 - int(spelled) % 97:02d}{account}"
    if dice.random() < 0.5:
        return whole
    return dice.choice((" ", "\N{NO-BREAK SPACE}")).join(whole[at : at + 4] for at in range(0, len(whole), 4))


_CARDS = {
    "visa": (("4",), (4, 4, 4, 4)),
    "mastercard": (("51", "53", "55", "2221", "2720"), (4, 4, 4, 4)),
    "amex": (("34", "37"), (4, 6, 5)),
    "discover": (("6011", "65"), (4, 4, 4, 4)),
}


def _card(dice: random.Random, brand: str) -> str:
    heads, groups = _CARDS[brand]
    head = dice.choice(heads)
    stem = head + "".join(dice.choices("0123456789", k=sum(groups) - len(head) - 1))
    whole, parts = stem + luhn_digit(stem), []
    for size in groups:
        parts.append(whole[:size])
        whole = whole[size:]
    return dice.choice(("", " ", "-")).join(parts)


# --- what identifies nobody --------------------------------------------------------------------------------------

_SUBJECTS = (
    "Python", "Norwegian", "Excel", "Project management", "CV writing", "First aid", "Data analysis", "Ukrainian",
    "Public speaking", "Bookkeeping", "Interview training", "Digital skills", "English",
)  # fmt: skip
_LEVELS = (
    "A1",
    "A2.1",
    "B1",
    "B2",
    "101",
    "201",
    "level 3",
    "for beginners",
    "2023/2024",
    "H24",
    "v2.1",
    "part 2 of 3",
)
_CAUSES = ("Food bank", "Beach clean-up", "Reading club", "Blood drive", "Run for life", "Shelter", "Tree planting")
_TOWNS = ("Oslo", "Bergen", "Malmö", "Tampere", "Leeds", "Köln", "Lyon", "Sevilla", "Gdańsk", "Київ", "São Paulo")


def negatives(dice: random.Random, share: float) -> list[Negative]:
    """Ids, names of courses and organizations, amounts, times; `share` 1 gives 6,000, half of them in a sentence."""
    made = []
    sentences = list(SENTENCES.values())
    for kind, make in _NEGATIVES.items():
        for _ in range(max(4, round(300 * share))):
            value = make(dice)
            made.append(Negative(kind, value))
            made.append(Negative(kind, dice.choice(sentences).format(value)))
    return made


def grouped_registrations(dice: random.Random, count: int) -> list[str]:
    """Nine digits in threes: how organizations are registered in Norway or France, and a telephone number in Poland."""
    return [f"{dice.choice('89')}{_digits(dice, 2)} {_digits(dice, 3)} {_digits(dice, 3)}" for _ in range(count)]


def _digits(dice: random.Random, count: int) -> str:
    return "".join(dice.choices("0123456789", k=count))


def _moment(dice: random.Random) -> str:
    day, clock = _birthday(dice, 2015, 2029), f"{dice.randrange(24):02d}:{dice.randrange(60):02d}"
    return dice.choice(
        (
            f"{day}",
            f"{day}T{clock}:00Z",
            f"{day} {clock}",
            f"{day:%d.%m.%Y}",
            f"{day:%d/%m/%Y}",
            f"{day:%d.%m.%y}",
            f"{day:%m/%d/%Y}",
            f"{day:%Y%m%d}",
            f"{day:%d %b %Y}",
            f"{clock}-{dice.randrange(24):02d}:30",
            f"{day}/{day + timedelta(30)}",
            f"{day:%Y}-W{dice.randrange(1, 53):02d}",
        )
    )


def _amount(dice: random.Random) -> str:
    whole = dice.choice((dice.randrange(1000), dice.randrange(10**5), dice.randrange(10**8)))
    return dice.choice(
        (
            f"{whole}.{dice.randrange(100):02d}",
            f"{whole:,}",
            f"{whole:,}.00 USD",
            f"{whole:,}".replace(",", " ") + " NOK",
            f"{whole:,}".replace(",", "\N{NO-BREAK SPACE}") + " kr",
            f"{whole:,}".replace(",", ".") + ",00 €",
            f"£{whole:,}",
            f"kr {whole},-",
            f"{whole % 1000} h",
            f"{whole % 101} %",
        )
    )


# Internal Revenue Service: those that are given out.
_EIN_PREFIXES = [f"{at:02d}" for at in (*range(1, 7), *range(10, 17), *range(20, 28), *range(30, 49), *range(50, 69))]


def _registration(dice: random.Random) -> str:
    return dice.choice(
        (
            f"8{_digits(dice, 8)}",  # Norway
            f"802{_digits(dice, 3)}-{_digits(dice, 4)}",  # Sweden, associations
            f"{_digits(dice, 7)}-{_digits(dice, 1)}",  # Finland
            f"{dice.choice(_EIN_PREFIXES)}-{_digits(dice, 7)}",  # United States
            f"1{_digits(dice, 6)}",  # England and Wales
            f"VR {_digits(dice, 5)}",  # Germany
            f"W75{_digits(dice, 7)}",  # France
            f"G{_digits(dice, 8)}",  # Spain
            f"0000{_digits(dice, 6)}",  # Poland
            _digits(dice, 8),  # Denmark, Ukraine
        )
    )


_NEGATIVES: dict[str, Callable[[random.Random], str]] = {
    "uuid": lambda d: str(uuid.UUID(int=d.getrandbits(128), version=4)),
    "hex": lambda d: f"{d.getrandbits(128):032x}",
    "order": lambda d: d.choice(
        (
            f"ORD-{d.randrange(2019, 2026)}-{_digits(d, 6)}",
            f"PO{_digits(d, 8)}",
            f"#{_digits(d, 6)}",
            f"45{_digits(d, 8)}",
            f"{d.randrange(2019, 2026)}/{_digits(d, 5)}",
            f"SO-{_digits(d, 5)}-{_digits(d, 2)}",
            f"{d.randrange(100, 299)}-{_digits(d, 7)}-{_digits(d, 7)}",
            _digits(d, d.choice((5, 6, 7, 8, 9))),
        )
    ),
    "receipt": lambda d: d.choice(
        (
            f"R-{_digits(d, 8)}",
            f"RC{_birthday(d, 2019, 2026):%Y%m%d}{_digits(d, 4)}",
            f"INV{_digits(d, 5)}/{d.randrange(10, 26)}",
            f"ch_{''.join(d.choices('abcdefghijkmnpqrstuvwxyzABCDEFGH23456789', k=24))}",
            f"{_digits(d, 4)}-{d.choice('ABCD')}{_digits(d, 5)}",
            f"TX{_birthday(d, 2019, 2026):%y%m%d}-{_digits(d, 4)}",
            f"{''.join(d.choices('ABCDEFGHJKLMNPQRSTUVWXYZ23456789', k=10))}",
            f"B{_digits(d, 4)}.{_digits(d, 4)}.{_digits(d, 2)}",
        )
    ),
    "course": lambda d: f"{d.choice(_SUBJECTS)} {d.choice(_LEVELS)}",
    "course_code": lambda d: (
        f"{d.choice(('NOR', 'INF', 'TDT', 'EDX-CS'))}{d.choice(('', '-', ' '))}"
        f"{_digits(d, 4)}{d.choice(('', ' V25', '/2', '-01'))}"
    ),
    "activity": lambda d: f"{d.choice(_CAUSES)} {d.choice(_TOWNS)} {d.choice(('2024', '#3', '24/7', '10K'))}",
    "nonprofit": lambda d: (
        f"{_word(d).title()} {d.choice(('Foundation', 'e.V.', 'Fondet', 'Trust 1972', 'Stiftelsen', 'ry', 'Caritas'))}"
    ),
    "registration": _registration,
    "amount": _amount,
    "moment": _moment,
    "person_id": lambda d: f"{d.choice(('E-', 'wd-', 'user_', '21', 'emp'))}{_digits(d, d.choice((3, 5, 9)))}",
    "slug": lambda d: f"{_word(d)}-{_word(d)}-{_digits(d, 3)}",
    "version": lambda d: f"v{d.randrange(20)}.{d.randrange(40)}.{d.randrange(300)}",
    "coordinates": lambda d: f"{d.uniform(-90, 90):.5f}, {d.uniform(-180, 180):.5f}",
    "room": lambda d: f"Room {_digits(d, 3)}, floor {d.randrange(12)}, {d.randrange(8, 20)}:00",
    "address_of_page": lambda d: f"https://{_word(d)}.org/{_word(d)}/{_digits(d, 6)}?page={d.randrange(99)}",
    "handle": lambda d: f"#{_word(d)} {d.choice(('SDG 4', 'SDG 8 & 17', '1:1', '50/50', 'Q3-2024'))}",
    "book": lambda d: f"ISBN 978-{d.choice(('82', '91', '0'))}-{_digits(d, 4)}-{_digits(d, 4)}-{d.randrange(10)}",
    "measure": lambda d: f"{d.randrange(5000)} kg, {d.randrange(100)}.{d.randrange(10)} km, {d.randrange(400)} meals",
}  # fmt: skip
