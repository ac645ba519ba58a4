"""Editors of the user's own: how they are named, what a folder offers, and what is refused before any work."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from ops.editing.definitions import Definition, parse_definition, parse_folder
from ops.editing.direction import DirectionEditor
from ops.editing.editor import EditError, StyleEditor
from ops.editing.ganspace import read_ganspace_table
from ops.editing.library import LoadedEdit, incomplete, load_edits, offers
from ops.editing.recipe import load_recipe, recipe_from_yaml
from ops.editing.values import RecipeError
from ops.generators.protocol import style_channels
from ops.generators.stylegan2_config import StyleGAN2Config
from tests.tiny import CONFIG

TINY, FULL = CONFIG.generator, StyleGAN2Config()
L, D, S = TINY.num_ws, TINY.w_dim, sum(style_channels(TINY).values())
OWN = {"warm": DirectionEditor(torch.ones(D))}


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """One file of every kind that fits the tiny generator."""
    torch.save(random(1, D), tmp_path / "grin.pt")
    np.save(tmp_path / "brows@home=x.npy", random(S).numpy())
    pca = {"mean": random(1, D), "comp": random(3, 1, D), "std": torch.tensor([2.0, 1.0, 0.5])}
    torch.save(pca, tmp_path / "pca.pt")
    (tmp_path / "table.csv").write_text("beard\t0\t2\t6\t20\nhat\t2\t0\t3\t-5\n")
    state = {}
    for group in ("course", "medium"):
        for layer in range(1, 5):
            state[f"{group}_mapping.mapping.{layer}.weight"] = 100 * random(D, D, seed=layer)
            state[f"{group}_mapping.mapping.{layer}.bias"] = random(D)
    torch.save(state, tmp_path / "hair.pt")
    convolutions = sum(size for name, size in style_channels(TINY).items() if not name.endswith("torgb"))
    np.save(tmp_path / "fs3.npy", random(convolutions, 6).numpy())
    safetensors.torch.save_file({"a face": random(6), "a hat": random(6, seed=1)}, tmp_path / "texts.safetensors")
    return tmp_path


def located(*texts: str, at: Path) -> list[Definition]:
    return [parse_definition(text).located(at) for text in texts]


def loaded(*texts: str, at: Path, names: tuple[str, ...] = ()) -> dict[str, LoadedEdit]:
    definitions = located(*texts, at=at)
    return load_edits(names or tuple(offers(definitions)), OWN, definitions, TINY)


# ---------------------------------------------------------------------------------------------------- every kind


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("grin=direction:grin.pt", ["grin"]),
        ("grin=direction:grin.pt@rows=2:6", ["grin"]),
        ("brows = style-direction : brows@home=x.npy", ["brows"]),
        ("pca=ganspace:pca.pt@table=table.csv", ["pca.beard", "pca.hat"]),
        ("first=ganspace:pca.pt@component=0@rows=0:4", ["first"]),
        ("hair=mapper:hair.pt", ["hair"]),
    ],
)
def test_each_kind_by_its_text(folder: Path, text: str, names: list[str]) -> None:
    edits = loaded(text, at=folder)
    assert list(edits) == names
    for edit in edits.values():
        code, strength = random(2, L, D), torch.full((2,), 0.7)
        match edit.editor:
            case StyleEditor() as editor:
                assert editor.offset(strength).shape == (2, S)
            case editor:
                moved = (editor.apply(code, strength) - code).abs().amax(dim=(0, 2)) > 0
                assert moved.any()
                if "rows=2:6" in text:
                    assert torch.nonzero(moved).flatten().tolist() == [2, 3, 4, 5]


def test_a_row_of_a_table_moves_its_component_on_its_rows(folder: Path) -> None:
    edits = loaded("pca=ganspace:pca.pt@table=table.csv", at=folder)
    code = random(1, L, D)
    moved = edits["pca.hat"].editor.apply(code, torch.tensor([2.0])) - code  # type: ignore[attr-defined]
    assert torch.nonzero(moved[0].abs().amax(dim=1)).flatten().tolist() == [0, 1, 2]
    component = torch.load(folder / "pca.pt", weights_only=True)["comp"][2, 0]
    assert abs(torch.cosine_similarity(moved[0, 0], component, dim=0)) > 0.9999


def test_a_global_direction_from_a_table_of_texts(folder: Path, shared: Path) -> None:
    """The deviations are the official file's, so the generator that it was made for is asked for."""
    shutil.copy(shared / "directions" / "official" / "S_mean_std", folder)
    text = "hat=styleclip-global:fs3.npy@texts=texts.safetensors@target=a hat@neutral=a face@disentanglement=0.01"
    with pytest.raises(EditError, match=f"hat: made for an S of 9088 channels, this generator has {S}"):
        loaded(text, at=folder)
    convolutions = sum(size for name, size in style_channels(FULL).items() if not name.endswith("torgb"))
    np.save(folder / "fs3.npy", random(convolutions, 6).numpy())
    edit = load_edits(["hat"], {}, located(text.replace("fs3.npy", "."), at=folder), FULL)["hat"]
    assert isinstance(edit.editor, StyleEditor) and edit.editor.offset(torch.ones(1)).abs().max() > 0
    assert edit.record is not None and "target=a hat" in edit.record and "clip=" not in edit.record
    with pytest.raises(EditError, match="no features of 'a hut'"):
        load_edits(["hat"], {}, located(text.replace("a hat", "a hut"), at=folder), FULL)


