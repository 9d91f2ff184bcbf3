"""The invented staff of a company: the same person in all seven systems.

Belongs here: who works where. Names, emails, telephone numbers and addresses are faker's, in a dozen
languages, under `.example` domains. Does not belong here: what people do (`records.py`).
"""

import unicodedata
from dataclasses import dataclass
from datetime import date, timedelta
from functools import lru_cache

from faker import Faker

from teei_ingest.sandbox.chance import key, letters, mix, uuid_from

# Locale, country, towns with an office.
_COUNTRIES = (
    ("no_NO", "NO", ("Oslo", "Bergen", "Trondheim")),
    ("no_NO", "NO", ("Oslo", "Stavanger", "Tromsø")),
    ("sv_SE", "SE", ("Stockholm", "Göteborg")),
    ("da_DK", "DK", ("København", "Aarhus")),
    ("de_DE", "DE", ("Berlin", "München")),
    ("en_GB", "GB", ("London", "Leeds")),
    ("en_US", "US", ("Boston", "Seattle")),
    ("fr_FR", "FR", ("Paris", "Lyon")),
    ("es_ES", "ES", ("Madrid", "Sevilla")),
    ("pl_PL", "PL", ("Warszawa", "Kraków")),
    ("tr_TR", "TR", ("Ankara", "İzmir")),
    ("uk_UA", "UA", ("Київ", "Львів")),
    ("ja_JP", "JP", ("東京", "大阪")),
)
_UNITS = (
    ("R&D", "Products", "Engineering", ("Engineer", "Senior Engineer", "Architect")),
    ("Sales", "Markets", "Commercial", ("Account Manager", "Sales Lead")),
    ("People", "Corporate", "Human Resources", ("HR Partner", "Recruiter")),
    ("Finance", "Corporate", "Finance", ("Controller", "Accountant")),
    ("Support", "Services", "Customer Care", ("Support Specialist", "Team Lead")),
    ("Operations", "Services", "Logistics", ("Planner", "Operations Manager")),
)
_DIVISIONS = ("Nordics", "Central Europe", "Americas", "Asia Pacific")
_REPORTS = 8  # people who report to one manager
_PLAIN = str.maketrans({"ø": "o", "æ": "ae", "ß": "ss", "ł": "l", "đ": "d", "ı": "i", "œ": "oe"})


@dataclass(frozen=True, slots=True)
class Person:
    """One employee; `manager` is the number of theirs in the same list, None at the top."""

    number: int
    first: str
    last: str
    name: str
    email: str
    phone: str
    street: str
    postcode: str
    city: str
    country: str
    employee_number: str
    scim_id: str
    goodera_id: str
    user_id: str
    department: str
    division: str
    business_unit: str
    cost_center: str
    job_family: str
    job_level: str
    title: str
    hired: date
    manager: int | None

    @property
    def employee_id(self) -> str:
        """What Benevity calls userId and Workday employeeID."""
        return f"E-{self.employee_number}"


@lru_cache(maxsize=16)
def _fake(locale: str) -> Faker:
    return Faker(locale)


@lru_cache(maxsize=64)
def staff(seed: int, company: str, number: int) -> tuple[Person, ...]:
    """All `number` people of a company; a person does not depend on how many there are."""
    base = key(seed, company, "staff")
    taken: dict[str, int] = {}
    return tuple(_person(base, company, index, taken) for index in range(number))


def _person(base: int, company: str, index: int, taken: dict[str, int]) -> Person:
    dice = mix(base ^ index)
    locale, country, cities = _COUNTRIES[dice % len(_COUNTRIES)]
    unit, business_unit, family, titles = _UNITS[(dice >> 8) % len(_UNITS)]
    fake = _fake(locale)
    fake.seed_instance(dice)
    first, last = fake.first_name(), fake.last_name()
    local = ".".join(part for part in (_plain(first), _plain(last)) if part) or f"employee.{letters(index, 4)}"
    taken[local] = taken.get(local, 0) + 1
    if taken[local] > 1:
        local += str(taken[local])
    return Person(
        number=index,
        first=first,
        last=last,
        name=f"{last} {first}" if locale == "ja_JP" else f"{first} {last}",
        email=f"{local}@{company}.example",
        phone=fake.phone_number(),
        street=fake.street_address().replace("\n", ", "),
        postcode=fake.postcode(),
        city=cities[(dice >> 16) % len(cities)],
        country=country,
        employee_number=str(10_000 + (base % 80) * 1000 + index),
        scim_id=f"wd-{letters(base + index, 8)}",
        goodera_id=f"u-{letters(base + index, 8)}",
        user_id=uuid_from(dice),
        department=unit,
        division=_DIVISIONS[(dice >> 20) % len(_DIVISIONS)],
        business_unit=business_unit,
        cost_center=f"CC-{(dice >> 24) % 20 + 1}",
        job_family=family,
        job_level=f"{'M' if index < 15 else 'IC'}{(dice >> 32) % 5 + 1}",
        title=titles[(dice >> 36) % len(titles)],
        hired=date(2009, 1, 1) + timedelta(days=(dice >> 40) % 5400),
        manager=(index - 1) // _REPORTS if index else None,
    )


def _plain(name: str) -> str:
    text = unicodedata.normalize("NFKD", name.casefold().translate(_PLAIN))
    return "".join(letter for letter in text if letter.isascii() and letter.isalnum())
