"""Write `golden.npz` from the transcription: python -m tests.exact.make"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

import numpy as np

from tests.exact.transcription import everything

FILE: Final = Path(__file__).with_name("golden.npz")


def main() -> None:
    arrays, weights = everything()
    spec = json.dumps({name: [list(shape), *rest] for name, (shape, *rest) in weights.asked.items()})
    np.savez_compressed(FILE, weights=np.array(spec), **{name: one.astype(np.float32) for name, one in arrays.items()})
    print(f"{FILE.name}: {FILE.stat().st_size} bytes, {len(weights.asked)} weights")


if __name__ == "__main__":
    main()