# ------------------------------------------------------------------------------------------------ names and mistakes


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("grin", "NAME=KIND:PATH"),
        ("grin=grin.pt", "NAME=KIND:PATH"),
        ("grin=smiler:grin.pt", "styleclip-global"),
        ("9=direction:grin.pt", "NAME=KIND:PATH"),
        ("grin=direction:grin.pt@rows=2", "FIRST:END"),
        ("grin=direction:grin.pt@rows=2:3@rows=2:4", "rows is given twice"),
        ("grin=direction:grin.pt@attribute=smile", "attribute"),
        ("pca=ganspace:pca.pt", "either a table of edits, or one component"),
        ("pca=ganspace:pca.pt@table=t.csv@component=1", "not both"),
        ("pca=ganspace:pca.pt@table=t.csv@rows=1:2", "leave rows out"),
        ("pca=ganspace:pca.pt@component=x", "number from 0"),
        ("hat=styleclip-global:fs3.npy@target=a hat", "neutral"),
        ("hat=styleclip-global:f@target=a@neutral=b@disentanglement=x", "as a number"),
        ("hat=styleclip-global:f@target=a@neutral=b@disentanglement=1@texts=t@clip=c", "nothing for CLIP to do"),
        ("smile=gradctrl:model.pth@learning_rate=0", "greater than 0"),
    ],
)
def test_definitions_that_cannot_be_are_told(text: str, said: str) -> None:
    with pytest.raises(RecipeError, match=said) as caught:
        parse_definition(text)
    assert repr(text) in str(caught.value)


def test_an_at_sign_belongs_to_a_path_unless_an_option_follows() -> None:
    definition = parse_definition("a=direction:me@home/x@y.pt@rows=0:2").located(Path("/data"))
    assert definition.path == Path("/data/me@home/x@y.pt")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("wide=direction:wide.npy", r"wide: made for W\+ codes \[any, 33\], got \[8, 32\]; an edit belongs to one generator"),
        ("none=direction:none.pt", "no such file"),
        ("hair=direction:hair.pt", "expected one tensor"),
        ("grin=mapper:grin.pt", "expected a mapper's tensors"),
        ("pca=ganspace:grin.pt@component=0", "lacks mean, comp, std"),
        ("pca=ganspace:pca.pt@component=3", "the basis has 0 to 2"),
        ("far=direction:grin.pt@rows=7:9", "touches rows 7 to 8, the codes have 8 rows"),
        ("brows=style-direction:grin.pt", f"made for an S of 32 channels, this generator has {S}"),
        ("shy=gradctrl:grin.pt@attribute=shy", "GradCtrl controls gender, smile, eyeglasses, age, got 'shy'"),
    ],
)
def test_files_that_do_not_fit_are_refused(folder: Path, text: str, said: str) -> None:
    np.save(folder / "wide.npy", random(33).numpy())
    with pytest.raises(EditError, match=said):
        loaded(text, at=folder)


