"""The whole flow in an object store: inputs, store and outputs in S3 or Google's, with no disk that the steps share."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from jobs.common.prepare import open_store, stored_source
from jobs.doctor import storage
from ops.checkpoints.bundle import Bundle
from ops.files.atomic import PUBLISHING
from pipeline.engine.ledger import Ledger
from pipeline.engine.runner import Worker
from pipeline.engine.stage import Source
from pipeline.sources.fetch import Fetcher
from pipeline.sources.inputs import Probing, entries
from pipeline.store import journal, places, upkeep
from pipeline.store.kept import Kept
from pipeline.store.lock import StoreBusy, Superseded, fenced, held
from pipeline.store.places import Place, Remote, exists, folders, joined, listed, local_file, place, upload
from pipeline.store.tables import DamagedPart, Store
from tests import needs, tiny
from tests.pipeline import test_pictures

needs.package("moto")
pytestmark = pytest.mark.slow
BUCKET = "clips"
REQUESTS: Counter[str] = Counter()
"""What the server of S3 was asked, by method."""


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """The URL of an empty bucket on a real server, which this process and its children find by their environment."""
    import boto3
    from moto.server import DomainDispatcherApplication, ThreadedMotoServer

    answered = DomainDispatcherApplication.__call__

    def counted(self: Any, environ: dict[str, Any], start_response: Any) -> Any:
        REQUESTS[environ["REQUEST_METHOD"]] += 1
        return answered(self, environ, start_response)

    DomainDispatcherApplication.__call__ = counted
    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host.replace('0.0.0.0', '127.0.0.1')}:{port}"
    variables = {"ACCESS_KEY_ID": "x", "SECRET_ACCESS_KEY": "y", "DEFAULT_REGION": "us-east-1", "ENDPOINT_URL": endpoint}
    with found_by({f"AWS_{name}": value for name, value in variables.items()} | {"AWS_EC2_METADATA_DISABLED": "true"}):
        boto3.client("s3").create_bucket(Bucket=BUCKET)
        yield f"s3://{BUCKET}"
    server.stop()
    DomainDispatcherApplication.__call__ = answered


GOOGLE_SERVER = """
import sys
from functools import partial
from http.server import ThreadingHTTPServer
from gcp_storage_emulator.handlers.buckets import create_bucket
from gcp_storage_emulator.server import RequestHandler
from gcp_storage_emulator.storage import Storage

storage = Storage(use_memory_fs=True)
create_bucket(sys.argv[1], storage)
server = ThreadingHTTPServer(("127.0.0.1", 0), partial(RequestHandler, storage))
print(server.server_port, flush=True)
server.serve_forever()
"""


@pytest.fixture(scope="module")
def gs() -> Iterator[str]:
    """As `s3`, of Google's kind. A process of its own: pyarrow holds the interpreter's lock while it waits for an answer."""
    needs.package("gcp_storage_emulator")
    server = subprocess.Popen([sys.executable, "-c", GOOGLE_SERVER, BUCKET], stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    port = int(server.stdout.readline())
    with found_by({"STORAGE_EMULATOR_HOST": f"http://127.0.0.1:{port}"}):
        yield f"gs://{BUCKET}"
    server.kill()
    server.wait()


@contextmanager
def found_by(variables: Mapping[str, str]) -> Iterator[None]:
    """The environment in which the servers are found, and no connection from before or to later."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        places.filesystem.cache_clear()
        yield
    places.filesystem.cache_clear()


@pytest.fixture(params=["s3", "gs"])
def bucket(request: pytest.FixtureRequest) -> str:
    """Both kinds, one after the other."""
    url: str = request.getfixturevalue(request.param)
    return url


def put(url: str, path: Path) -> str:
    with places.writing(place(url)) as file:
        file.write(path.read_bytes())
    return url


