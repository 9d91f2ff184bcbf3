"""Sealed files, landings and the quarantine: whole, private, in their place, or an error."""

import base64
import errno
import os
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import date
from fcntl import flock
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from teei_ingest.companies import SANDBOX_COMPANIES
from teei_ingest.errors import LandingError
from teei_ingest.landing import sealed
from teei_ingest.landing.landing import Landing
from teei_ingest.landing.quarantine import Quarantine, QuarantineEntry
from teei_ingest.landing.sealed import CHUNK, read_sealed, write_sealed
from teei_ingest.settings import Settings
from teei_ingest.vault.files import os_errors, remove_dead
from teei_ingest.vault.keys import KeyRing

ACME, GLOBEX, _ = SANDBOX_COMPANIES
MASTER = base64.b64encode(bytes(range(32))).decode()
STREAM = "benevity_volunteers"
DAYS = [date(2024, 1, day) for day in range(1, 32)]
DAY = DAYS[14]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings.load({"TEEI_HOME": str(tmp_path / "home"), "TEEI_MASTER_KEY": MASTER})


@pytest.fixture
def ring(settings: Settings) -> KeyRing:
    return KeyRing.open(settings, ACME)


def write(path: Path, ring: KeyRing, records: list[bytes], attempt: str = "run-1") -> None:
    write_sealed(path, ring, records, company="acme-corp", stream=STREAM, day=DAY, attempt=attempt)


def read(path: Path, ring: KeyRing) -> list[bytes]:
    return list(read_sealed(path, ring, company="acme-corp", stream=STREAM, day=DAY))


@pytest.fixture(scope="module")
def shared_ring(tmp_path_factory: pytest.TempPathFactory) -> KeyRing:
    home = tmp_path_factory.mktemp("ring")
    return KeyRing.open(Settings.load({"TEEI_HOME": str(home), "TEEI_MASTER_KEY": MASTER}), ACME)


@given(records=st.lists(st.binary(max_size=40)), chunk=st.integers(1, 64))
def test_records_come_back_as_they_went(
    shared_ring: KeyRing, tmp_path_factory: pytest.TempPathFactory, records: list[bytes], chunk: int
) -> None:
    path = tmp_path_factory.getbasetemp() / f"roundtrip-{os.getpid()}.sealed"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sealed, "CHUNK", chunk)
        write(path, shared_ring, records)
        assert read(path, shared_ring) == records


def test_records_longer_than_a_chunk(tmp_path: Path, ring: KeyRing) -> None:
    records = [b"a" * 10, os.urandom(3 * CHUNK), b"", b"\n" * CHUNK]
    write(tmp_path / "f", ring, records)
    assert read(tmp_path / "f", ring) == records
    assert (tmp_path / "f").stat().st_size < 4 * CHUNK + 1000


def test_no_such_file_has_no_records(tmp_path: Path, ring: KeyRing) -> None:
    assert read(tmp_path / "f", ring) == []


def test_every_flipped_bit_is_noticed(tmp_path: Path, ring: KeyRing) -> None:
    path = tmp_path / "f"
    write(path, ring, [b"kari.nordmann@acme.example", b"x"])
    whole = path.read_bytes()
    assert b"kari" not in whole
    for position in range(len(whole)):
        for bit in (1, 128):
            path.write_bytes(whole[:position] + bytes([whole[position] ^ bit]) + whole[position + 1 :])
            with pytest.raises(LandingError, match="is damaged or in the wrong place") as caught:
                read(path, ring)
            assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_every_truncation_is_noticed(tmp_path: Path, ring: KeyRing) -> None:
    path = tmp_path / "f"
    write(path, ring, [b"one", b"two"])
    whole = path.read_bytes()
    for part in (*(whole[:end] for end in range(len(whole))), whole + b"\0", whole * 2):
        path.write_bytes(part)
        with pytest.raises(LandingError, match="is damaged"):
            read(path, ring)


def test_chunks_cannot_be_moved_left_out_or_exchanged(
    tmp_path: Path, ring: KeyRing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sealed, "CHUNK", 16)
    parts = []
    for name in ("f", "g"):
        # Each record fills one chunk with its length.
        write(tmp_path / name, ring, [bytes([65 + i]) * 12 for i in range(4)])
        whole = (tmp_path / name).read_bytes()
        size = 5 + 16 + 16
        head = len(whole) - 4 * size
        parts.append((whole[:head], [whole[head + i * size : head + (i + 1) * size] for i in range(4)]))
    (head_f, (a, b, c, d)), (head_g, (_, other, _, last)) = parts
    path = tmp_path / "f"
    path.write_bytes(head_f + a + b + c + d)
    assert len(read(path, ring)) == 4
    for chunks in ([b, a, c, d], [a, b, d], [a, b, c], [a, other, c, d], [a, b, c, last], [a, a, b, c, d], [d]):
        path.write_bytes(head_f + b"".join(chunks))
        with pytest.raises(LandingError, match="is damaged"):
            read(path, ring)
    path.write_bytes(head_g + a + b + c + d)
    with pytest.raises(LandingError, match="is damaged"):
        read(path, ring)


