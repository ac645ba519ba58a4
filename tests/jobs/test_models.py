"""convert, doctor and fetch as people call them."""

from __future__ import annotations

import functools
import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from click.testing import Result
from typer.testing import CliRunner

import jobs.doctor
from jobs.cli import app
from ops.checkpoints.bundle import open_bundle
from tests.jobs.conftest import tree
from tests.ops.checkpoints import foreign


def run(*arguments: object) -> Result:
    """The command; an exception that is no exit is a bug."""
    result = CliRunner().invoke(app, [str(one) for one in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


# -------------------------------------------------------------------------------------------------------------- convert


def test_convert_writes_a_bundle_and_says_what_is_next(tmp_path: Path) -> None:
    foreign.styleres_file(tmp_path / "s.pt")
    out = tmp_path / "cars"
    ran = run("convert", tmp_path / "s.pt", "--out", out, "--crop", "none", "--content", "24x32", "--name", "mine", "--half")
    assert ran.exit_code == 0 and "styleres, 32 px, 8 rows" in ran.stdout and f"--model {out}" in ran.stdout
    bundle = open_bundle(out)
    assert bundle.name == "mine" and bundle.framing.crop == "none" and bundle.framing.content_hw == (24, 32)
    card = (out / "README.md").read_text()
    assert hashlib.sha256((tmp_path / "s.pt").read_bytes()).hexdigest() in card and "non-commercial" in card
    before = tree(tmp_path)
    again = run("convert", tmp_path / "s.pt", "--out", out)
    assert again.exit_code == 1 and "--overwrite" in again.stderr and tree(tmp_path) == before


def test_convert_of_a_generator_says_that_it_is_for_training(tmp_path: Path) -> None:
    foreign.persistent_pickle(tmp_path / "n.pkl", {"G_ema": foreign.nvidia_state()}, conv_clamp=None)
    ran = run("convert", tmp_path / "n.pkl", "--out", tmp_path / "prior", "--format", "nvidia")
    assert ran.exit_code == 0 and "styleres train e0 --prior" in ran.stdout
    assert sorted(p.name for p in (tmp_path / "prior").iterdir()) == ["README.md", "config.json", "generator.safetensors"]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--content", "wide"], "HEIGHTxWIDTH"),
        (["--crop", "none", "--content", "99x32"], "at most 32 px"),
        (["--crop", "none", "--content", "23x32"], "no whole pixels"),
        (["--content", "24x32"], "aligned faces fill the square"),
        (["--format", "e4e"], "--format says e4e"),
        (["--preset", "ffhq1024"], "does not broadcast to 18 rows"),
    ],
)
def test_convert_refuses_what_does_not_fit(tmp_path: Path, more: list[str], said: str) -> None:
    foreign.styleres_file(tmp_path / "s.pt")
    before = tree(tmp_path)
    ran = run("convert", tmp_path / "s.pt", "--out", tmp_path / "o", *more)
    assert ran.exit_code == 1 and said in ran.stderr and "Traceback" not in ran.stderr and tree(tmp_path) == before


# --------------------------------------------------------------------------------------------------------------- doctor


def test_doctor_knows_models_files_and_folders(tmp_path: Path) -> None:
    foreign.styleres_file(tmp_path / "s.pt")
    foreign.e4e_file(tmp_path / "e.pt")
    foreign.persistent_pickle(tmp_path / "n.pkl", {"G_ema": foreign.nvidia_state()}, conv_clamp=None)
    torch.save({"g_ema": foreign.rosinality_generator()}, tmp_path / "g.pt")
    torch.save(torch.zeros(1, 512), tmp_path / "d.pt")
    assert run("convert", tmp_path / "g.pt", "--out", tmp_path / "prior").exit_code == 0
    assert run("convert", tmp_path / "s.pt", "--out", tmp_path / "bundle").exit_code == 0
    for name, what, then in (
        ("mini64", "a bundle", "styleres edit INPUT --model mini64"),
        (tmp_path / "bundle", "a bundle", f"--model {tmp_path / 'bundle'}"),
        (tmp_path / "prior", "a generator without an encoder", "styleres train e0"),
        (tmp_path / "s.pt", "a StyleRes checkpoint in the official layout", f"styleres convert {tmp_path / 's.pt'}"),
        (tmp_path / "e.pt", "an e4e checkpoint", "styleres convert"),
        (tmp_path / "n.pkl", "an NVIDIA StyleGAN network pickle", "styleres convert"),
        (tmp_path / "g.pt", "a rosinality StyleGAN2 generator", "styleres convert"),
        (tmp_path / "d.pt", "an edit direction", "--edit"),
    ):
        ran = run("doctor", name)
        assert ran.exit_code == 0 and what in ran.stdout and then in ran.stdout and "SHA-256" in ran.stdout, name
        facts = json.loads(run("doctor", name, "--json").stdout)
        assert facts["what"] == what and facts["problem"] is None and len(facts["sha256"]) == 64
    assert json.loads(run("doctor", tmp_path / "s.pt", "--json").stdout)["facts"]["generator"].startswith("32 px, 8 rows")


