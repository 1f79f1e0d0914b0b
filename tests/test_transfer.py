"""Copying through fsspec: what a source may be, resume, checksums, and what is said of a source that cannot be read."""

from __future__ import annotations

import base64
import hashlib
import logging
import multiprocessing
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from pipeline import transfer
from pipeline.errors import UserError
from pipeline.params import Fetch
from tests import remote

CONTENT = bytes(range(256)) * 12_000  # more than a client holds before it is read


def copied(source: object, folder: Path, by_hand: str = "", **settings: Any) -> None:
    address = None if source is None else str(source)
    transfer.copy(transfer.Source.of(Fetch(source=address, **settings), by_hand), folder)


def names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(autouse=True)
def _in_tmp_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(transfer, "FIRST_PAUSE", 0.01)


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    folder = tmp_path / "raw"
    folder.mkdir()
    return folder


def test_a_file_a_folder_and_a_glob_are_fetched(tmp_path: Path, raw: Path) -> None:
    (raw / "deep").mkdir()
    for name in ("a.nc", "b.nc", "deep/c.nc"):
        (raw / name).write_bytes(name.encode())
    for source, expected in (
        (raw / "a.nc", {"a.nc"}),
        (raw, {"a.nc", "b.nc", "deep/c.nc"}),
        (raw / "[bc].nc", {"b.nc"}),
        (tmp_path / "r*" / "*.nc", {"raw/a.nc", "raw/b.nc"}),
        (f"file://{raw}/b.nc", {"b.nc"}),
    ):
        out = tmp_path / "out" / str(len(str(source)))
        copied(source, out)
        assert names(out) == expected


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (None, "fetch.source is empty; name a file"),
        ("nowhere/*.nc", r"nothing is at 'nowhere/\*\.nc'"),
        ("nowhere.nc", r"nothing is at 'nowhere\.nc'"),
        ("odd://x/y.nc", r"'odd://x/y\.nc' cannot be read: Protocol not known: odd"),
        ("http://127.0.0.1:9/x.nc", r"nothing is at 'http://127\.0\.0\.1:9/x\.nc' \(Cannot connect to host"),
    ],
)
def test_a_source_that_is_not_there_is_named(tmp_path: Path, source: str | None, message: str) -> None:
    with pytest.raises(UserError, match=message):
        copied(source, tmp_path / "out")


@pytest.mark.parametrize("source", [None, "nowhere", "empty"])
def test_what_must_be_downloaded_by_hand_is_said_where_it_is_missing(tmp_path: Path, source: str | None) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="; get it from there and put it here"):
        copied(source, tmp_path / "out", by_hand="get it from there and put it here")


# ---- stores on other machines