@pytest.mark.parametrize(
    "place",
    [{"company": "globex-inc"}, {"stream": "benevity_donations"}, {"day": DAYS[0]}, {"purpose": "quarantine"}],
)
def test_a_file_in_anothers_place_is_noticed(tmp_path: Path, ring: KeyRing, place: dict[str, str]) -> None:
    write(tmp_path / "f", ring, [b"x"])
    whole = {"company": "acme-corp", "stream": STREAM, "day": DAY}
    with pytest.raises(LandingError, match="in the wrong place"):
        list(read_sealed(tmp_path / "f", ring, **whole | place))  # type: ignore[arg-type]


def test_another_companys_ring_does_not_open_it(tmp_path: Path, settings: Settings, ring: KeyRing) -> None:
    write(tmp_path / "f", ring, [b"x"])
    with pytest.raises(LandingError, match="is damaged"):
        read(tmp_path / "f", KeyRing.open(settings, GLOBEX))


def test_equal_records_give_other_bytes(tmp_path: Path, ring: KeyRing) -> None:
    for name in ("f", "g"):
        write(tmp_path / name, ring, [b"x" * 100])
    sealed_f, sealed_g = ((tmp_path / name).read_bytes()[-116:-16] for name in ("f", "g"))  # without their tags
    assert sealed_f != sealed_g


def test_equal_chunks_give_other_bytes(tmp_path: Path, ring: KeyRing, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sealed, "CHUNK", 64)
    write(tmp_path / "f", ring, [b"x" * 60] * 8)
    whole = (tmp_path / "f").read_bytes()
    size = 5 + 64 + 16
    chunks = [whole[len(whole) - (i + 1) * size :][5 : 5 + 64] for i in range(8)]
    assert len(set(chunks)) == 8


class Broken(Exception):
    pass


@pytest.mark.parametrize("error", [Broken(), OSError(errno.ECONNRESET, "reset"), KeyboardInterrupt()])
def test_an_error_of_the_records_goes_through_and_changes_nothing(
    tmp_path: Path, ring: KeyRing, error: BaseException
) -> None:
    path = tmp_path / "f"
    write(path, ring, [b"before"])

    def records() -> Iterator[bytes]:
        yield b"x" * 2 * CHUNK
        raise error

    with pytest.raises(type(error)) as caught:
        write_sealed(path, ring, records(), company="acme-corp", stream=STREAM, day=DAY, attempt="a")
    assert caught.value is error
    assert read(path, ring) == [b"before"]
    assert [path.name for path in tmp_path.glob("*f*")] == ["f"]


@pytest.mark.parametrize("call", ["write", "fsync"])
def test_a_full_disk_is_one_line_and_changes_nothing(
    tmp_path: Path, ring: KeyRing, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    path = tmp_path / "f"
    write(path, ring, [b"before"])

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "personal")

    with monkeypatch.context() as patch:
        patch.setattr(os, call, full)
        with pytest.raises(LandingError, match=r"acme-corp: .*f cannot be written: No space left") as caught:
            write(path, ring, [b"x" * 2 * CHUNK])
    assert caught.value.__cause__ is None
    assert caught.value.exit_code == 5
    assert "personal" not in str(caught.value)
    assert read(path, ring) == [b"before"]
    assert [path.name for path in tmp_path.glob("*f*")] == ["f"]


def test_a_refusal_of_the_disk_brings_nothing_along(tmp_path: Path) -> None:
    try:
        raise ValueError("kari.nordmann@acme.example")
    except ValueError:
        with pytest.raises(LandingError) as caught, os_errors(LandingError):
            (tmp_path / "nothing").read_bytes()
    assert caught.value.__cause__ is None and caught.value.__suppress_context__


@pytest.mark.usefixtures("permissive")
def test_files_and_folders_are_private(settings: Settings, ring: KeyRing) -> None:
    landing, quarantine = Landing(settings), Quarantine(settings)
    landing.write(ring, "acme-corp", STREAM, DAY, {}, [b"x"], attempt="a")
    quarantine.replace(ring, "acme-corp", STREAM, {DAY: [entry(b"x")]}, attempt="a")
    paths = list(settings.home.rglob("*"))
    assert len(paths) > 8
    for path in paths:
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


