"""The store's `README.md`: a Hugging Face dataset card, so that `load_dataset(dir, "latents")` works."""

from __future__ import annotations

import schemas

_SENTENCES: dict[str, str] = {
    "sources": "one row per video or image",
    "frames": "one row per frame: shot-cut score, number of faces",
    "faces": "one row per detected face: box, five landmarks, score, embedding",
    "tracks": "one row per track and frame: smoothed quad of the crop, interpolated or seen",
    "latents": "one W+ code per track and frame",
    "residuals": "what the codes cannot express, per track and frame: raw bytes, laid out as the field says",
    "edits": "strength of every edit applied, per track and frame",
    "segments": "encoded pieces of edited videos",
    "quality": "how each edited face came out: inversion error, flicker, identity; pictures of the worst",
    "failures": "every lost item, with its reason",
}


def dataset_card(
    *,
    model_name: str,
    model_digest: str,
    wplus_shape: tuple[int, int],
    residual_shape: tuple[int, ...],
    residual_codec: str,
) -> str:
    """Markdown with YAML front matter; the same arguments give the same text."""
    lines = ["---", "pretty_name: Inverted faces", "tags:", "- stylegan2", "- gan-inversion", "- faces"]
    lines.append("configs:")
    for table in schemas.TABLES:
        default = ["  default: true"] if table == "latents" else []
        lines += [f"- config_name: {table}", *default, f'  data_files: "{table}/**/*.parquet"']
    lines += [
        "---",
        "",
        "# Inverted faces",
        "",
        "Faces of videos and images, written as codes of a StyleGAN2 and what the codes cannot express; each",
        "can be edited and rendered again without inverting. Written by styleres-video.",
        "",
        f"- Model: `{model_name}`, SHA-256 `{model_digest}`. Codes and residuals mean nothing to another",
        "  model; its own card states its licence and what it was trained on.",
        f"- W+ codes: {list(wplus_shape)} float32. Residuals: {list(residual_shape)} {residual_codec}, C",
        "  order, little-endian.",
        f"- Schema version {schemas.SCHEMA_VERSION}. The tables join on `source_id`, `track_id`, `pts`;",
        "  `pts` counts in the source's time base (table `sources`).",
        "- These are biometric data of the people shown. Keep and share them as you would the videos.",
        "",
        "| table | rows |",
        "|---|---|",
        *(f"| `{table}` | {_SENTENCES[table]} |" for table in schemas.TABLES),
        "",
        "```python",
        "import datasets, duckdb, pandas, polars",
        'datasets.load_dataset("STORE", "latents")',
        'pandas.read_parquet("STORE/latents")',
        'polars.read_parquet("STORE/latents/**/*.parquet")',
        "duckdb.sql(\"select * from 'STORE/latents/**/*.parquet'\")",
        "```",
        "",
        "A table without rows has no files yet, and the readers say so.",
        "",
    ]
    return "\n".join(lines)
