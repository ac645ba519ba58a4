"""schemas ◄ ops ◄ pipeline ◄ jobs: who may import whom, held by reading the source."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ALLOWED = {
    "schemas": {"schemas"},
    "ops": {"schemas", "ops"},
    "pipeline": {"schemas", "ops", "pipeline"},
    "jobs": {"schemas", "ops", "pipeline", "jobs"},
}
RAY_FILES = ("pipeline/on_ray/cluster.py", "pipeline/on_ray/runner.py", "pipeline/on_ray/training.py")


def imported(path: Path) -> set[str]:
    """Every module that a file imports, at the top or inside a function."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import; write the whole name"
            names.add(node.module or "")
    return names


FILES = [path for package in ALLOWED for path in sorted((ROOT / package).rglob("*.py"))]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_one_way(path: Path) -> None:
    package = path.relative_to(ROOT).parts[0]
    roots = {name.split(".")[0] for name in imported(path)}
    assert roots & set(ALLOWED) <= ALLOWED[package]
    if str(path.relative_to(ROOT)) not in RAY_FILES:
        assert "ray" not in roots, "one file for the flow, one for training and one that looks at clusters may import Ray"
    if package == "schemas":
        assert roots <= {"schemas", "pyarrow", *sys.stdlib_module_names}


def test_the_rule_covers_every_package() -> None:
    assert {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"tests"} == set(ALLOWED)
    assert len(FILES) > 40