def test_landing(settings: Settings, ring: KeyRing) -> None:
    landing = Landing(settings)
    assert landing.read(ring, "acme-corp", STREAM, DAY) is None
    assert not landing.discard("acme-corp", STREAM, DAY)
    meta = {"fetched": 2, "requests": 1, "contract": "v1"}
    landing.write(ring, "acme-corp", STREAM, DAY, meta, [b'{"id": 1}', b'{\n"id": 2}'], attempt="run-1")
    found = landing.read(ring, "acme-corp", STREAM, DAY)
    assert found
    assert found[0] == meta
    assert list(found[1]) == [b'{"id": 1}', b'{\n"id": 2}']
    (waiting,) = landing.waiting()
    assert (waiting.company, waiting.stream, waiting.day, waiting.attempt) == ("acme-corp", STREAM, DAY, "run-1")

    landing.write(ring, "acme-corp", STREAM, DAY, {}, [], attempt="run-2")
    assert not landing.discard("acme-corp", STREAM, DAY, attempt="run-1")
    assert landing.discard("acme-corp", STREAM, DAY, attempt="run-2")
    assert landing.read(ring, "acme-corp", STREAM, DAY) is None
    assert list(landing.waiting()) == []


def test_a_reader_sees_one_landing(settings: Settings, ring: KeyRing) -> None:
    landing = Landing(settings)
    landing.write(ring, "acme-corp", STREAM, DAY, {"n": 1}, [b"old"] * 3, attempt="a")
    found = landing.read(ring, "acme-corp", STREAM, DAY)
    assert found
    landing.write(ring, "acme-corp", STREAM, DAY, {"n": 2}, [b"new"], attempt="b")
    assert list(found[1]) == [b"old"] * 3


def test_a_damaged_landing_hides_no_other(settings: Settings, ring: KeyRing) -> None:
    landing = Landing(settings)
    for day in DAYS[:2]:
        landing.write(ring, "acme-corp", STREAM, day, {}, [], attempt="a")
    (landing.folder / "acme-corp" / STREAM / "2024-01-01.sealed").write_bytes(b"")
    assert [(found.day, found.attempt) for found in landing.waiting()] == [(DAYS[0], ""), (DAYS[1], "a")]
    with pytest.raises(LandingError, match=r"2024-01-01\.sealed is damaged"):
        landing.read(ring, "acme-corp", STREAM, DAYS[0])


def test_sweep_removes_the_old(settings: Settings, ring: KeyRing) -> None:
    landing, quarantine = Landing(settings), Quarantine(settings)
    assert landing.sweep() == quarantine.sweep() == 0
    landing.write(ring, "acme-corp", STREAM, DAY, {}, [], attempt="a")
    quarantine.replace(ring, "acme-corp", STREAM, {DAY: [entry(b"x")]}, attempt="a")
    hour, now = 3600, time.time()
    assert landing.sweep(now + 71 * hour) == 0
    assert landing.sweep(now + 73 * hour) == 1
    assert landing.read(ring, "acme-corp", STREAM, DAY) is None
    assert quarantine.sweep(now + 29 * 24 * hour) == 0
    assert quarantine.sweep(now + 31 * 24 * hour) == 1
    assert quarantine.count(ring, "acme-corp", STREAM, DAY) == 0


_DIE_WHILE_WRITING = """
import sys
from datetime import date
from teei_ingest.companies import SANDBOX_COMPANIES
from teei_ingest.landing.landing import Landing
from teei_ingest.settings import Settings
from teei_ingest.vault.keys import KeyRing
settings = Settings.load({"TEEI_HOME": sys.argv[1], "TEEI_MASTER_KEY": sys.argv[2]})
def records():
    yield b"x" * (1 << 21)
    print("writing", flush=True)
    sys.stdin.readline()
ring = KeyRing.open(settings, SANDBOX_COMPANIES[0])
Landing(settings).write(ring, "acme-corp", "s", date(2024, 1, 1), {}, records(), attempt="a")
"""


def test_what_a_killed_process_left_goes_and_what_a_living_one_writes_stays(settings: Settings, ring: KeyRing) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", _DIE_WHILE_WRITING, str(settings.home), MASTER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout and process.stdout.readline() == "writing\n"
    landing = Landing(settings)
    (temporary,) = (landing.folder / "acme-corp" / "s").iterdir()
    assert landing.sweep() == 0
    assert temporary.exists()
    process.kill()
    process.communicate()
    assert landing.sweep() == 1
    assert list(landing.folder.rglob("*.*")) == []


def test_a_file_removed_as_dead_before_it_was_locked_is_made_anew(
    tmp_path: Path, ring: KeyRing, monkeypatch: pytest.MonkeyPatch
) -> None:
    removed: list[int] = []

    def late(descriptor: int, flags: int) -> None:
        if not removed:
            removed.append(0)
            removed[0] = remove_dead(tmp_path)
        flock(descriptor, flags)

    monkeypatch.setattr("teei_ingest.vault.files.fcntl.flock", late)
    write(tmp_path / "f", ring, [b"x"])
    assert removed == [1]
    assert read(tmp_path / "f", ring) == [b"x"]


