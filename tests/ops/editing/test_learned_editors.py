"""The editors with weights: StyleCLIP's mapper and GradCtrl. Their formulas, the official numbers, and what they refuse."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from ops.editing.editor import BLOCK, EditError, Editor, in_full_blocks
from ops.editing.gradctrl import CONTROLS, Control, GradCtrlEditor, Heads, load_heads
from ops.editing.styleclip_mapper import Group, MapperEditor, load_mapper
from tests.golden import Golden, synthetic_weights
from tests.ops.editing import official

D = 32
NAMES = ("kind", "old", "loud")
CONTROL = Control((1, 4), {"old": 9, "loud": 5})


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def layers(seed: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [(100 * random(D, D, seed=seed + i), 10 * random(D, seed=seed + 10 + i)) for i in range(4)]


def small_mapper(*groups: Group) -> MapperEditor:
    return MapperEditor({group: layers(seed) for seed, group in enumerate(groups)})


def small_heads() -> Heads:
    count = len(NAMES)
    return Heads(NAMES, random(count, 6, D) / D**0.5, 0.1 * random(count, 6, seed=1), random(count, 6, seed=2), random(count))


def every_editor() -> dict[str, Editor]:
    return {
        "mapper": small_mapper("coarse", "medium", "fine"),
        "gradctrl": GradCtrlEditor(small_heads(), "kind", CONTROL),
    }


@pytest.fixture
def wplus_NLD() -> torch.Tensor:
    return random(37, 10, D, seed=3)


# ------------------------------------------------------------------------------------------------ what both promise


@pytest.mark.parametrize("kind", every_editor())
def test_batches_may_be_cut_anywhere(kind: str, wplus_NLD: torch.Tensor) -> None:
    """To the bit: neither the neighbours nor their number nor the place among them matter."""
    editor, strength_N = every_editor()[kind], torch.linspace(-2, 2, 37)
    before = wplus_NLD.clone()
    whole = editor.apply(wplus_NLD, strength_N)
    assert torch.equal(wplus_NLD, before), "the argument was written to"
    assert whole.dtype == torch.float32 and not torch.equal(whole, before)
    for cut in (1, 5, 16):
        pieces = [editor.apply(w, s) for w, s in zip(wplus_NLD.split(cut), strength_N.split(cut), strict=True)]
        assert torch.equal(torch.cat(pieces), whole)
    order = torch.randperm(37, generator=torch.Generator().manual_seed(0))
    assert torch.equal(editor.apply(wplus_NLD[order], strength_N[order]), whole[order])
    assert editor.apply(wplus_NLD[:0], strength_N[:0]).shape == (0, 10, D)


@pytest.mark.parametrize("count", [0, 1, 15, 16, 17, 40])
def test_blocks_are_always_full_and_cover_every_code_once(count: int) -> None:
    """Matrix kernels are chosen by shape: one shape, the same bits. No code at all is a call too, so that sizes are checked."""
    seen: list[int] = []

    def step(codes: torch.Tensor, strength_N: torch.Tensor) -> torch.Tensor:
        seen.append(len(codes))
        return codes * strength_N[:, None, None]

    codes, strength_N = random(count, 2, 3), random(count, seed=1)
    assert torch.equal(in_full_blocks(step, codes, strength_N), codes * strength_N[:, None, None])
    assert seen == [BLOCK] * -(-count // BLOCK) if count else seen == [0]


@pytest.mark.parametrize("kind", every_editor())
def test_zero_gives_the_code_back_and_the_unit_is_said(kind: str, wplus_NLD: torch.Tensor) -> None:
    editor = every_editor()[kind]
    assert editor.neutral == 0 and len(editor.unit) > 20
    assert torch.equal(editor.apply(wplus_NLD, torch.zeros(37)), wplus_NLD)
    some = torch.where(torch.arange(37) % 2 == 0, 1.0, 0.0)
    still = (editor.apply(wplus_NLD, some) == wplus_NLD).flatten(1).all(dim=1)
    assert torch.equal(still, some == 0), "the others' steps do not reach them"


@pytest.mark.parametrize("kind", every_editor())
def test_codes_of_another_generator_are_refused_before_any_is_there(kind: str) -> None:
    editor = every_editor()[kind]
    with pytest.raises(EditError, match="belongs to one generator"):
        editor.apply(torch.zeros(0, 10, D + 1), torch.zeros(0))
    with pytest.raises(EditError, match="the codes have 3 rows"):
        editor.apply(torch.zeros(0, 3, D), torch.zeros(0))


# ----------------------------------------------------------------------------------------------------------- mapper


def test_a_mapper_by_hand_one_code_at_a_time(wplus_NLD: torch.Tensor) -> None:
    """Normalised over the rows of the group, as the official program does, not over channels."""
    editor = small_mapper("coarse")
    for code in wplus_NLD[:2].double():
        x = code[:4] / (code[:4].square().sum(dim=0) / 4 + 1e-8).sqrt()
        for weight, bias in layers(0):
            x = x @ (weight.double() * 0.01 / D**0.5).T + 0.01 * bias.double()
            x = torch.where(x > 0, x, 0.2 * x) * 2**0.5
        ours = editor.apply(code[None].float(), torch.tensor([0.5]))[0]
        torch.testing.assert_close(ours[:4], (code[:4] + 0.5 * x).float(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("groups", [("coarse",), ("medium",), ("fine",), ("coarse", "fine"), ("coarse", "medium")])
def test_rows_of_absent_groups_keep_their_bits(wplus_NLD: torch.Tensor, groups: tuple[Group, ...]) -> None:
    edited = small_mapper(*groups).apply(wplus_NLD, torch.full((37,), 0.1))
    for group, rows in (("coarse", slice(0, 4)), ("medium", slice(4, 8)), ("fine", slice(8, 10))):
        same = torch.equal(edited[:, rows], wplus_NLD[:, rows])
        assert same == (group not in groups), group


def test_a_mapper_of_coarse_and_medium_fits_a_generator_of_eight_rows() -> None:
    assert small_mapper("coarse", "medium").apply(torch.zeros(1, 8, D), torch.ones(1)).shape == (1, 8, D)
    with pytest.raises(EditError, match="touches rows 8 to 8, the codes have 8 rows"):
        small_mapper("fine").apply(torch.zeros(1, 8, D), torch.ones(1))


def mapper_file(path: Path, *groups: str) -> dict[str, torch.Tensor]:
    state = {}
    for seed, group in enumerate(groups):
        for index, (weight, bias) in enumerate(layers(seed), start=1):
            state |= {f"{group}_mapping.mapping.{index}.weight": weight, f"{group}_mapping.mapping.{index}.bias": bias}
    torch.save(state, path)
    return state


def test_a_mappers_file_says_which_groups_it_has(tmp_path: Path, wplus_NLD: torch.Tensor) -> None:
    mapper_file(tmp_path / "hair.pt", "course", "medium")
    ours = load_mapper(tmp_path / "hair.pt").apply(wplus_NLD, torch.ones(37))
    assert torch.equal(ours, small_mapper("coarse", "medium").apply(wplus_NLD, torch.ones(37)))


def test_files_that_are_no_mapper_are_refused(tmp_path: Path) -> None:
    state = mapper_file(tmp_path / "hair.pt", "course", "medium")
    wrong = {
        "lacks": ({k: v for k, v in state.items() if k != "medium_mapping.mapping.3.bias"}, "medium_mapping.mapping.3.bias"),
        "more": (state | {"course_mapping.mapping.5.bias": torch.ones(D)}, "course_mapping.mapping.5.bias"),
        "narrow": (state | {"course_mapping.mapping.2.weight": torch.ones(D, D - 1)}, "coarse has"),
        "bare": (torch.ones(D), "a tensor without a name"),
    }
    for name, (content, said) in wrong.items():
        torch.save(content, tmp_path / f"{name}.pt")
        with pytest.raises(EditError, match=said):
            load_mapper(tmp_path / f"{name}.pt")
    with pytest.raises(EditError, match="at least one"):
        MapperEditor({})


@pytest.mark.parametrize(
    ("name", "strength", "groups"), [("purple_hair", 0.08, ("coarse", "medium", "fine")), ("afro", 0.1, ("coarse", "medium"))]
)
def test_mappers_give_the_official_codes(shared: Path, name: str, strength: float, groups: tuple[Group, ...]) -> None:
    golden = shared / "golden"
    edited = official.mapper(golden, *groups).apply(official.golden_code(golden), torch.tensor([strength]))
    Golden(golden, f"edit_styleclip_mapper_{name}")("edited_w", edited)


# --------------------------------------------------------------------------------------------------------- GradCtrl


def official_way(
    heads: Heads, control: Control, attribute: str, code_LD: torch.Tensor, steps: list[float], sign: float
) -> torch.Tensor:
    """The official program's loop on one code, in float64: gradients of probabilities by autograd."""
    v = code_LD[0].double().clone()
    for step in steps:
        v.requires_grad_(True)
        probabilities = heads.probabilities(v[None])[0]
        gradients = {
            name: torch.autograd.grad(probabilities[heads.names.index(name)], v, retain_graph=True)[0]
            for name in (attribute, *control.excluded)
        }
        g = gradients[attribute].clone()
        for other, count in control.excluded.items():
            g[gradients[other].abs().argsort()[-count:]] = 0
        v = (v - sign * step * g / g.norm()).detach()
    moved = code_LD.clone()
    moved[slice(*control.rows)] += (code_LD[0].double() - v).float()
    return moved


