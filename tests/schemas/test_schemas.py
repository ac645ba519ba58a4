"""Keys, versions and the description of every table."""

from __future__ import annotations

import ast
import hashlib
import re
from pathlib import Path

import pyarrow as pa
import pytest

import schemas

SHAPES = {"wplus_shape": (18, 512), "residual_shape": (512, 64, 64), "residual_codec": "float16"}


@pytest.mark.parametrize("table", schemas.TABLES)
def test_every_table_begins_with_the_keys_and_names_itself_and_its_version(table: str) -> None:
    schema = schemas.table_schema(table, **SHAPES)
    assert schema.names[:3] == ["source_id", "track_id", "pts"]
    assert schema.field("track_id").type == pa.int32()
    assert schema.field("pts").type == pa.int64()
    assert schema.metadata[schemas.TABLE_KEY] == table.encode()
    assert schema.metadata[schemas.SCHEMA_VERSION_KEY] == schemas.SCHEMA_VERSION.encode()
    assert set(schemas.primary_key(table)) <= set(schema.names)


@pytest.mark.parametrize("table", schemas.TABLES)
def test_the_readme_describes_every_column_and_no_other(table: str) -> None:
    readme = (Path(schemas.__file__).parent / "README.md").read_text("utf-8")
    section = re.search(rf"^## {table}$(.*?)(?=^## )", readme, re.M | re.S)
    assert section is not None
    cells = re.findall(r"^\| (`[^|]*) \|", section[1], re.M)
    described = [name for cell in cells for name in re.findall(r"`(\w+)`", cell)]
    # `pts` of failures may be null, which its own section says; the keys are described once, above.
    shapes = SHAPES | {"residual_codec": "int8"}  # which has a column more
    own = [n for n in schemas.table_schema(table, **shapes).names if n not in ("source_id", "track_id", "pts")]
    assert [name for name in described if name != "pts"] == own


@pytest.mark.parametrize("table", schemas.TABLES)
def test_nulls_are_where_the_readme_says(table: str) -> None:
    readme = (Path(schemas.__file__).parent / "README.md").read_text("utf-8")
    section = re.search(rf"^## {table}$(.*?)(?=^## )", readme, re.M | re.S)
    assert section is not None
    said = set()
    for cell, kind in re.findall(r"^\| (`[^|]*) \| ([^|]*) \|", section[1], re.M):
        if "null" in kind:
            said |= set(re.findall(r"`(\w+)`", cell))
    assert {f.name for f in schemas.table_schema(table, **SHAPES) if f.nullable} == said


def test_the_readme_states_the_version() -> None:
    readme = (Path(schemas.__file__).parent / "README.md").read_text("utf-8")
    assert f"version **{schemas.SCHEMA_VERSION}**" in readme


def test_the_source_key_is_the_start_of_the_digest() -> None:
    digest = hashlib.sha256(b"a video").hexdigest()
    assert schemas.source_id_from_sha256(digest) == digest[:16]
    for wrong in (digest[:-1], digest.upper(), "", digest + "0"):
        with pytest.raises(schemas.SchemaError, match="64 lower-case hex"):
            schemas.source_id_from_sha256(wrong)


def test_keys_of_unreadable_sources_are_stable_and_never_those_of_readable_ones() -> None:
    key = schemas.source_id_of_unreadable("missing.mp4")
    assert key == schemas.source_id_of_unreadable("missing.mp4")
    assert key != schemas.source_id_of_unreadable("other.mp4")
    assert len(key) == 16 and not re.fullmatch("[0-9a-f]+", key)
    assert schemas.source_id_of_unreadable("\udcff.mp4")  # a name that is not UTF-8


@pytest.mark.parametrize("version", ["1.0", "1.7"])
def test_versions_of_our_major_pass(version: str) -> None:
    schemas.check_version(version, where="here")


@pytest.mark.parametrize(
    ("version", "says"),
    [
        ("2.0", "upgrade styleres-video"),
        ("0.9", "invert the sources again"),
        ("", "must read like"),
        ("1", "like"),
    ],
)
def test_other_versions_are_refused_with_the_remedy(version: str, says: str) -> None:
    with pytest.raises(schemas.SchemaError, match=says) as caught:
        schemas.check_version(version, where="the store at hand")
    assert "the store at hand" in str(caught.value)


@pytest.mark.parametrize("codec", schemas.RESIDUAL_CODECS)
def test_a_residual_field_says_how_its_bytes_lie(codec: schemas.ResidualCodec) -> None:
    field = schemas.residuals_schema((8, 4, 2), codec).field("residual")
    assert schemas.residual_layout(field) == ((8, 4, 2), codec)
    assert field.type.byte_width == 64 * {"float16": 2, "float32": 4, "int8": 1}[codec]


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"endian": "big"}, "little-endian"),
        ({"order": "F"}, "C order"),
        ({"dtype": "int4"}, "codec is one of"),
    ],
)
def test_layouts_that_we_do_not_write_are_refused(changed: dict[str, str], says: str) -> None:
    field = schemas.residuals_schema((2,), "float32").field("residual")
    metadata = {k.decode(): v.decode() for k, v in field.metadata.items()} | changed
    with pytest.raises(schemas.SchemaError, match=says):
        schemas.residual_layout(field.with_metadata(metadata))


def test_a_residual_field_without_metadata_is_refused() -> None:
    field = schemas.residuals_schema((2,), "float32").field("residual").remove_metadata()
    with pytest.raises(schemas.SchemaError, match="dtype, endian, order, shape"):
        schemas.residual_layout(field)


@pytest.mark.parametrize("shape", [(18,), (18, 0), (1, 18, 512)])
def test_codes_have_two_positive_sizes(shape: tuple[int, ...]) -> None:
    with pytest.raises(schemas.SchemaError, match=r"\(L, D\)"):
        schemas.latents_schema(shape)


@pytest.mark.parametrize("shape", [(), (8, 0)])
def test_residuals_have_positive_sizes(shape: tuple[int, ...]) -> None:
    with pytest.raises(schemas.SchemaError, match="positive sizes"):
        schemas.residuals_schema(shape, "float32")


def test_unknown_tables_are_refused_with_the_list() -> None:
    with pytest.raises(schemas.SchemaError, match="sources, frames"):
        schemas.table_schema("videos", **SHAPES)
    with pytest.raises(schemas.SchemaError, match="sources, frames"):
        schemas.primary_key("videos")


def test_failures_keep_what_is_not_known_as_null() -> None:
    lost = [
        schemas.Failure("s", "a.mp4", "probe", "media_error", "a.mp4: empty"),
        schemas.Failure("s", "a.mp4", "invert", "worker_died", track_id=2, pts=-5, last_pts=9, attempts=2),
    ]
    rows = schemas.failures_table(lost).to_pylist()
    assert [(r["track_id"], r["pts"], r["last_pts"], r["attempts"]) for r in rows] == [
        (-1, None, None, 1),
        (2, -5, 9, 2),
    ]
    assert schemas.failures_table([]).num_rows == 0


def test_schemas_import_pyarrow_and_the_standard_library_only() -> None:
    import sys

    for path in Path(schemas.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            for name in names:
                top = name.split(".")[0]
                assert top in {"pyarrow", "schemas"} or top in sys.stdlib_module_names, f"{path.name}: {name}"