def test_names_are_one_edits_only(folder: Path) -> None:
    definitions = located("warm=direction:grin.pt", "grin=direction:grin.pt", at=folder)
    assert list(load_edits(["grin"], OWN, definitions, TINY)) == ["grin"], "a name that is not used disturbs nobody"
    with pytest.raises(RecipeError, match=r"'warm' is the model's own and is defined by .*grin.pt too"):
        load_edits(["warm"], OWN, definitions, TINY)
    with pytest.raises(RecipeError, match="there is no edit 'x'; there are: grin, warm"):
        load_edits(["x"], OWN, definitions, TINY)
    with pytest.raises(RecipeError, match="'grin' is defined twice"):
        offers(located("grin=direction:grin.pt", "grin=mapper:hair.pt", at=folder))
    own = load_edits(["warm"], OWN, [], TINY)["warm"]
    assert own.editor is OWN["warm"] and own.record is None


def test_a_record_says_what_was_read_and_not_where(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    digests = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in ("grin.pt", "pca.pt", "table.csv")}
    grin = loaded("grin=direction:grin.pt@rows=2:6", at=folder)["grin"].record
    assert grin == f"direction path=grin.pt sha256:{digests['grin.pt']} rows=(2, 6)"
    hat = loaded("pca=ganspace:pca.pt@table=table.csv", at=folder)["pca.hat"].record
    files = f"path=pca.pt sha256:{digests['pca.pt']} table=table.csv sha256:{digests['table.csv']}"
    assert hat == f"ganspace {files} component=2 rows=(0, 3)"
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    shutil.copy(folder / "grin.pt", elsewhere)
    assert loaded("grin=direction:grin.pt@rows=2:6", at=elsewhere)["grin"].record == grin
    torch.save(random(1, D, seed=9), elsewhere / "grin.pt")
    assert loaded("grin=direction:grin.pt@rows=2:6", at=elsewhere)["grin"].record != grin


# ----------------------------------------------------------------------------------------------------- in a recipe


def test_a_recipe_brings_its_editors_from_beside_itself(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "recipes").mkdir()
    path = folder / "recipes" / "one.yaml"
    path.write_text(
        "version: 1\nedits: [grin=1, beard.hat=2]\neditors:\n"
        "  grin: {kind: direction, path: ../grin.pt, rows: [2, 6]}\n"
        "  beard: 'ganspace:../pca.pt@table=../table.csv'\n"
    )
    monkeypatch.chdir("/")
    recipe = load_recipe(path)
    edits = load_edits(recipe.names, OWN, recipe.editors, TINY)
    assert list(edits) == ["grin", "beard.hat"]
    bare = recipe_from_yaml("edits: [grin=1, beard.hat=2]")
    assert recipe.recipe_id == bare.recipe_id == bare.id_with({}) != bare.id_with({"grin": "direction …"})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("editors: {grin: 3}", "expected KIND:PATH"),
        ("editors: {grin: {kind: direction}}", "path"),
        ("editors: {grin: {path: x.pt}}", "kind"),
        ("editors: {grin: {kind: direction, path: x.pt, row: [1, 2]}}", "row"),
        ("editors: {grin: 'x.pt'}", "NAME=KIND:PATH"),
        ("editors: [1]", "editors"),
    ],
)
def test_editors_of_a_recipe_that_cannot_be_are_told(text: str, said: str) -> None:
    with pytest.raises(RecipeError, match=said) as caught:
        recipe_from_yaml(f"edits: [grin=1]\n{text}\n", where="one.yaml")
    assert "one.yaml" in str(caught.value)


