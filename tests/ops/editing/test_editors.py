"""Linear and GANSpace edits: their formulas, the official programs' numbers, and what they refuse."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from ops.editing.direction import DirectionEditor, load_direction
from ops.editing.editor import EditError, Editor
from ops.editing.ganspace import (
    GanSpaceBasis,
    GanSpaceEdit,
    GanSpaceEditor,
    read_ganspace_table,
)
from tests.golden import Golden, synthetic_weights

L, D, K = 18, 512, 5


@pytest.fixture
def wplus_NLD() -> torch.Tensor:
    return torch.randn(7, L, D, generator=torch.Generator().manual_seed(3))


def basis() -> GanSpaceBasis:
    random = torch.Generator().manual_seed(4)
    components = torch.linalg.qr(torch.randn(D, K, generator=random))[0].T
    mean = torch.randn(1, D, generator=random)
    return GanSpaceBasis(mean, components[:, None], torch.linspace(2.5, 0.5, K))


def every_editor() -> dict[str, Editor]:
    random = torch.Generator().manual_seed(5)
    return {
        "one row": DirectionEditor(torch.randn(1, D, generator=random)),
        "some rows": DirectionEditor(torch.randn(D, generator=random), rows=(4, 8)),
        "each row its own": DirectionEditor(torch.randn(1, L, D, generator=random)),
        "ganspace": GanSpaceEditor(basis(), GanSpaceEdit("x", 2, (3, 9))),
    }


@pytest.mark.parametrize("kind", every_editor())
def test_batches_may_be_cut_anywhere(kind: str, wplus_NLD: torch.Tensor) -> None:
    editor, strength_N = every_editor()[kind], torch.linspace(-3, 3, 7)
    before = wplus_NLD.clone()
    whole = editor.apply(wplus_NLD, strength_N)
    assert torch.equal(wplus_NLD, before), "the argument was written to"
    assert whole.dtype == torch.float32 and not torch.equal(whole, before)
    for n in range(7):
        assert torch.equal(editor.apply(wplus_NLD[n : n + 1], strength_N[n : n + 1])[0], whole[n])


@pytest.mark.parametrize("kind", every_editor())
def test_the_neutral_strength_gives_the_code_back(kind: str, wplus_NLD: torch.Tensor) -> None:
    editor = every_editor()[kind]
    if editor.neutral is None:
        assert not torch.equal(editor.apply(wplus_NLD, torch.zeros(7)), wplus_NLD)
    else:
        assert torch.equal(editor.apply(wplus_NLD, torch.full((7,), editor.neutral)), wplus_NLD)


@pytest.mark.parametrize("kind", every_editor())
def test_every_editor_says_its_unit(kind: str) -> None:
    assert len(every_editor()[kind].unit) > 10


def test_a_direction_is_added_once_per_unit_of_strength_on_its_rows_only() -> None:
    direction = torch.tensor([1.0, -2.0, 0.5])
    wplus_NLD = torch.zeros(2, 4, 3)
    edited = DirectionEditor(direction, rows=(1, 3)).apply(wplus_NLD, torch.tensor([2.0, -1.0]))
    expected = torch.zeros(2, 4, 3)
    expected[0, 1:3] = torch.tensor([2.0, -4.0, 1.0])
    expected[1, 1:3] = torch.tensor([-1.0, 2.0, -0.5])
    assert torch.equal(edited, expected)


def test_a_direction_of_all_rows_is_indexed_by_row() -> None:
    direction_LD = torch.arange(1.0, 13.0).reshape(4, 3)
    edited = DirectionEditor(direction_LD, rows=(2, 4)).apply(torch.zeros(1, 4, 3), torch.ones(1))
    assert torch.equal(edited[0, 2:], direction_LD[2:]) and not edited[0, :2].any()


def test_linear_edits_undo_themselves_and_swap(wplus_NLD: torch.Tensor) -> None:
    editors = every_editor()
    one, two, strength_N = editors["one row"], editors["some rows"], torch.linspace(-3, 3, 7)
    back = one.apply(one.apply(wplus_NLD, strength_N), -strength_N)
    torch.testing.assert_close(back, wplus_NLD, rtol=0, atol=1e-5)
    swapped = two.apply(one.apply(wplus_NLD, strength_N), strength_N)
    torch.testing.assert_close(one.apply(two.apply(wplus_NLD, strength_N), strength_N), swapped, rtol=0, atol=1e-5)


def test_ganspace_moves_to_its_target_and_stays_there(wplus_NLD: torch.Tensor) -> None:
    b = basis()
    editor = GanSpaceEditor(b, GanSpaceEdit("x", 1, (0, 6)))
    target_N = torch.linspace(-4, 4, 7)
    edited = editor.apply(wplus_NLD, target_N)
    component = b.components_KD[1]
    coordinate_N = (edited[:, 0] - b.mean_D) @ component / b.std_K[1]
    torch.testing.assert_close(coordinate_N, target_N, rtol=0, atol=1e-5)
    torch.testing.assert_close(editor.apply(edited, target_N), edited, rtol=0, atol=1e-5)
    # Nothing moves across the component, and rows outside keep their bits.
    moved_ND = (edited - wplus_NLD)[:, 3]
    along_ND = (moved_ND @ component)[:, None] * component
    torch.testing.assert_close(moved_ND, along_ND, rtol=0, atol=1e-5)
    assert torch.equal(edited[:, 6:], wplus_NLD[:, 6:])


def test_ganspace_measures_the_row_that_it_was_told_to(wplus_NLD: torch.Tensor) -> None:
    b = basis()
    edited = GanSpaceEditor(b, GanSpaceEdit("x", 0, (2, 5), measured_row=4)).apply(wplus_NLD, torch.ones(7))
    coordinate_N = (edited[:, 4] - b.mean_D) @ b.components_KD[0] / b.std_K[0]
    torch.testing.assert_close(coordinate_N, torch.ones(7), rtol=0, atol=1e-5)


def test_editors_refuse_codes_that_they_were_not_made_for() -> None:
    narrow, few = torch.zeros(1, L, D // 2), torch.zeros(1, 5, D)
    for kind, editor in every_editor().items():
        with pytest.raises(EditError, match="belongs to one generator"):
            editor.apply(narrow, torch.zeros(1))
        if kind != "one row":
            with pytest.raises(EditError, match=r"codes \[18, 512\]|have 5 rows"):
                editor.apply(few, torch.zeros(1))
        with pytest.raises(EditError, match="N strengths"):
            editor.apply(torch.zeros(2, L, D), torch.zeros(1))


def test_directions_that_cannot_be_used_are_refused() -> None:
    for direction in (torch.zeros(D), torch.full((D,), torch.nan), torch.full((D,), torch.inf)):
        with pytest.raises(EditError, match="finite and not all zero"):
            DirectionEditor(direction)
    for shape in ((2, L, D), (0,), (2, 2, L, D)):
        with pytest.raises(EditError, match=r"\[D\], \[1, D\] or \[L, D\]"):
            DirectionEditor(torch.ones(shape))
    for rows in ((3, 3), (5, 2), (-1, 2)):
        with pytest.raises(EditError, match="0 <= first < end"):
            DirectionEditor(torch.ones(D), rows=rows)
    with pytest.raises(EditError, match="reach beyond"):
        DirectionEditor(torch.ones(4, 3), rows=(2, 5))


def test_ganspace_refuses_components_and_bases_that_do_not_fit() -> None:
    with pytest.raises(EditError, match="component 5, the basis has 0 to 4"):
        GanSpaceEditor(basis(), GanSpaceEdit("x", K, (0, 3)))
    with pytest.raises(EditError, match="rows count from 0"):
        GanSpaceEditor(basis(), GanSpaceEdit("x", 0, (0, 3), measured_row=-1))
    with pytest.raises(EditError, match=r"mean \[D\]"):
        GanSpaceBasis(torch.zeros(D), torch.zeros(K, D + 1), torch.ones(K))
    with pytest.raises(EditError, match="positive standard deviations"):
        GanSpaceBasis(torch.zeros(D), torch.zeros(K, D), torch.zeros(K))


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".safetensors", ".pt"])
def test_users_files_load(tmp_path: Path, suffix: str) -> None:
    direction, path = torch.arange(1.0, 7.0), tmp_path / f"smile{suffix}"
    match suffix:
        case ".npy":
            np.save(path, direction.numpy().astype(np.float64))
        case ".npz":
            np.savez(path, anything=direction.numpy())
        case ".safetensors":
            safetensors.torch.save_file({"anything": direction}, path)
        case _:
            torch.save(direction, path)
    assert torch.equal(load_direction(path), direction)


class _Bomb:
    def __reduce__(self) -> tuple:
        return (pytest.fail, ("a file was executed",))


def test_files_that_are_no_direction_are_refused_and_never_executed(tmp_path: Path) -> None:
    files = {
        "text.npy": b"hello",
        "text.pt": b"hello",
        "text.safetensors": b"hello",
        "empty.npy": b"",
        "empty.pt": b"",
        "bomb.pt": pickle.dumps(_Bomb(), protocol=2),
        "smile.txt": b"0.5",
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    np.save(tmp_path / "bomb.npy", np.array([_Bomb()], dtype=object), allow_pickle=True)
    torch.save({"a": torch.ones(3), "b": torch.ones(3)}, tmp_path / "dict.pt")
    torch.save({"a": 3}, tmp_path / "number.pt")
    np.savez(tmp_path / "two.npz", a=np.ones(3), b=np.ones(3))
    np.savez(tmp_path / "bomb.npz", a=np.array([_Bomb()], dtype=object))
    torch.save(torch.ones(3, dtype=torch.int64), tmp_path / "whole.pt")
    safetensors.torch.save_file({"a": torch.ones(3), "b": torch.ones(3)}, tmp_path / "two.safetensors")
    for path in [*tmp_path.iterdir(), tmp_path / "missing.pt", tmp_path]:
        with pytest.raises(EditError) as caught:
            load_direction(path)
        assert str(path) in str(caught.value)


# --------------------------------------------------------------------------- the official files and numbers


def test_official_directions_and_table_load(shared: Path) -> None:
    official = shared / "directions" / "official"
    for name, shape in (("age", (1, 512)), ("smile", (1, 512)), ("pose", (1, 18, 512))):
        direction = load_direction(official / f"{name}.pt")
        assert tuple(direction.shape) == shape
        rows = direction.reshape(-1, 512)
        torch.testing.assert_close(rows.norm(dim=1), torch.ones(len(rows)), rtol=0, atol=1e-4)
        DirectionEditor(direction, name=name)
    edits = read_ganspace_table(official / "ganspace_configs.csv")
    assert len(edits) == 42
    assert edits[0] == GanSpaceEdit("frizzy_hair", 31, (2, 6))
    pca = torch.load(official / "ffhq_pca.pt", weights_only=True)
    components = GanSpaceBasis(pca["mean"], pca["comp"], pca["std"])
    assert len({edit.name for edit in edits if GanSpaceEditor(components, edit)}) == 42


@pytest.mark.parametrize("line", ["smile\t46\t4\t5", "smile,46,4,5,-20", "smile\tx\t4\t5\t-20"])
def test_lines_that_are_no_ganspace_row_are_located(tmp_path: Path, line: str) -> None:
    path = tmp_path / "table.csv"
    path.write_text(f"age\t1\t2\t3\t4\n\n{line}\n")
    with pytest.raises(EditError, match="line 3"):
        read_ganspace_table(path)
    with pytest.raises(EditError, match="cannot be read"):
        read_ganspace_table(tmp_path / "missing.csv")


def golden_code(golden: Path) -> torch.Tensor:
    return torch.from_numpy(np.load(golden / "public" / "styleres_e4e.npz")["full/w"])


@pytest.mark.parametrize(("name", "strength"), [("smile", 2.0), ("pose", 3.0)])
def test_interfacegan_gives_the_official_codes(shared: Path, name: str, strength: float) -> None:
    golden = shared / "golden"
    weights = synthetic_weights(golden, "interfacegan")
    direction = next(tensor for key, tensor in weights.items() if name in key)
    edited = DirectionEditor(direction).apply(golden_code(golden), torch.tensor([strength]))
    Golden(golden, f"edit_interfacegan_{name}")("edited_w", edited)


def official_basis(golden: Path) -> GanSpaceBasis:
    weights = synthetic_weights(golden, "ganspace")
    return GanSpaceBasis(weights["mean"], weights["comp"], weights["std"])


@pytest.mark.parametrize(("name", "strength"), [("overexposed", 5.0), ("smile", -20.0)])
def test_ganspace_gives_the_official_codes(shared: Path, name: str, strength: float) -> None:
    golden = shared / "golden"
    table = {e.name: e for e in read_ganspace_table(shared / "directions" / "official" / "ganspace_configs.csv")}
    editor = GanSpaceEditor(official_basis(golden), table[name])
    edited = editor.apply(golden_code(golden), torch.tensor([strength]))
    Golden(golden, f"edit_ganspace_{name}")("edited_w", edited)


def test_all_42_official_ganspace_edits_move_the_official_rows_by_the_official_step(shared: Path) -> None:
    golden = shared / "golden"
    edits = read_ganspace_table(shared / "directions" / "official" / "ganspace_configs.csv")
    components = official_basis(golden)
    vectors = np.load(golden / "public" / "styleres_ganspace_latents.npz")
    wplus = golden_code(golden)
    for edit in edits:
        assert vectors[f"span/{edit.name}"].tolist() == [edit.component, *edit.rows]
        moved_LD = (GanSpaceEditor(components, edit).apply(wplus, torch.tensor([7.0])) - wplus)[0].numpy()
        changed = np.flatnonzero(np.abs(moved_LD).max(axis=1))
        assert changed.tolist() == vectors[f"rows/{edit.name}"].tolist()
        row = vectors[f"row/{edit.name}"]
        for index in changed:
            np.testing.assert_allclose(moved_LD[index], row, rtol=0, atol=2e-4 * np.abs(row).max())