def entry(record: bytes, *, undated: bool = False) -> QuarantineEntry:
    return QuarantineEntry("invalid", "data.hoursLogged", "ge", record, people=("t1_a", "t1_b"), undated=undated)


def records_of(quarantine: Quarantine, ring: KeyRing) -> dict[int, list[bytes]]:
    """Day of the month to records."""
    return {
        day.day: [entry.record for entry in quarantine.entries(ring, "acme-corp", STREAM, day)]
        for day in quarantine.days("acme-corp", STREAM)
    }


def test_quarantine(settings: Settings, ring: KeyRing) -> None:
    quarantine = Quarantine(settings)
    assert quarantine.entries(ring, "acme-corp", STREAM, DAY) == []
    assert quarantine.count(ring, "acme-corp", STREAM, DAY) == 0
    again = quarantine.replace(
        ring, "acme-corp", STREAM, {DAY: [entry(b"one"), entry(b"one"), entry(b"two")], DAYS[0]: []}, attempt="a"
    )
    assert again == {DAYS[0]: 0, DAY: 0}
    one, same, two = quarantine.entries(ring, "acme-corp", STREAM, DAY)
    assert (one.reason, one.field, one.rule, one.record, one.people, one.undated) == (
        "invalid",
        "data.hoursLogged",
        "ge",
        b"one",
        ("t1_a", "t1_b"),
        False,
    )
    assert one == same
    assert len(one.content_key) == 32
    assert one.content_key != two.content_key
    assert "one" not in repr(one)
    assert quarantine.count(ring, "acme-corp", STREAM, DAY) == 3
    assert quarantine.count(ring, "acme-corp", STREAM, DAYS[0]) == 0

    quarantine.replace(ring, "acme-corp", STREAM, {DAY: [entry(b"three")]}, attempt="b")
    assert records_of(quarantine, ring) == {15: [b"three"]}
    quarantine.replace(ring, "acme-corp", STREAM, {DAY: []}, attempt="c")
    assert records_of(quarantine, ring) == {}


def test_content_keys_differ_between_companies(settings: Settings, ring: KeyRing) -> None:
    quarantine = Quarantine(settings)
    other = KeyRing.open(settings, GLOBEX)
    quarantine.replace(ring, "acme-corp", STREAM, {DAY: [entry(b"x")]}, attempt="a")
    quarantine.replace(other, "globex-inc", STREAM, {DAY: [entry(b"x")]}, attempt="a")
    (ours,) = quarantine.entries(ring, "acme-corp", STREAM, DAY)
    (theirs,) = quarantine.entries(other, "globex-inc", STREAM, DAY)
    assert ours.content_key != theirs.content_key


@pytest.mark.parametrize(
    ("cuts", "kept"),
    [
        ([(1, 31), (1, 31)], {1: [b"undated"]}),
        ([(1, 31), (10, 20)], {1: [b"undated"]}),
        ([(10, 20), (1, 31)], {1: [b"undated"]}),
        ([(10, 20), (1, 5)], {10: [b"undated"]}),
        ([(1, 10), (11, 20), (21, 31), (5, 25)], {1: [b"undated"]}),
    ],
)
def test_an_undated_record_is_kept_once_however_the_range_is_cut(
    settings: Settings, ring: KeyRing, cuts: list[tuple[int, int]], kept: dict[int, list[bytes]]
) -> None:
    quarantine = Quarantine(settings)
    for first, last in cuts:
        window: dict[date, list[QuarantineEntry]] = {day: [] for day in DAYS[first - 1 : last]}
        window[DAYS[first - 1]] = [entry(b"undated", undated=True)]
        again = quarantine.replace(ring, "acme-corp", STREAM, window, attempt="a")
        held = sum(len(records) for records in records_of(quarantine, ring).values())
        assert held == 1
        assert sum(again.values()) == (0 if first in records_of(quarantine, ring) else 1)
    assert records_of(quarantine, ring) == kept


def test_dated_records_are_kept_under_each_of_their_days(settings: Settings, ring: KeyRing) -> None:
    quarantine = Quarantine(settings)
    undated = [entry(b"u", undated=True), entry(b"u", undated=True)]
    for day in DAYS[:2]:
        again = quarantine.replace(ring, "acme-corp", STREAM, {day: [entry(b"d"), *undated]}, attempt="a")
        assert again == {day: 1 if day == DAYS[0] else 2}
    assert records_of(quarantine, ring) == {1: [b"d", b"u"], 2: [b"d"]}
