"""Who imports whom, read from the source: packages, and the rooms (folders) inside `ops` and `pipeline`.

`python -m tests.imports` prints the rooms in order, each with the rooms that it imports. `ORDER` is what the design says; the
test compares the two.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]
PACKAGES: Final = ("schemas", "ops", "pipeline", "jobs", "styleres")
"""From the lowest to the highest: each may import those before it."""

ORDER: Final[Mapping[str, tuple[tuple[str, ...], ...]]] = {
    "ops": (
        ("device", "spaces", "local_polynomial", "files", "nn"),
        ("generators", "video", "networks"),
        ("face",),
        ("inversion", "editing"),
        ("checkpoints/formats", "data"),
        ("checkpoints",),
        ("metrics",),
        ("training",),
    ),
    "pipeline": (("store",), ("engine",), ("sources", "on_ray"), ("steps",), ("flow",)),
    "jobs": (("common",), ("",)),
}
"""Rooms of a package by rank, lowest first. A room may import every room of a lower rank, and its own rank where that makes
no circle. A file directly in `ops` or `pipeline` is a room of its own; those in `jobs` (one per command) are one."""


def imported(path: Path) -> set[str]:
    """Every module that a file imports, at the top or inside a function; `from a import b` gives `a` and `a.b`."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import; write the whole name"
            names |= {node.module or ""} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def files_of(package: str, root: Path = ROOT) -> list[Path]:
    return sorted((root / package).rglob("*.py"))


def room_of(package: str, module: str) -> str | None:
    """The room that a module such as `ops.nn.ir` belongs to; None for the package itself and for other packages.

    The longest folder that `ORDER` names, so that a folder inside a room may have a rank of its own.
    """
    parts = module.split(".")
    if parts[0] != package or len(parts) == 1:
        return None
    known = {room for rank in ORDER[package] for room in rank}
    inside = ["/".join(parts[1:end]) for end in range(len(parts), 1, -1)]
    found = next((name for name in inside if name in known), None)
    return found if found is not None else ("" if "" in known else parts[1])


def rooms(package: str, root: Path = ROOT) -> dict[str, set[str]]:
    """Room => the other rooms of the package that its files import."""
    graph: dict[str, set[str]] = {}
    for path in files_of(package, root):
        module = ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
        room = room_of(package, module)
        if room is None:
            continue
        targets = {room_of(package, name) for name in imported(path)}
        graph.setdefault(room, set()).update(name for name in targets if name is not None and name != room)
    return {room: {name for name in targets if name in graph} for room, targets in graph.items()}


def circle(graph: Mapping[str, Iterable[str]]) -> list[str]:
    """Rooms that import each other in a circle, the first of them again at the end; [] if there is none."""
    done: set[str] = set()

    def visit(room: str, way: list[str]) -> list[str]:
        if room in way:
            return [*way[way.index(room) :], room]
        if room in done:
            return []
        for target in sorted(graph.get(room, ())):
            if found := visit(target, [*way, room]):
                return found
        done.add(room)
        return []

    return next((found for room in sorted(graph) if (found := visit(room, []))), [])


def upwards(package: str, graph: Mapping[str, Iterable[str]]) -> list[str]:
    """`ROOM imports ROOM`, for every import of a room of a higher rank."""
    rank = {room: at for at, names in enumerate(ORDER[package]) for room in names}
    return [f"{room} imports {target}" for room in graph for target in graph[room] if rank[target] > rank[room]]


def main() -> None:
    for package in PACKAGES:
        print(package)
        if package not in ORDER:
            continue
        graph = rooms(package)
        for rank in ORDER[package]:
            for room in rank:
                print(f"    {room or 'commands':<22}{', '.join(name or 'commands' for name in sorted(graph.get(room, ())))}")
        print(f"    circles: {' -> '.join(circle(graph)) or 'none'}")


if __name__ == "__main__":
    main()