# ------------------------------------------------------------------------------------------------- official folders


def test_the_official_folder_offers_what_is_whole(shared: Path) -> None:
    definitions = [parse_folder(str(shared / "directions" / "official"))]
    table = read_ganspace_table(shared / "directions" / "official" / "ganspace_configs.csv")
    given = offers(definitions)
    expected = ["age", "smile", "pose", *(f"ganspace.{row.name}" for row in table)]
    expected += [f"gradctrl.{name}" for name in ("gender", "smile", "eyeglasses", "age")]
    assert list(given) == expected and len(expected) == 3 + 42 + 4
    edits = load_edits(given, {}, definitions, FULL)
    assert all(edit.record is not None for edit in edits.values())
    listed = dict(line.split()[1::-1] for line in (shared / "directions" / "official" / "SHA256").read_text().splitlines())
    assert edits["smile"].record == f"direction path=smile.pt sha256:{listed['smile.pt']}"
    notes = incomplete(definitions)
    assert set(notes) == {"mapper", "styleclip-global"}
    assert "purple_hair.pt" in notes["mapper"] and notes["styleclip-global"] == "lacks fs3.npy"


def test_official_directions_do_not_fit_another_generator(shared: Path) -> None:
    definitions = [parse_folder(f"official={shared / 'directions' / 'official'}")]
    assert "official.ganspace.smile" in offers(definitions)
    in_a_recipe = parse_definition(f"official=folder:{shared / 'directions' / 'official'}")
    assert list(offers([in_a_recipe])) == list(offers(definitions))
    with pytest.raises(EditError, match=r"official.pose: made for W\+ codes \[18, 512\], got \[8, 32\]"):
        load_edits(["official.pose"], OWN, definitions, TINY)


def test_the_authors_own_layout_and_more_files(shared: Path, tmp_path: Path) -> None:
    """`editings` as the repository has it, with a mapper and fs3.npy put there."""
    official = shared / "directions" / "official"
    for line in (official / "SHA256").read_text().splitlines():
        _, name, place = line.split()
        target = tmp_path / place.removeprefix("editings/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(official / name, target)
    (tmp_path / "mappers").mkdir()
    torch.save({"course_mapping.mapping.1.weight": torch.ones(1)}, tmp_path / "mappers" / "afro.pt")
    fs3 = tmp_path / "styleclip_directions/styleclip_directions/global_directions/ffhq/fs3.npy"
    np.save(fs3, np.zeros((6048, 512), np.float32))
    definitions = [parse_folder(f"x={tmp_path}")]
    given = offers(definitions)
    assert set(given) == {f"x.{name}" for name in (*offers([parse_folder(str(official))]), "mapper.afro")}
    notes = incomplete(definitions)
    assert "afro.pt" not in notes["x.mapper"] and "angry.pt" in notes["x.mapper"]
    text = notes["x.styleclip-global"].split("--editor ")[1].strip("'")
    definition = parse_definition(text.replace("TEXT", "a face")).located(tmp_path)
    assert all(path.is_file() for path in definition.files().values()), "what it advises names files that are there"
    (tmp_path / "afro.pt").write_bytes(b"")
    with pytest.raises(EditError, match=r"several files are called afro.pt"):
        offers(definitions)


def test_a_folder_without_official_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    for path, said in (
        (tmp_path, "none of the official"),
        (tmp_path / "x", "found nothing"),
        (tmp_path / "notes.txt", "a file"),
    ):
        with pytest.raises(EditError, match=said):
            offers([parse_folder(str(path))])
