"""Text features of CLIP (Radford et al., ICML 2021), by `transformers`, which comes with the extra `clip`.

Legend of axes: T templates, E width of CLIP's space.
"""

from __future__ import annotations

import functools
from pathlib import Path

import torch
import torch.nn.functional as F

from ops.editing.editor import EditError


@functools.lru_cache(maxsize=64)
def clip_text_feature(text: str, templates: Path, model: str) -> torch.Tensor:
    """One text => [E], of unit length: the mean of its unit features in every template.

        t = normalise( Σ_T normalise(CLIP(template.format(text))) )

    Args:
        templates: a text file, one sentence with `{}` a line (the official list has 79); empty lines are left out.
        model: a CLIP model's folder, or its name on the Hugging Face hub, which needs a network once.

    Raises:
        EditError: `transformers` is not installed, the model is not to be had, or the templates cannot be used.
    """
    sentences_T = [template.replace("{}", text) for template in load_templates(templates)]
    try:
        from transformers import CLIPTextModelWithProjection, CLIPTokenizer
    except ImportError as error:
        raise EditError(
            f"{text!r}: text features need CLIP, and transformers is not installed: pip install 'styleres-video[clip]', "
            "or give the features as a file with texts=FILE"
        ) from error
    try:
        tokenizer = CLIPTokenizer.from_pretrained(model)
        encoder = CLIPTextModelWithProjection.from_pretrained(model).eval()
    except Exception as error:  # of the hub, the disk and the file: all say that the model is missing
        raise EditError(
            f"{model}: cannot be loaded as a CLIP text encoder ({type(error).__name__}: {str(error).splitlines()[0]}); "
            "give clip=FOLDER with a downloaded one, or the features as a file with texts=FILE"
        ) from error
    tokens = tokenizer(sentences_T, padding=True, truncation=True, return_tensors="pt")
    with torch.no_grad():
        features_TE = encoder(**tokens).text_embeds.float()
    return F.normalize(F.normalize(features_TE, dim=1).mean(dim=0), dim=0)


def load_templates(path: Path) -> list[str]:
    """The lines of a templates file.

    Raises:
        EditError: it cannot be read, is empty, or a line has no `{}`.
    """
    try:
        lines = [line.strip() for line in path.read_text("utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise EditError(f"{path}: cannot be read as templates ({error}); give templates=FILE") from error
    templates = [line for line in lines if line]
    wrong = [line for line in templates if "{}" not in line]
    if wrong or not templates:
        raise EditError(
            f"{path}: expected a sentence with {{}} for the text on each line, got {wrong[0]!r}"
            if wrong
            else f"{path}: is empty"
        )
    return templates
