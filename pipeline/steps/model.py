"""Opens the model of a store, as a worker finds it on its own node."""

from __future__ import annotations

import platform

from ops.checkpoints.bundle import Bundle, open_bundle
from pipeline.store.tables import Store, StoreError


def open_model(path: str, store: Store) -> Bundle:
    """Open the bundle at `path`, and compare it with the digest in the store that its codes go to or come from.

    A path may name other files on another node, or others than when the run began: their rows would look alike and mean
    something else. Reads the bundle's files once per process.

    Raises:
        StoreError: the bundle differs from the one that the store was made with.
        CheckpointError: there is no bundle at the path.
    """
    bundle = open_bundle(path)
    if bundle.digest != store.info.model_digest:
        raise StoreError(
            f"{bundle.path} on {platform.node()}: model {bundle.name!r} with digest {bundle.digest[:16]}, but {store.root} is "
            f"of model {store.info.model_name!r} with digest {store.info.model_digest[:16]}; put the same files on every node"
        )
    return bundle
