"""Inputs of every kind: what they are called, what they decode to, and that listing keeps nothing."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from ops.video.image import load_image
from pipeline.engine.stage import Source
from pipeline.sources.fetch import Fetcher, is_plain, member_of
from pipeline.sources.inputs import Entry, Probing, entries, inside, is_explicit
from pipeline.sources.readers import Readers
from schemas import Failure


def picture(number: int) -> np.ndarray:
    return np.full((6, 8, 3), number, np.uint8)


def png(number: int) -> bytes:
    out = io.BytesIO()
    Image.fromarray(picture(number)).save(out, format="PNG")
    return out.getvalue()


def found(*arguments: object) -> list[Entry]:
    listed = list(entries([str(one) for one in arguments]))
    assert all(isinstance(one, Entry) for one in listed)
    return sorted((one for one in listed if isinstance(one, Entry)), key=lambda one: one.uri)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "photos"
    for number, name in enumerate(["a.png", "sub/b.png", "sub/deep/c.PNG", ".hidden/d.png", "notes.txt"]):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(png(number))
    return root


def test_a_folder_is_every_medium_below_it(folder: Path) -> None:
    assert [one.name for one in found(folder)] == ["a.png", "sub/b.png", "sub/deep/c.PNG"]
    assert found(folder)[1].uri == str(folder / "sub" / "b.png")


def test_globs_name_results_from_their_first_wildcard_on(folder: Path) -> None:
    assert [one.name for one in found(folder / "*" / "*.png")] == ["sub/b.png"]
    assert [one.name for one in found(folder / "**" / "*.png")] == ["a.png", "sub/b.png"]


def test_a_file_is_itself_whatever_its_name(folder: Path) -> None:
    odd = folder / "what[1].png"
    odd.write_bytes(png(9))
    hashed = folder / "a.tar#b.png"
    hashed.write_bytes(png(9))
    assert [one.name for one in found(odd, hashed)] == ["a.tar#b.png", "what[1].png"]
    assert is_explicit(str(odd)) and is_plain(str(hashed)) and not is_explicit(str(folder))
    assert member_of("s3://b/x.tar#m/n.jpg") == ("s3://b/x.tar", "m/n.jpg")


def test_a_list_names_inputs_line_by_line(folder: Path, tmp_path: Path) -> None:
    listing = tmp_path / "list.txt"
    listing.write_text(f"{folder}/a.png\n\n{folder}/sub\n")
    assert [one.name for one in found(f"@{listing}")] == ["a.png", "b.png", "deep/c.PNG"]


def shard(path: Path, numbers: list[int]) -> Path:
    with tarfile.open(path, "w") as tar:
        for number in numbers:
            for suffix, data in (("png", png(number)), ("json", b"{}")):
                info = tarfile.TarInfo(f"people/{number:04d}.{suffix}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return path


def read_one(source: Source) -> np.ndarray:
    ((_, frame),) = Readers("auto").read(source, 0, 1)
    return frame


def test_webdataset_shards_and_parquet_rows_are_images(tmp_path: Path) -> None:
    shard(tmp_path / "00000.tar", [1, 2])
    shard(tmp_path / "00001.tar", [3])
    pq.write_table(pa.table({"label": [0, 1], "image": [png(4), png(5)]}), tmp_path / "plain.parquet")
    nested = pa.array([{"bytes": png(6), "path": None}, {"bytes": png(7), "path": "x.png"}])
    pq.write_table(pa.table({"image": nested}), tmp_path / "nested.parquet", row_group_size=1)
    lost: list[Failure] = []
    arguments = [str(tmp_path / name) for name in ("{00000..00001}.tar", "plain.parquet", "nested.parquet")]
    sources = list(Probing(entries(arguments), lost.append))
    assert not lost and [int(read_one(source)[0, 0, 0]) for source in sources] == [1, 2, 3, 4, 5, 6, 7]
    assert [source.output_name for source in sources] == [
        "00000/people/0001.png", "00000/people/0002.png", "00001/people/0003.png",
        "plain/000000000", "plain/000000001", "nested/000000000", "nested/000000001",
    ]  # fmt: skip
    assert len({source.source_id for source in sources}) == 7
    assert all(source.info.kind == "image" for source in sources)


def test_names_of_members_stay_inside() -> None:
    assert inside("../../etc/passwd.png") == "etc/passwd.png" and inside("/x/./y.png") == "x/y.png"


@pytest.mark.parametrize("what", ["folder", "pattern/*.png", "missing.png", "broken.tar", "broken.parquet", "@nothing.txt"])
def test_what_names_nothing_is_a_failure_with_its_name(tmp_path: Path, what: str) -> None:
    (tmp_path / "folder").mkdir()
    for name in ("broken.tar", "broken.parquet"):
        (tmp_path / name).write_bytes(b"neither")
    argument = f"@{tmp_path}/nothing.txt" if what.startswith("@") else str(tmp_path / what)
    lost: list[Failure] = []
    assert list(Probing(entries([argument]), lost.append)) == []
    assert len(lost) == 1 and what.removeprefix("@") in lost[0].message and lost[0].stage == "probe"


def test_a_changed_source_is_not_read(folder: Path) -> None:
    (source,) = Probing(entries([str(folder / "a.png")]), lambda failure: None)
    assert int(read_one(source)[0, 0, 0]) == 0
    path = folder / "a.png"
    kept = path.read_bytes()
    path.write_bytes(png(77)[: len(kept)].ljust(len(kept), b"\0"))
    with pytest.raises(Exception, match="not the file that was probed"):
        read_one(source)
    path.write_bytes(kept)  # another time, the same bytes
    assert int(read_one(source)[0, 0, 0]) == 0
    path.unlink()
    with pytest.raises(Exception, match="gone since it was probed"):
        read_one(source)


def test_copies_make_room_for_others(tmp_path: Path) -> None:
    numbers = list(range(50))
    path = shard(tmp_path / "s.tar", numbers)
    fetcher = Fetcher(limit_bytes=1)
    paths = [fetcher.path(f"{path}#people/{number:04d}.png") for number in numbers]
    assert sum(one.exists() for one in paths) == 32
    assert int(load_image(fetcher.path(f"{path}#people/0000.png")).frame[0, 0, 0]) == 0, "fetched again"


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.slow
def test_a_million_entries_are_listed_without_being_kept(tmp_path: Path) -> None:
    """A list of a million paths, a folder and a glob of twenty thousand: kept, they would take hundreds of megabytes."""
    with open(tmp_path / "list.txt", "w") as file:
        file.writelines(f"/data/{number:07d}.png\n" for number in range(1_000_000))
    many = tmp_path / "many"
    many.mkdir()
    for number in range(20_000):
        (many / f"{number:07d}.png").touch()
    for argument, expected in ((f"@{tmp_path}/list.txt", 1_000_000), (f"{many}/*.png", 20_000), (str(many), 20_000)):
        before = resident_bytes()
        assert sum(1 for _ in entries([argument])) == expected
        assert resident_bytes() - before < 8 << 20, argument
