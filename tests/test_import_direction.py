"""schemas ◄ ops ◄ pipeline ◄ jobs, and the order of rooms inside them: who may import whom, held by reading the source."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.imports import ORDER, PACKAGES, ROOT, circle, files_of, imported, rooms, upwards

RAY_FOLDER = "pipeline/on_ray/"
FILES = [path for package in PACKAGES for path in files_of(package)]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_one_way(path: Path) -> None:
    package = path.relative_to(ROOT).parts[0]
    roots = {name.split(".")[0] for name in imported(path)}
    assert roots & set(PACKAGES) <= set(PACKAGES[: PACKAGES.index(package) + 1])
    if not str(path.relative_to(ROOT)).startswith(RAY_FOLDER):
        assert "ray" not in roots, f"only {RAY_FOLDER} imports Ray"
    if package == "schemas":
        assert roots <= {"schemas", "pyarrow", *sys.stdlib_module_names}


@pytest.mark.parametrize("package", ORDER)
def test_rooms_stand_in_the_order_of_the_design(package: str) -> None:
    graph = rooms(package)
    assert set(graph) == {room for rank in ORDER[package] for room in rank}, "every room has a place in tests.imports.ORDER"
    assert not upwards(package, graph)
    assert not circle(graph)


def test_a_circle_and_a_step_upwards_are_found(tmp_path: Path) -> None:
    """The test above could otherwise be blind and nobody would notice."""
    for name, text in {
        "nn/a.py": "from ops.generators.b import x\n",
        "generators/b.py": "def f():\n    import ops.nn.a\n",
        "face/c.py": "from ops import device\n",
        "device.py": "",
    }.items():
        path = tmp_path / "ops" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
    graph = rooms("ops", tmp_path)
    assert graph == {"nn": {"generators"}, "generators": {"nn"}, "face": {"device"}, "device": set()}
    assert circle(graph) == ["generators", "nn", "generators"]
    assert upwards("ops", graph) == ["nn imports generators"]


def test_the_rule_covers_every_package() -> None:
    assert {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"tests"} == set(PACKAGES)
    assert len(FILES) > 40