@pytest.mark.parametrize(
    ("strength", "steps"), [(1.5, [0.5] * 3), (-1.0, [0.5] * 2), (1.2, [0.5, 0.5, 0.2]), (0.3, [0.3]), (-0.3, [0.3])]
)
def test_strength_is_a_length_of_path_in_whole_steps_and_a_shorter_last(
    wplus_NLD: torch.Tensor, strength: float, steps: list[float]
) -> None:
    heads = small_heads()
    ours = GradCtrlEditor(heads, "kind", CONTROL).apply(wplus_NLD[:3], torch.full((3,), strength))
    for code, edited in zip(wplus_NLD[:3], ours, strict=True):
        expected = official_way(heads, CONTROL, "kind", code, steps, 1.0 if strength > 0 else -1.0)
        torch.testing.assert_close(edited, expected, rtol=0, atol=1e-6)
        assert torch.equal(edited[4:], code[4:]) and torch.equal(edited[0], code[0]), "rows 1 to 3 only"


def test_another_learning_rate_takes_other_steps(wplus_NLD: torch.Tensor) -> None:
    heads = small_heads()
    editor = GradCtrlEditor(heads, "kind", CONTROL, learning_rate=0.25)
    expected = official_way(heads, CONTROL, "kind", wplus_NLD[0], [0.25] * 4, 1.0)
    torch.testing.assert_close(editor.apply(wplus_NLD[:1], torch.ones(1))[0], expected, rtol=0, atol=1e-6)