def test_doctor_names_the_official_edit_files_and_their_licence(shared: Path) -> None:
    folder = shared / "directions" / "official"
    names = [line.split()[1] for line in (folder / "SHA256").read_text().splitlines()]
    for name in names:
        facts = json.loads(run("doctor", folder / name, "--json").stdout)
        assert facts["known_as"] and "non-commercial" in facts["licence"] and facts["problem"] is None, name


def test_doctor_says_what_is_wrong(tmp_path: Path) -> None:
    content = foreign.styleres_file(tmp_path / "s.pt")
    del content["e4e"]["latlayer1.bias"]
    torch.save(content, tmp_path / "s.pt")
    (tmp_path / "page.pt").write_bytes(b"<html><title>Quota</title></html>")
    (tmp_path / "folder").mkdir()
    for name, said in (
        ("s.pt", "latlayer1.bias"),
        ("page.pt", "a web page"),
        ("none.pt", "no such file"),
        ("folder", "without config"),
    ):
        ran = run("doctor", tmp_path / name)
        assert ran.exit_code == 1 and "problem" in ran.stdout and said in ran.stdout, name


def test_doctor_without_a_model_checks_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    ran = run("doctor", "--json")
    checks = {check["what"]: check for check in json.loads(ran.stdout)["checks"]}
    assert ran.exit_code == 0 and {"python", "torch", "av", "encoder libx264", "threads", "free disk", "embedded model"} <= set(
        checks
    )
    assert not [check for check in checks.values() if check["state"] == "missing"]
    monkeypatch.setattr(jobs.doctor, "required_packages", lambda: ["torch", "decord", "no-such-package"])
    monkeypatch.setattr(jobs.doctor, "CODECS", {"no_such_codec": True})
    broken = run("doctor")
    assert broken.exit_code == 1 and broken.stdout.count("missing") == 2 and "pip install no-such-package" in broken.stdout


# ---------------------------------------------------------------------------------------------------------------- fetch


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder, and its address."""
    folder = tmp_path / "served"
    folder.mkdir()

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *arguments: object) -> None:
            """Nothing on stderr."""

    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder))) as http:
        thread = threading.Thread(target=http.serve_forever, daemon=True)
        thread.start()
        yield folder, f"http://127.0.0.1:{http.server_port}"
        http.shutdown()
        thread.join()


def catalog(path: Path, address: str, file: Path, *, format: str | None, digest: str | None = None) -> Path:
    digest = digest or hashlib.sha256(file.read_bytes()).hexdigest()
    kind = "" if format is None else f'format = "{format}"\n'
    path.write_text(
        f'[thing]\nfile = "{file.name}"\nabout = "a thing"\nlicence = "of the thing"\n{kind}'
        f'url = "{address}/{file.name}"\nsha256 = "{digest}"\n'
    )
    return path


def test_fetch_downloads_verifies_and_converts(tmp_path: Path, served: tuple[Path, str]) -> None:
    folder, address = served
    foreign.styleres_file(folder / "s.pt")
    listed = catalog(tmp_path / "c.toml", address, folder / "s.pt", format="styleres")
    ran = run("fetch", "thing", "--out", tmp_path / "bundle", "--catalog", listed)
    assert ran.exit_code == 0 and "(verified)" in ran.stdout
    assert open_bundle(tmp_path / "bundle").licence == "of the thing"
    again = run("fetch", "thing", "--out", tmp_path / "bundle", "--catalog", listed)
    assert again.exit_code == 1 and "exists already" in again.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bundle", "c.toml", "served"]


def test_fetch_keeps_an_edits_file_as_it_is(tmp_path: Path, served: tuple[Path, str]) -> None:
    folder, address = served
    torch.save(torch.ones(1, 512), folder / "d.pt")
    listed = catalog(tmp_path / "c.toml", address, folder / "d.pt", format=None)
    ran = run("fetch", "thing", "--out", tmp_path / "mine.pt", "--catalog", listed)
    assert ran.exit_code == 0 and (tmp_path / "mine.pt").read_bytes() == (folder / "d.pt").read_bytes()
    bad = catalog(tmp_path / "c.toml", address, folder / "d.pt", format=None, digest="0" * 64)
    wrong = run("fetch", "thing", "--out", tmp_path / "other.pt", "--catalog", bad)
    assert wrong.exit_code == 1 and "nothing was kept" in wrong.stderr and not (tmp_path / "other.pt").exists()


def test_fetch_fails_clearly_where_it_cannot(tmp_path: Path) -> None:
    listed = run("fetch")
    assert listed.exit_code == 0 and "interfacegan-smile" in listed.stdout
    for name, said in (
        ("styleres-ffhq", "https://github.com/hamzapehlivan/StyleRes"),
        ("e4e-ffhq", "styleres convert e4e_ffhq_encode.pt"),
    ):
        ran = run("fetch", name, "--out", tmp_path / "o")
        assert ran.exit_code == 1 and said in ran.stderr
    unknown = run("fetch", "nonsense")
    assert unknown.exit_code == 1 and "interfacegan-smile" in unknown.stderr
    assert list(tmp_path.iterdir()) == []
