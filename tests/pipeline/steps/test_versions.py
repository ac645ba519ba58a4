"""A reminder: who changes what a step gives raises its version, or old results count as finished with the new ones."""

from __future__ import annotations

import numpy as np
import pytest

from tests.pipeline.steps.remember import FILE, STEPS, differing, results


@pytest.fixture(scope="module")
def found() -> dict[str, np.ndarray]:
    return results()


@pytest.mark.parametrize("step", STEPS)
def test_what_a_step_gives_is_what_its_version_gave(found: dict[str, np.ndarray], step: str) -> None:
    known, name = np.load(FILE), STEPS[step].__name__
    version, recorded = STEPS[step].VERSION, int(known[f"{step}.version"])
    assert recorded == version, f"{name} has a new version: run python -m tests.pipeline.steps.remember"
    said = differing(found[step], known[step], step)
    assert said is None, (
        f"{step} gives {said}. If that is meant, raise {name}.VERSION and run python -m tests.pipeline.steps.remember: "
        "results of earlier versions are then done again instead of standing beside the new ones"
    )


def test_the_reminder_sees_a_small_change(found: dict[str, np.ndarray]) -> None:
    for step, numbers in found.items():
        changed = numbers.astype(np.float64)
        changed[len(changed) // 2] += 1.0
        assert differing(changed, numbers, step) is not None and differing(numbers[1:], numbers, step) is not None