def test_places_read_and_write_the_same_here_and_there(bucket: str, tmp_path: Path) -> None:
    for root in (place(f"{bucket}/places"), tmp_path):
        with pytest.raises(RuntimeError), places.writing(root / "half") as file:
            file.write(b"half a file")
            raise RuntimeError
        assert not exists(root / "half") and listed(root) == [] and folders(root / "none") == []
        places.write_text(joined(root, "a/b.txt"), "words")
        places.write_text(joined(root, "a/c.bin"), "more")
        assert [(one.path.name, one.size_bytes) for one in listed(root / "a")] == [("b.txt", 5), ("c.bin", 4)]
        assert [one.path.name for one in listed(root / "a", ".txt")] == ["b.txt"] and folders(root) == ["a"]
        with local_file(joined(root, "a/b.txt")) as local:
            assert local.read_text() == "words"
        places.remove(joined(root, "a/b.txt"))
        places.remove(joined(root, "a/b.txt"))
        assert places.size_of(joined(root, "a/b.txt")) is None and places.size_of(joined(root, "a/c.bin")) == 4
        places.write_text(joined(root, "a/deep/d.txt"), "words")
        places.move(joined(root, "a/c.bin"), joined(root, "a/moved/c.bin"))
        assert folders(root / "a") == ["deep", "moved"] and not exists(joined(root, "a/c.bin"))
        places.remove_tree(root / "a")
        places.remove_tree(root / "a")
        assert folders(root) == [] and not exists(joined(root, "a/deep/d.txt"))


def test_a_folder_of_many_objects_goes_with_a_request_for_a_thousand(s3: str) -> None:
    import boto3

    client, root = boto3.client("s3"), place(f"{s3}/many")
    for number in range(1005):
        client.put_object(Bucket=BUCKET, Key=f"many/a & <b>/{number}", Body=b"x")
    places.write_text(joined(root, "other"), "stays")
    before = REQUESTS.total()
    places.remove_tree(root / "a & <b>")
    assert REQUESTS.total() - before == 4 and [one.path.name for one in listed(root)] == ["other"] and folders(root) == []


def test_the_flow_gives_the_same_in_a_bucket_as_on_a_disk(bucket: str, tmp_path: Path, bundle: Bundle, source: Source) -> None:
    here, _ = tiny.inverted(tmp_path / "store", [source], bundle)
    (ours,), _ = tiny.rendered(tmp_path / "out", here, [source], bundle, "warm=1", sheet_frames=2)
    url = put(f"{bucket}/in/talks/marked.mp4", Path(source.uri))
    lost: list[object] = []
    (remote,) = Probing(entries([f"{bucket}/in"]), lost.append)
    assert not lost and remote.uri == url and remote.source_id == source.source_id
    assert remote.output_name == "talks/marked.mp4"
    there, inverting = tiny.inverted(place(f"{bucket}/store"), [remote], bundle)
    videos, rendering = tiny.rendered(place(f"{bucket}/out"), there, [remote], bundle, "warm=1", sheet_frames=2)
    assert not inverting.lost and not rendering.lost
    for name, rows in tiny.rows_of(here).items():
        assert tiny.rows_of(there)[name].equals(rows), name
    made = joined(place(f"{bucket}/out"), f"talks/{videos[0].name}")
    assert isinstance(made, Remote) and made.read_bytes() == ours.read_bytes()
    sheet = made.with_name(f"{made.stem}.contact_sheet.png")
    assert sheet.read_bytes() == ours.with_suffix(".contact_sheet.png").read_bytes()
    assert there.verify(remote.source_id) == {} and there.is_complete(remote.source_id)
    assert folders(joined(there.root, "work/segments")) == [] and folders(joined(there.root, "ledger/render")) == []
    again, second = tiny.inverted(place(f"{bucket}/store"), [remote], bundle)
    assert second.sources_skipped == 1 and second.counts["faces"] == 0
    # Damage, repair, deletion: the same there.
    path = again.parts("latents", remote.source_id)[0].path
    with places.writing(path) as file:
        file.write(b"PAR1")
    assert len(Ledger(again).put_damaged_aside(remote.source_id)) == 1 and not exists(path)
    assert exists(joined(again.root, f".damaged/latents/{remote.source_id}/{path.name}"))
    tiny.inverted(place(f"{bucket}/store"), [remote], bundle)
    assert Store.open(f"{bucket}/store").read("latents").equals(here.read("latents"))
    # Joining and deleting: folders cannot trade places there.
    store = Store.open(f"{bucket}/store")
    before, after = upkeep.compact(store, remote.source_id)
    assert before > after and store.verify(remote.source_id) == {} and store.is_complete(remote.source_id)
    for name, rows in tiny.rows_of(here).items():
        assert tiny.rows_of(store)[name].equals(rows), name
    upkeep.delete_track(store, remote.source_id, 0)
    assert 0 not in store.read("latents")["track_id"].to_pylist() and store.verify(remote.source_id) == {}
    assert journal.unfinished(store.root) == [] and folders(joined(store.root, ".joining")) == []
    store.delete_source(remote.source_id)
    assert Store.open(f"{bucket}/store").stored_source_ids() == []