@contextmanager
def served(kind: str, folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    if kind == "http":
        with remote.web(folder / remote.BUCKET) as web:
            yield web.address, {}
    else:
        with remote.s3(folder) if kind == "s3" else remote.gcs(folder / remote.BUCKET) as (address, storage):
            yield address, storage


@pytest.mark.parametrize("kind", ["http", "s3", "gcs"])
def test_files_come_whole_from_a_store(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "BLOCK_BYTES", 500_000)
    bucket = tmp_path / "served" / remote.BUCKET
    bucket.mkdir(parents=True)
    for number in range(12):
        (bucket / f"{number}.nc").write_bytes(CONTENT[number:])
    with served(kind, tmp_path / "served") as (address, storage):
        source = f"{address}/3.nc" if kind == "http" else f"{address}/*.nc"
        copied(source, tmp_path / "out", storage=storage)
    there = {number for number in range(12) if kind != "http" or number == 3}
    assert names(tmp_path / "out") == {f"{number}.nc" for number in there}
    assert all((tmp_path / "out" / f"{number}.nc").read_bytes() == CONTENT[number:] for number in there)


@pytest.mark.parametrize("kind", ["s3", "gcs"])
def test_what_a_store_says_of_a_file_is_checked(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The copy is spoilt on its way: the store itself never gives other bytes than it sums."""
    bucket = tmp_path / "served" / remote.BUCKET
    bucket.mkdir(parents=True)
    (bucket / "a.nc").write_bytes(CONTENT)
    original = transfer._append

    def spoiling(job: transfer.Job, output: Any, *rest: Any) -> None:
        original(job, output, *rest)
        output.seek(-1, 2)
        output.truncate()
        output.write(b"x")

    monkeypatch.setattr(transfer, "_append", spoiling)
    md5 = hashlib.md5(CONTENT).hexdigest()
    with served(kind, tmp_path / "served") as (address, storage):
        message = rf"bucket/a\.nc came with md5 [0-9a-f]{{32}}, but its object store says {md5}; the copy was thrown"
        with pytest.raises(UserError, match=message):
            copied(f"{address}/a.nc", tmp_path / "out", storage=storage)
        assert not list((tmp_path / ".work").rglob("a.nc*"))
        monkeypatch.setattr(transfer, "_append", original)
        copied(f"{address}/a.nc", tmp_path / "out", storage=storage)
    assert (tmp_path / "out" / "a.nc").read_bytes() == CONTENT


@pytest.mark.parametrize(("head", "refused"), [({}, True), ({"ServerSideEncryption": "aws:kms"}, False)])
def test_an_encrypted_objects_etag_is_no_md5(head: dict[str, str], refused: bool, tmp_path: Path, raw: Path) -> None:
    class Bucket:
        protocol = ("s3",)

        def split_path(self, path: str) -> tuple[str, str, None]:
            return "bucket", path, None

        def call_s3(self, method: str, **_: str) -> dict[str, str]:
            return head

    (raw / "a.nc.part").write_bytes(CONTENT)
    expected = transfer.checksums.published({"StorageClass": "STANDARD", "ETag": f'"{"0" * 32}"'})
    job = transfer.Job(transfer.File(Bucket(), "a.nc", "a.nc"), raw / "a.nc", len(CONTENT), expected)
    if refused:
        with pytest.raises(UserError, match="its object store says 0000"):
            transfer._check(job)
    else:
        transfer._check(job)
    assert (raw / "a.nc.part").exists() != refused


# ---- going on after a break


def found(web: remote.Web, name: str, **troubles: int) -> transfer.Source:
    """A file of a server that misbehaves once it is to be copied."""
    source = transfer.Source.of(Fetch(source=f"{web.address}/{name}"))
    for key, value in troubles.items():
        setattr(web, key, value)
    web.starts.clear()
    return source


def test_a_copy_that_broke_off_goes_on_by_itself(tmp_path: Path, raw: Path) -> None:
    (raw / "t.nc").write_bytes(CONTENT)
    with remote.web(raw) as web:
        source = found(web, "t.nc", breaks_after=1_000_000)
        transfer.copy(source, tmp_path / "out")
    assert (tmp_path / "out" / "t.nc").read_bytes() == CONTENT
    assert len(web.starts) >= 4
    assert web.starts == sorted(web.starts)


def test_a_copy_that_was_given_up_goes_on_where_it_stopped(
    tmp_path: Path, raw: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "ATTEMPTS", 1)
    (raw / "t.nc").write_bytes(CONTENT)
    with remote.web(raw) as web:
        source = found(web, "t.nc", breaks_after=1_000_000, breaks=1)
        with pytest.raises(UserError, match=r"t\.nc' cannot be read"):
            transfer.copy(source, tmp_path / "out")
        assert not (tmp_path / "out").exists()
        there = next((tmp_path / ".work").rglob("t.nc.part")).stat().st_size
        web.starts.clear()
        transfer.copy(source, tmp_path / "out")
    assert there > 0
    assert web.starts == [there]
    assert (tmp_path / "out" / "t.nc").read_bytes() == CONTENT


def test_a_server_without_ranges_starts_again(tmp_path: Path, raw: Path) -> None:
    (raw / "t.nc").write_bytes(CONTENT)
    with remote.web(raw, ranges=False) as web:
        transfer.copy(found(web, "t.nc", breaks_after=1_000_000, breaks=1), tmp_path / "out")
    assert (tmp_path / "out" / "t.nc").read_bytes() == CONTENT
    assert web.starts == [0, 0]


def test_a_server_that_never_gets_further_is_given_up(tmp_path: Path, raw: Path) -> None:
    (raw / "t.nc").write_bytes(CONTENT)
    with remote.web(raw) as web, pytest.raises(UserError, match=r"t\.nc' cannot be read"):
        transfer.copy(found(web, "t.nc", breaks_after=0), tmp_path / "out")
    assert set(web.starts) == {0}
    assert transfer.ATTEMPTS <= len(web.starts) <= 2 * transfer.ATTEMPTS  # the client itself may ask twice


def _copy_slowly(address: str, folder: Path) -> None:
    transfer.BLOCK_BYTES = 4096
    append = transfer._append

    def slow(job: transfer.Job, output: Any, tell: Any, stop: Any) -> None:
        def wait(units: int) -> None:
            tell(units)
            time.sleep(0.05)

        append(job, output, wait, stop)

    transfer._append = slow
    copied(address, folder)


def test_a_killed_copy_goes_on_where_it_stopped(tmp_path: Path, raw: Path) -> None:
    (raw / "t.nc").write_bytes(CONTENT)
    with remote.web(raw) as web:
        address = f"{web.address}/t.nc"
        process = multiprocessing.get_context("spawn").Process(target=_copy_slowly, args=(address, tmp_path / "out"))
        process.start()
        try:
            while not (parts := list((tmp_path / ".work").rglob("t.nc.part"))) or parts[0].stat().st_size < 8192:
                assert process.is_alive()
                time.sleep(0.02)
        finally:
            process.kill()
            process.join()
        there = parts[0].stat().st_size
        copied(address, tmp_path / "out")
    assert 8192 <= there < len(CONTENT)
    assert web.starts[-1] == there
    assert (tmp_path / "out" / "t.nc").read_bytes() == CONTENT


def test_a_part_of_another_version_is_not_continued(tmp_path: Path, raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "ATTEMPTS", 1)
    (raw / "t.nc").write_bytes(b"old" * 1_000_000)
    with remote.web(raw) as web:
        source = found(web, "t.nc", breaks_after=1_000_000, breaks=1)
        with pytest.raises(UserError):
            transfer.copy(source, tmp_path / "out")
        assert next((tmp_path / ".work").rglob("t.nc.part")).stat().st_size > 0
        (raw / "t.nc").write_bytes(b"new" * 999_999)
        copied(f"{web.address}/t.nc", tmp_path / "out")
    assert (tmp_path / "out" / "t.nc").read_bytes() == b"new" * 999_999


def test_one_file_that_cannot_be_read_stops_the_others_and_loses_none(tmp_path: Path, raw: Path) -> None:
    for number in range(20):
        (raw / f"{number:02d}.nc").write_bytes(CONTENT)
    sums = "".join(f"{hashlib.sha256(CONTENT).hexdigest()}  {number:02d}.nc\n" for number in range(20))
    wrong = sums.replace(f"{hashlib.sha256(CONTENT).hexdigest()}  07", f"{'0' * 64}  07")
    (tmp_path / "sums").write_text(wrong)
    with pytest.raises(UserError, match=r"07\.nc came with sha256"):
        copied(raw, tmp_path / "out", checksums=str(tmp_path / "sums"))
    assert not (tmp_path / "out").exists()
    (tmp_path / "sums").write_text(sums)
    copied(raw, tmp_path / "out", checksums=str(tmp_path / "sums"))
    assert len(names(tmp_path / "out")) == 20


# ---- checksums


@pytest.mark.parametrize("algorithm", ["md5", "sha256", "sha512"])
@pytest.mark.parametrize("form", ["{sum}  ./deep/{name}\n", "{sum} *{name}\n", "SHA ({name}) = {sum}\n"])
def test_lists_of_sums_are_read_as_their_programs_write_them(
    algorithm: str, form: str, tmp_path: Path, raw: Path
) -> None:
    (raw / "deep").mkdir()
    (raw / "deep" / "a.nc").write_bytes(CONTENT)
    value = hashlib.new(algorithm, CONTENT).hexdigest()
    (tmp_path / "sums").write_text(form.format(sum=value, name="a.nc"))
    copied(raw, tmp_path / "out", checksums=str(tmp_path / "sums"))

    (tmp_path / "sums").write_text(form.format(sum=hashlib.new(algorithm, b"").hexdigest(), name="a.nc"))
    with pytest.raises(UserError, match=rf"deep/a\.nc came with {algorithm} {value}, but .*sums says"):
        copied(raw, tmp_path / "again", checksums=str(tmp_path / "sums"))
    assert not list((tmp_path / ".work").rglob("a.nc*"))


def test_the_sum_of_the_file_in_the_most_similar_folder_counts(tmp_path: Path, raw: Path) -> None:
    listed = []
    for folder in ("z", "t"):
        (raw / folder).mkdir()
        (raw / folder / "1979.nc").write_bytes(folder.encode())
        listed.append(f"{hashlib.md5(folder.encode()).hexdigest()}  5.625deg/{folder}/1979.nc")
    (tmp_path / "sums").write_text("\n".join(listed))
    with remote.web(tmp_path) as web:
        copied(raw, tmp_path / "out", checksums=f"{web.address}/sums")
    (raw / "z" / "1979.nc").rename(raw / "1979.nc")
    with pytest.raises(UserError, match=r"sums lists 2 different sums of .*raw/1979\.nc"):
        copied(raw / "1979.nc", tmp_path / "again", checksums=str(tmp_path / "sums"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "lists no sums; lines of sha256sum"),
        ("<html>", r"line 1 of .*sums is no sum: '<html>'; expected is a line of sha256sum"),
        ("abc123  a.nc", "line 1 of .*sums is no sum: 'abc123  a.nc'"),
        (f"{'0' * 64}  b.nc", r"lists no sum of .*a\.nc; every file needs one"),
    ],
)
def test_a_list_that_is_none_is_refused(text: str, message: str, tmp_path: Path, raw: Path) -> None:
    (raw / "a.nc").write_bytes(b"a")
    (tmp_path / "sums").write_text(text)
    with pytest.raises(UserError, match=message):
        copied(raw, tmp_path / "out", checksums=str(tmp_path / "sums"))


def test_an_absent_list_is_named(tmp_path: Path, raw: Path) -> None:
    (raw / "a.nc").write_bytes(b"a")
    with pytest.raises(UserError, match="nothing is at 'nowhere'"):
        copied(raw, tmp_path / "out", checksums="nowhere")


# ---- secrets, and what a source may not do


def test_no_password_or_signature_is_shown(
    tmp_path: Path, raw: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.INFO)
    (raw / "t.nc").write_bytes(CONTENT)
    header = "Basic " + base64.b64encode(b"me:opensesame").decode()
    messages = []
    with remote.web(raw, password=header, breaks_after=1_000_000) as web:
        address = web.address.replace("//", "//me:opensesame@") + "/t.nc?X-Amz-Signature=c0ffee"
        copied(address, tmp_path / "out")
        for wrong in (address.replace("opensesame@", "opensesame2@"), address.replace("t.nc", "u.nc")):
            with pytest.raises(UserError) as error:
                copied(wrong, tmp_path / "again")
            messages.append(str(error.value))
    assert (tmp_path / "out" / "t.nc").read_bytes() == CONTENT
    assert "broke off" in caplog.text
    everything = "".join([caplog.text, *capfd.readouterr(), *messages, *map(str, (tmp_path / ".work").rglob("*"))])
    assert not [secret for secret in ("opensesame", "c0ffee") if secret in everything]
    assert "t.nc?..." in messages[0]


def test_wrong_keys_are_refused_and_not_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    (tmp_path / "served" / remote.BUCKET).mkdir(parents=True)
    (tmp_path / "served" / remote.BUCKET / "a.nc").write_bytes(CONTENT)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "reader")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "opensesame")
    with (
        remote.s3(tmp_path / "served", ("reader", "another")) as (address, storage),
        pytest.raises(UserError, match=r"fetch\.source: '\S+' cannot be read: ") as error,
    ):
        copied(f"{address}/a.nc", tmp_path / "out", storage=storage)
    assert "opensesame" not in str(error.value) + caplog.text


def test_secrets_stay_out_of_the_parameters() -> None:
    with pytest.raises(ValidationError, match="looks like a secret"):
        Fetch(storage={"client_kwargs": {"aws_secret_access_key": "opensesame"}})


def test_an_option_that_a_store_does_not_know_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"fetch.storage has an option that 'https://\S+' does not take: .*'colour'"):
        copied("https://127.0.0.1:9/a.nc", tmp_path / "out", storage={"client_kwargs": {"colour": "red"}})


def test_a_path_that_climbs_out_of_its_folder_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("../../t.nc", CONTENT)
    with pytest.raises(UserError, match=r"the path '\.\./\.\./t\.nc' leads out of its folder; nothing was copied"):
        copied(f"zip://::{tmp_path}/a.zip", tmp_path / "out")
    assert not list(tmp_path.rglob("t.nc"))


def test_a_files_name_may_stand_in_the_query(tmp_path: Path, raw: Path) -> None:
    (raw / "download").write_bytes(CONTENT)
    with remote.web(raw) as web:
        copied(f"{web.address}/download?path=%2F5.625deg&files=z.zip", tmp_path / "out")
    assert names(tmp_path / "out") == {"z.zip"}


def test_a_full_disk_is_known_before_the_copy(tmp_path: Path, raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (raw / "a.nc").write_bytes(CONTENT)
    monkeypatch.setattr(transfer.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    with pytest.raises(UserError, match=r"the files still need 0\.0 GB, but 0\.0 GB are free here"):
        copied(raw, tmp_path / "out")


# ---- tables for the captioner's prompt


def test_tables_are_copied_beside_the_raw_files(tmp_path: Path, raw: Path) -> None:
    for name in ("weather.csv", "holidays.csv"):
        (raw / name).write_text(f"time,{name}\n")
    settings = Fetch(source="s3://bucket", storage={"anon": True}, context=tuple(str(raw / n) for n in names(raw)))
    transfer.copy_context(settings, tmp_path / "out")
    assert names(tmp_path / "out") == {"context/weather.csv", "context/holidays.csv"}
    transfer.copy_context(Fetch(), tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_a_table_does_not_replace_one_that_the_data_set_wrote(tmp_path: Path, raw: Path) -> None:
    (raw / "events.csv").write_text("time,event\n")
    own = tmp_path / "out" / "context" / "events.csv"
    own.parent.mkdir(parents=True)
    own.write_text("the data set's")
    with pytest.raises(UserError, match=r"the data set has a table events\.csv of its own; rename \S+events\.csv"):
        transfer.copy_context(Fetch(context=(str(raw / "events.csv"),)), tmp_path / "out")
    assert own.read_text() == "the data set's"


def test_two_tables_of_one_name_are_refused(tmp_path: Path, raw: Path) -> None:
    (raw / "deep").mkdir()
    for name in ("weather.csv", "deep/weather.csv"):
        (raw / name).write_text("time\n")
    with pytest.raises(UserError, match=r"fetch\.context: \S+ and \S+weather\.csv have one name; rename one"):
        transfer.copy_context(Fetch(context=(str(raw / "weather.csv"), str(raw / "deep"))), tmp_path / "out")