def test_excluded_channels_of_each_code_are_its_own(wplus_NLD: torch.Tensor) -> None:
    heads = small_heads()
    moved_ND = (GradCtrlEditor(heads, "kind", CONTROL).apply(wplus_NLD, torch.full((37,), 0.5)) - wplus_NLD)[:, 1]
    slopes_NAD = heads.slopes(wplus_NLD[:, 0].double())
    for n in range(37):
        most = set(slopes_NAD[n, 1].abs().argsort()[-9:].tolist()) | set(slopes_NAD[n, 2].abs().argsort()[-5:].tolist())
        still = set(torch.nonzero(moved_ND[n] == 0).flatten().tolist())
        assert still == most
    assert len({tuple((row == 0).tolist()) for row in moved_ND}) > 1, "the premise: codes differ in what they leave alone"


def test_where_the_probability_is_one_to_rounding_there_is_still_a_direction() -> None:
    """The official gradient is 0 / 0 there."""
    heads = small_heads()
    sure = Heads(NAMES, heads.hidden_AHD, heads.hidden_bias_AH, heads.output_AH, torch.full((3,), 60.0))
    assert heads.probabilities(torch.zeros(1, D)).max() < 1 == sure.probabilities(torch.zeros(1, D)).min()
    code = random(1, 10, D)
    edited = GradCtrlEditor(sure, "kind", CONTROL).apply(code, torch.full((1,), -1.0))
    assert torch.isfinite(edited).all()
    torch.testing.assert_close((edited - code)[0, 1].norm(), torch.tensor(1.0), rtol=0.2, atol=0)