def test_pictures_in_a_bucket(bucket: str, tmp_path: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same rows and files as on a disk, few objects, and nothing is read again where nothing has changed."""
    paths = test_pictures.write(tmp_path / "in", 10)
    test_pictures.edit(tmp_path, bundle)
    for path in paths:
        put(f"{bucket}/set/in/deep/{path.name}", path)
    root = place(f"{bucket}/set")
    summary = test_pictures.edit(root, bundle)
    assert not summary.lost and summary.counts["edits"] == 10
    ours, theirs = test_pictures.rows_of(tmp_path), test_pictures.rows_of(root)
    for table in ("sources", "frames", "faces", "tracks", "latents", "residuals", "edits"):
        assert theirs[table] == ours[table], table
    made = {name.rsplit("/", 1)[-1]: data for name, data in contents_of(joined(root, "out")).items()}
    assert {name: made[name] for name in made if "sheet" not in name} == {
        name: data for name, data in test_pictures.files_of(tmp_path).items() if "sheet" not in name
    }
    store = Store.open(str(joined(root, "store")))
    (pack_id,) = store.holders()
    assert store.verify(pack_id) == {} and len(contents_of(store.root)) == 12
    with monkeypatch.context() as patch:
        patch.setattr(Fetcher, "data", None)
        assert test_pictures.edit(root, bundle).sources_skipped == 10
    put(f"{bucket}/set/in/deep/0003.png", test_pictures.write(tmp_path / "more", 1, start=30)[0])
    again = test_pictures.edit(root, bundle, overwrite=True)
    assert again.sources_skipped == 9 and again.counts["faces"] == again.counts["edits"] == 1
    (removed, _), key = upkeep.delete_track(store, test_pictures.key_of(paths[5]), 0), test_pictures.key_of(paths[5])
    assert removed["latents"] == 1 and Store.open(str(store.root)).read("latents", key).num_rows == 0
    found = [name for one in Store.open(str(store.root)).holders() for name in store.verify(one)]
    assert all(name.startswith("manifests/render-") for name in found), "only that an edited file was replaced"


def test_a_picture_takes_few_requests(s3: str, tmp_path: Path, bundle: Bundle) -> None:
    """What sixteen pictures more cost: reading one, looking for its edited file and writing it."""
    counts = []
    for name, count in (("few", 4), ("more", 20)):
        for path in test_pictures.write(tmp_path / name, count):
            put(f"{s3}/{name}/in/{path.name}", path)
        before = REQUESTS.total()
        assert not test_pictures.edit(place(f"{s3}/{name}"), bundle, sheets="job", chunk_frames=32).lost
        counts.append(REQUESTS.total() - before)
    assert (counts[1] - counts[0]) / 16 <= 6, (counts, REQUESTS)


def asked_for_a_clip(folder: Place, source: Source, bundle: Bundle, chunk_frames: int) -> int:
    """Requests of inverting and rendering it in a new store."""
    before = REQUESTS.total()
    store, inverting = tiny.inverted(joined(folder, "store"), [source], bundle, chunk_frames=chunk_frames)
    encode = replace(tiny.LOSSLESS, gop_frames=chunk_frames)
    out = joined(folder, "out")
    _, rendering = tiny.rendered(out, store, [source], bundle, "warm=1", encode=encode, chunk_frames=chunk_frames)
    assert not inverting.lost and not rendering.lost
    return REQUESTS.total() - before


def test_a_chunk_takes_few_requests(s3: str, bundle: Bundle, source: Source) -> None:
    """Of all steps together; a clip in 21 chunks of two frames against one in 6 of eight. Three steps write four parts, a
    segment, what it measured and three entries: nine. The tenth reads the segment; parts are read from memory.

    What is not of a chunk is what a run asks about a store, and a clip's own: lists of what there is of it, manifests, whole
    tables, its output.
    """
    url = put(f"{s3}/chunked/marked.mp4", Path(source.uri))
    remote = replace(source, info=replace(source.info, uri=url), modified_ns=None)
    few, many = (asked_for_a_clip(place(f"{s3}/chunked/{frames}"), remote, bundle, frames) for frames in (8, 2))
    chunks = -(-source.info.n_frames // 8), -(-source.info.n_frames // 2)
    assert (many - few) / (chunks[1] - chunks[0]) <= 10, (few, many, REQUESTS)
    assert few - 10 * chunks[0] <= 85, (few, REQUESTS)


def test_a_chunk_takes_few_requests_where_no_worker_has_anothers_parts(
    s3: str, bundle: Bundle, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on many nodes at worst: the parts of a chunk are read by each step after it, and the plan by each chunk."""
    url = put(f"{s3}/apart/marked.mp4", Path(source.uri))
    remote = replace(source, info=replace(source.info, uri=url), modified_ns=None)
    run = Worker.run

    def elsewhere(self: Worker, stage: str, items: Any) -> Any:
        monkeypatch.setattr(places, "KEPT", Kept())
        return run(self, stage, items)

    monkeypatch.setattr(Worker, "run", elsewhere)
    few, many = (asked_for_a_clip(place(f"{s3}/apart/{frames}"), remote, bundle, frames) for frames in (8, 2))
    chunks = -(-source.info.n_frames // 8), -(-source.info.n_frames // 2)
    assert (many - few) / (chunks[1] - chunks[0]) <= 17, (few, many, REQUESTS)


def test_a_source_of_a_store_is_found_with_one_look_at_its_manifest(
    s3: str, bundle: Bundle, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = put(f"{s3}/found/marked.mp4", Path(source.uri))
    remote = replace(source, info=replace(source.info, uri=url), modified_ns=None)
    store, _ = tiny.inverted(joined(place(f"{s3}/found"), "store"), [remote], bundle)
    read, looks = Store._manifest_there, []

    def counted(self: Store, stage: str, source_id: str) -> Any:
        looks.append((stage, source_id))
        return read(self, stage, source_id)

    monkeypatch.setattr(Store, "_manifest_there", counted)
    found = stored_source(store, source.source_id, pytest.fail, allow_hdr=False)
    assert found is not None and looks == [("invert", source.source_id)]
    store.read_manifest("invert", source.source_id)
    assert len(looks) == 2, "what it is later is looked at again"


def test_a_part_that_another_process_replaced_is_read_anew(s3: str, bundle: Bundle, source: Source) -> None:
    """As long as the one that this process wrote and remembers, and not the same."""
    import boto3

    remote = replace(source, info=replace(source.info, uri=put(f"{s3}/replaced/in/marked.mp4", Path(source.uri))))
    store, _ = tiny.inverted(place(f"{s3}/replaced/store"), [remote], bundle)
    before = REQUESTS["GET"]
    rows = store.read("latents", source.source_id)
    assert REQUESTS["GET"] - before <= 2, "the premise: it only lists"
    (path, *_) = (part.path for part in store.parts("latents", source.source_id))
    assert isinstance(path, Remote)
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    boto3.client("s3").put_object(Bucket=BUCKET, Key=path.bucket[1], Body=bytes(data))
    with pytest.raises(DamagedPart, match=path.name):
        store.read("latents", source.source_id)
    data[100] ^= 1
    boto3.client("s3").put_object(Bucket=BUCKET, Key=path.bucket[1], Body=bytes(data))
    assert store.read("latents", source.source_id).equals(rows)


def contents_of(folder: Place) -> dict[str, bytes]:
    return {name: joined(folder, name).read_bytes() for name in places.sizes_below(folder)}


def test_a_writer_looks_at_the_lock_now_and_then(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not for each file; and never so late that the next run has begun."""
    root, now = place(f"{s3}/fenced"), [100.0]
    monkeypatch.setattr("pipeline.store.lock.SETTLE_SECONDS", 0.0)
    with held(root, "edit", beat_seconds=60):
        fence = PUBLISHING.get()
        lock = (root / ".lock").read_text()
    monkeypatch.setattr("pipeline.store.lock.SETTLE_SECONDS", 2.0)
    monkeypatch.setattr("pipeline.store.lock.time", SimpleNamespace(monotonic=lambda: now[0]))
    places.write_text(root / ".lock", lock)  # as a killed driver leaves it
    with fenced(fence):
        before = REQUESTS["GET"]
        for at in range(8):
            now[0] = 100 + 0.5 * at
            places.write_text(root / "part", "mine")
        assert REQUESTS["GET"] - before == 2
        upload(memoryview(lock.replace('"owner": "', '"owner": "another').encode()), root / ".lock")
        now[0] = 103.9
        places.write_text(root / "part", "the next run waits until 104")
        now[0] = 104.0
        for _ in range(2):
            with pytest.raises(Superseded):
                places.write_text(root / "part", "late")
    assert (root / "part").read_text() == "the next run waits until 104"


def test_a_store_is_made_beside_the_lock_of_whoever_makes_it(bucket: str, bundle: Bundle) -> None:
    """As every command does it: the lock first, and then the store."""
    root = place(f"{bucket}/made/store")
    with held(root, "invert", beat_seconds=5):
        assert exists(root / ".lock") and listed(root) == []
        open_store(root, bundle, "float16")
    assert Store.open(str(root)).info.residual_codec == "float16"


def test_doctor_looks_at_a_bucket(bucket: str) -> None:
    checks = {check.what: check for check in storage(f"{bucket}/new/store")}
    assert checks["store's place"].state == "ok" and "none yet" in checks["store"].found
    assert listed(place(f"{bucket}/new/store")) == []
    (check,) = storage(f"{bucket}-of-nobody/store")
    assert check.state == "missing" and f"{bucket}-of-nobody/store cannot be written" in check.found


def test_a_lock_in_a_bucket_is_held_while_it_beats_and_taken_over_when_it_stops(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = place(f"{bucket}/locked")
    monkeypatch.setattr("pipeline.store.lock.SETTLE_SECONDS", 0.2)
    with (
        held(root, "edit", beat_seconds=0.2),
        pytest.raises(StoreBusy, match="styleres edit, process"),
        held(root, "invert", beat_seconds=0.5),
    ):
        pass
    assert not exists(root / ".lock")
    places.write_text(root / ".lock", '{"owner": "a", "job": "edit", "host": "another", "pid": 1, "beat": 7}')
    with held(root, "invert", beat_seconds=0.2):
        pass
    assert threading.active_count() < 50