def test_the_official_classifiers_probability_rises_with_strength(shared: Path) -> None:
    """On codes about the average face, every one of the four attributes, both ways."""
    files = shared / "directions" / "official"
    heads = load_heads(files / "gradctrl_model.pth", files / "gradctrl_model_params.pkl")
    mean_D = torch.load(files / "ffhq_pca.pt", map_location="cpu", weights_only=True)["mean"][0]
    codes = (mean_D + 0.3 * random(12, 1, 512)).expand(12, 18, 512)
    strengths = [-4.5, -3.0, -1.5, -0.25, 0.0, 0.25, 1.5, 3.0, 4.5]
    for attribute, control in CONTROLS.items():
        editor, index = GradCtrlEditor(heads, attribute, control), heads.names.index(attribute)
        row = control.rows[0]
        path = [heads.probabilities(editor.apply(codes, torch.full((12,), s))[:, row])[:, index] for s in strengths]
        steps = torch.stack(path).diff(dim=0)
        assert (steps >= 0).all(), attribute
        assert (path[-1] - path[0]).mean() > 0.3, attribute


def test_gradctrl_gives_the_official_codes(shared: Path) -> None:
    golden, code = shared / "golden", official.golden_code(shared / "golden")
    heads, vectors = official.heads(golden), Golden(golden, "gradctrl_latents")
    np.testing.assert_allclose(heads.probabilities(code[:, 0]), vectors.arrays["clf_prob"][0], rtol=2e-4)
    for attribute, control in CONTROLS.items():
        editor = GradCtrlEditor(heads, attribute, control)
        vectors(f"{attribute}_positive", editor.apply(code, torch.tensor([4.5])))
        vectors(f"{attribute}_negative", editor.apply(code, torch.tensor([-4.5])))
    negative = GradCtrlEditor(heads, "gender", CONTROLS["gender"]).apply(code, torch.tensor([-4.5]))
    Golden(golden, "edit_gradctrl_gender_negative")("edited_w", negative)
    positive = GradCtrlEditor(heads, "smile", CONTROLS["smile"]).apply(code, torch.tensor([2.5]))
    Golden(golden, "edit_gradctrl_smile_positive")("edited_w", positive)


def test_what_gradctrl_cannot_do_is_refused() -> None:
    heads = small_heads()
    with pytest.raises(EditError, match="kind, old, loud, not shy"):
        GradCtrlEditor(heads, "shy", CONTROL)
    with pytest.raises(EditError, match="leaves 32 channels alone"):
        GradCtrlEditor(heads, "kind", Control((1, 4), {"old": 32}))
    with pytest.raises(EditError, match="more than 0"):
        GradCtrlEditor(heads, "kind", CONTROL, learning_rate=0)
    with pytest.raises(EditError, match="more than 1000 steps"):
        GradCtrlEditor(heads, "kind", CONTROL).apply(random(1, 10, D), torch.tensor([1e30]))


def test_classifiers_of_another_design_are_refused(tmp_path: Path, shared: Path) -> None:
    weights = synthetic_weights(shared / "golden", "gradctrl_classifier")
    params = {"attributes": ",".join(official.ATTRIBUTES), "n_attributes": 5, "n_shared_layers": 0, "hidden_size": 16}

    def load(state: dict[str, torch.Tensor], settings: object) -> Heads:
        torch.save(state, tmp_path / "model.pth")
        (tmp_path / "model_params.pkl").write_bytes(pickle.dumps(settings))
        return load_heads(tmp_path / "model.pth", tmp_path / "model_params.pkl")

    assert load(weights, params).names == official.ATTRIBUTES
    first = "classifiers.0.classifier.0.weight"
    for state, settings, said in (
        (weights, params | {"n_shared_layers": 1}, "n_shared_layers 0"),
        (weights, [1], "n_shared_layers 0"),
        (weights, params | {"attributes": "gender,smile"}, "not expected classifiers.2"),
        ({k: v for k, v in weights.items() if k != first}, params, f"missing {first}"),
        (weights | {first: torch.ones(8, 512)}, params, "different sizes"),
        (weights | {f"classifiers.{i}.classifier.2.weight": torch.ones(2, 16) for i in range(5)}, params, "got tensors of"),
    ):
        with pytest.raises(EditError, match=said):
            load(state, settings)
