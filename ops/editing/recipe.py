"""Recipes (what to edit, how much, on whom and when), from YAML or the command line. Grammar: `docs/edits.md`.

Time is in seconds since the source's first frame, because clocks of recordings start anywhere; with `clock: container`
on the clock of its container (pts × time base). A recipe says nothing of frames, so it fits any frame rate, a variable
one too.

Legend of axes: N frames, E entries of a recipe.
"""

from __future__ import annotations

import difflib
import hashlib
import itertools
import json
import re
from collections.abc import Collection, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import numpy as np
import pydantic
import yaml

from ops.editing.definitions import AnyDefinition, Definition, parse_definition
from ops.editing.values import NAME_PATTERN, Frozen, RecipeError, sentences

Easing = Literal["linear", "smooth", "step"]
EASINGS: tuple[Easing, ...] = get_args(Easing)

_OPTIONS = ("track", "from", "to", "fade", "fade_in", "fade_out", "ease")


def ease(easing: Easing, progress: np.ndarray) -> np.ndarray:
    """How far a change has come, for elapsed shares of its time: both in [0, 1], 0 => 0 and 1 => 1.

    linear: p. smooth: 3p² − 2p³ (smoothstep: starts and ends at rest). step: 0 until p = 1.
    """
    progress = np.clip(progress, 0.0, 1.0)
    match easing:
        case "linear":
            return progress
        case "smooth":
            return progress * progress * (3.0 - 2.0 * progress)
        case "step":
            return np.where(progress >= 1.0, 1.0, 0.0)
    raise RecipeError(f"easing is one of {', '.join(EASINGS)}, got {easing!r}")


# Strict: YAML's `yes` does not pass for 1, and "1.5" in quotes is refused as a slip.
_Finite = Annotated[float, pydantic.Field(strict=True, allow_inf_nan=False)]
_Duration = Annotated[float, pydantic.Field(strict=True, ge=0, allow_inf_nan=False)]
_TrackId = Annotated[int, pydantic.Field(strict=True, ge=0)]


class Keyframe(Frozen):
    """A strength at an instant."""

    at_seconds: _Finite = pydantic.Field(alias="at")
    strength: _Finite


class Edit(Frozen):
    """One entry of a recipe: an edit by name, its strength over time, whom it concerns and when."""

    name: str = pydantic.Field(alias="edit", pattern=f"^{NAME_PATTERN}$")
    """The edit's name in the model bundle."""
    strength: _Finite | None = None
    """In the editor's own unit, the same at all times; either this or `keyframes`."""
    keyframes: tuple[Keyframe, ...] = ()
    """Strengths at instants, in order of time; between two, `easing`; outside, the nearest one's."""
    tracks: tuple[_TrackId, ...] | None = None
    """Tracks whose faces are edited; None is all of them."""
    from_seconds: _Finite | None = pydantic.Field(default=None, alias="from")
    """First instant of the edit, itself included; None: no beginning."""
    to_seconds: _Finite | None = pydantic.Field(default=None, alias="to")
    """End of the edit, itself excluded; None: no end."""
    fade_in_seconds: _Duration = pydantic.Field(default=0.0, alias="fade_in")
    """Time after `from` until the edit is whole."""
    fade_out_seconds: _Duration = pydantic.Field(default=0.0, alias="fade_out")
    """Time before `to` in which the edit goes."""
    easing: Easing = "smooth"
    """Interpolation of keyframes and fades."""

    @pydantic.field_validator("tracks", mode="before")
    @classmethod
    def _one_track_or_several(cls, value: Any) -> Any:
        return [value] if isinstance(value, int) and not isinstance(value, bool) else value

    @pydantic.field_validator("tracks")
    @classmethod
    def _tracks_each_once(cls, value: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if value is None:
            return None
        if not value or len(set(value)) != len(value):
            raise ValueError(f"tracks are one or more, each once; got {list(value)}; leave out for all")
        return tuple(sorted(value))

    @pydantic.model_validator(mode="after")
    def _consistent(self) -> Edit:
        if (self.strength is None) == (not self.keyframes):
            raise ValueError("give either one strength or keyframes, and not both")
        times = [k.at_seconds for k in self.keyframes]
        if any(later <= earlier for earlier, later in itertools.pairwise(times)):
            raise ValueError(f"keyframes come in order of time, each later than the one before; got {times}")
        start, end = self.from_seconds, self.to_seconds
        if start is not None and end is not None and start >= end:
            raise ValueError(f"the edit ends at {end:g} s, which is not after its beginning at {start:g} s")
        if self.fade_in_seconds and start is None:
            raise ValueError("a fade-in needs a beginning: add from (0 for the start of the video)")
        if self.fade_out_seconds and end is None:
            raise ValueError("a fade-out needs an end: add to")
        fades = self.fade_in_seconds + self.fade_out_seconds
        if start is not None and end is not None and fades > end - start:
            raise ValueError(f"the fades take {fades:g} s together, the edit lasts {end - start:g} s; shorten them")
        if self.easing == "step" and (self.fade_in_seconds or self.fade_out_seconds):
            raise ValueError("step has no in-between, so nothing fades: choose linear or smooth, or no fade")
        return self

    def strengths(self, pts_seconds_N: np.ndarray) -> np.ndarray:
        """Strength at each instant, float64 [N], in the editor's unit; spans and fades do not enter."""
        times_N = np.asarray(pts_seconds_N, np.float64)
        if self.strength is not None:
            return np.full(times_N.shape, self.strength)
        at = np.array([k.at_seconds for k in self.keyframes])
        value = np.array([k.strength for k in self.keyframes])
        after_N = np.searchsorted(at, times_N, side="right")
        left_N, right_N = np.maximum(after_N - 1, 0), np.minimum(after_N, len(at) - 1)
        length_N = at[right_N] - at[left_N]
        elapsed_N = (times_N - at[left_N]) / np.where(length_N > 0, length_N, 1.0)
        return value[left_N] + (value[right_N] - value[left_N]) * ease(self.easing, elapsed_N)

    def weights(self, pts_seconds_N: np.ndarray, track_id: int) -> np.ndarray:
        """How much of the edit is there at each instant, float64 [N] in [0, 1]; 0 outside span and tracks.

        Apart from `strengths`, because a strength of 0 is not "no edit" for every editor: what is faded is
        the edit's effect on the code, w + weight · (edited − w).
        """
        times_N = np.asarray(pts_seconds_N, np.float64)
        weight_N = np.ones(times_N.shape)
        if self.tracks is not None and track_id not in self.tracks:
            return np.zeros(times_N.shape)
        if self.from_seconds is not None:
            since_N = times_N - self.from_seconds
            if self.fade_in_seconds:
                weight_N = np.minimum(weight_N, ease(self.easing, since_N / self.fade_in_seconds))
            weight_N = np.where(since_N < 0, 0.0, weight_N)
        if self.to_seconds is not None:
            left_N = self.to_seconds - times_N
            if self.fade_out_seconds:
                weight_N = np.minimum(weight_N, ease(self.easing, left_N / self.fade_out_seconds))
            weight_N = np.where(left_N <= 0, 0.0, weight_N)
        return weight_N

    def to_text(self) -> str:
        """The entry in the grammar of the command line; `parse_edit` of it gives the entry again."""
        if self.strength is not None:
            value = repr(self.strength)
        else:
            value = ",".join(f"{k.at_seconds!r}:{k.strength!r}" for k in self.keyframes)
        text = f"{self.name}={value}"
        if self.tracks is not None:
            text += f"@track={'+'.join(map(str, self.tracks))}"
        if self.from_seconds is not None:
            text += f"@from={self.from_seconds!r}"
        if self.to_seconds is not None:
            text += f"@to={self.to_seconds!r}"
        if self.fade_in_seconds:
            text += f"@fade_in={self.fade_in_seconds!r}"
        if self.fade_out_seconds:
            text += f"@fade_out={self.fade_out_seconds!r}"
        if self.easing != "smooth":
            text += f"@ease={self.easing}"
        return text


class EditRecipe(Frozen):
    """Edits in the order in which they are applied: each to the result of those before it.

    For linear edits the order does not matter (but for rounding); for those that measure the code, such as
    GANSpace, it does.
    """

    version: Literal[1] = 1
    """Version of the file format."""
    edits: tuple[Edit, ...] = pydantic.Field(min_length=1)
    clock: Literal["first_frame", "container"] = "first_frame"
    """The instant that times count from: the source's first frame, or the 0 of its container's clock."""
    editors: tuple[AnyDefinition, ...] = ()
    """The user's own editors, beside those of the model. In a file: a mapping from name to definition, or to KIND:PATH…"""

    @pydantic.field_validator("edits", mode="before")
    @classmethod
    def _texts_are_entries(cls, value: Any) -> Any:
        # `- smile=1.5@track=1` in YAML is the same as on the command line.
        if isinstance(value, list | tuple):
            return tuple(parse_edit(entry) if isinstance(entry, str) else entry for entry in value)
        return value

    @pydantic.field_validator("editors", mode="before")
    @classmethod
    def _names_are_keys(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        found: list[Any] = []
        for name, given in value.items():
            if isinstance(given, str):
                found.append(parse_definition(f"{name}={given}"))
            elif isinstance(given, Mapping):
                found.append({"name": name, **given})
            else:
                raise ValueError(f"{name}: expected KIND:PATH, or a mapping with the keys kind and path")
        return tuple(found)

    @property
    def names(self) -> tuple[str, ...]:
        """The entries' names, in order; one may come more than once."""
        return tuple(edit.name for edit in self.edits)

    @property
    def recipe_id(self) -> str:
        """16 hex digits that are equal for equal edits, however they were written down; editors do not enter."""
        return self.id_with({})

    def id_with(self, records: Mapping[str, str]) -> str:
        """`recipe_id` of a recipe whose edits are not all the model's own: edit => what it is and from which bytes.

        Names alone would give two renders one id where the file behind a name has changed.
        """
        # Without defaults: an option that a later version adds leaves the ids of recipes that do not use it.
        content = self.model_dump(mode="json", exclude_defaults=True, exclude={"editors"})
        canonical = json.dumps(content | ({"records": dict(records)} if records else {}), sort_keys=True)
        return hashlib.sha256(canonical.encode()).hexdigest()[:16]

    def with_editors(self, editors: Sequence[Definition]) -> EditRecipe:
        """The same with more editors, after those that it has."""
        return self.model_copy(update={"editors": (*self.editors, *editors)})

    def require_known(self, available: Collection[str]) -> None:
        """Holds the names against the edits that there are.

        Raises:
            RecipeError: unknown names; lists the edits that there are and the nearest to each.
        """
        unknown = [name for name in dict.fromkeys(self.names) if name not in available]
        if not unknown:
            return
        listing = ", ".join(sorted(available)) or "none"
        hints = []
        for name in unknown:
            near = difflib.get_close_matches(name, available, n=1)
            hints.append(repr(name) + (f" (did you mean {near[0]!r}?)" if near else ""))
        raise RecipeError(f"there is no edit {', '.join(hints)}; there are: {listing}")

    def missing_tracks(self, track_ids: Collection[int]) -> tuple[int, ...]:
        """Tracks that the recipe names and the source does not have, in order."""
        named = {track for edit in self.edits for track in edit.tracks or ()}
        return tuple(sorted(named - set(track_ids)))

    def strengths(self, pts_seconds_N: np.ndarray) -> np.ndarray:
        """Strength of every entry at each instant, float64 [N, E]."""
        return np.stack([edit.strengths(pts_seconds_N) for edit in self.edits], axis=-1)

    def weights(self, pts_seconds_N: np.ndarray, track_id: int) -> np.ndarray:
        """Weight of every entry at each instant for one track, float64 [N, E]."""
        return np.stack([edit.weights(pts_seconds_N, track_id) for edit in self.edits], axis=-1)

    def to_text(self) -> str:
        """The recipe on one line, for people and for the output's metadata."""
        return " ".join(edit.to_text() for edit in self.edits)

    def to_yaml(self) -> str:
        """The recipe as a YAML file, as the studio saves it; `recipe_from_yaml` of it gives the recipe again."""
        content = self.model_dump(mode="json", by_alias=True, exclude_defaults=True, exclude={"editors"})
        if self.editors:
            # `kind` has no default, so it is there; a name stands as the key.
            definitions = {one.name: one.model_dump(mode="json", exclude_defaults=True) for one in self.editors}
            content["editors"] = {name: {k: v for k, v in one.items() if k != "name"} for name, one in definitions.items()}
        return yaml.safe_dump({"version": self.version, **content}, sort_keys=False)


# ------------------------------------------------------------------------------------------ command line


def parse_edit(text: str) -> Edit:
    """One `--edit` argument: `NAME=VALUE[@OPTION=VALUE]…`; the grammar is in `docs/edits.md`.

    Raises:
        RecipeError: the text, the part of it that is wrong, and what was expected there.
    """
    head, *tails = text.strip().split("@")
    match = re.fullmatch(rf"\s*({NAME_PATTERN})\s*=\s*(\S.*?)\s*", head)
    if match is None:
        raise RecipeError(f"--edit {text!r}: expected NAME=STRENGTH, for instance smile=1.5, got {head!r}")
    fields: dict[str, Any] = {"edit": match[1]}
    if ":" in match[2]:
        fields["keyframes"] = [_parse_keyframe(item, text) for item in match[2].split(",")]
    else:
        fields["strength"] = _parse_number(match[2], "a strength", text)
    given: set[str] = set()
    for tail in tails:
        option, equals, value = (piece.strip() for piece in tail.partition("="))
        if option not in _OPTIONS or not equals or not value:
            raise RecipeError(f"--edit {text!r}: expected @OPTION=VALUE, an option of {', '.join(_OPTIONS)}; got {tail!r}")
        update: dict[str, Any]
        match option:
            case "track":
                update = {"tracks": [_parse_track(item, text) for item in value.split("+")]}
            case "from" | "to":
                update = {option: parse_time(value, text)}
            case "fade":
                seconds = _parse_number(value, "seconds", text)
                update = {"fade_in": seconds, "fade_out": seconds}
            case "fade_in" | "fade_out":
                update = {option: _parse_number(value, "seconds", text)}
            case _:
                update = {"easing": value}
        if given & update.keys():
            raise RecipeError(f"--edit {text!r}: {', '.join(sorted(given & update.keys()))} is given twice")
        given |= update.keys()
        fields |= update
    try:
        return Edit.model_validate(fields)
    except pydantic.ValidationError as error:
        raise RecipeError(f"--edit {text!r}: {sentences(error)}") from error


def parse_edits(texts: Sequence[str]) -> EditRecipe:
    """All `--edit` arguments of a command, in their order.

    Raises:
        RecipeError: as `parse_edit`; or there is none.
    """
    if not texts:
        raise RecipeError("a recipe has at least one edit; give --edit NAME=STRENGTH")
    return EditRecipe(edits=tuple(parse_edit(text) for text in texts))


def parse_time(text: str, where: str) -> float:
    """Seconds of `90`, `90.5`, `1:30.5` or `0:01:30.5`.

    Raises:
        RecipeError: none of these; `where` says in which argument.
    """
    match = re.fullmatch(r"(?:(?:(\d+):)?([0-5]?\d):)?([0-5]?\d(?:\.\d*)?)", text)
    if match is not None and match[2] is not None:
        return int(match[1] or 0) * 3600 + int(match[2]) * 60 + float(match[3])
    if ":" in text:
        raise RecipeError(f"--edit {where!r}: a time is seconds, mm:ss or hh:mm:ss, got {text!r}")
    return _parse_number(text, "a time in seconds, mm:ss or hh:mm:ss", where)


def _parse_keyframe(item: str, text: str) -> dict[str, float]:
    time, colon, strength = (piece.strip() for piece in item.partition(":"))
    if not colon:
        raise RecipeError(f"--edit {text!r}: keyframes are SECONDS:STRENGTH,SECONDS:STRENGTH,…, got {item!r}")
    return {
        "at": _parse_number(time, "seconds", text),
        "strength": _parse_number(strength, "a strength", text),
    }


def _parse_number(value: str, what: str, text: str) -> float:
    try:
        return float(value)
    except ValueError:
        raise RecipeError(f"--edit {text!r}: expected {what}, got {value!r}") from None


def _parse_track(value: str, text: str) -> int:
    if not re.fullmatch(r"\s*\d+\s*", value):
        raise RecipeError(f"--edit {text!r}: tracks are numbers from 0, joined by +, got {value!r}")
    return int(value)


# -------------------------------------------------------------------------------------------------- YAML


def recipe_from_yaml(text: str, *, where: str = "recipe") -> EditRecipe:
    """A recipe from the text of a YAML file.

    Raises:
        RecipeError: not YAML, a key that comes twice or is not known, or what an entry may not be; `where`
            (the file) and the entry are named.
    """
    try:
        content = yaml.load(text, Loader=_StrictLoader)
    except yaml.YAMLError as error:
        raise RecipeError(f"{where}: not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise RecipeError(f"{where}: expected a mapping with the keys version and edits, see docs/edits.md")
    try:
        return EditRecipe.model_validate(content)
    except RecipeError as error:
        raise RecipeError(f"{where}: {error}") from error
    except pydantic.ValidationError as error:
        raise RecipeError(f"{where}: {sentences(error)}") from error


def load_recipe(path: str | Path) -> EditRecipe:
    """A recipe from a YAML file; relative paths of its editors are taken from the file's folder.

    Raises:
        RecipeError: the file cannot be read, or as `recipe_from_yaml`.
    """
    path = Path(path)
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: cannot be read as a recipe ({error})") from error
    recipe = recipe_from_yaml(text, where=str(path))
    return recipe.model_copy(update={"editors": tuple(one.located(path.absolute().parent) for one in recipe.editors)})


class _StrictLoader(yaml.SafeLoader):
    """YAML without pickles, and without silently keeping the last of two equal keys."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Hashable] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, Hashable) and key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} comes twice", key_node.start_mark)
            if isinstance(key, Hashable):
                seen.add(key)
        return super().construct_mapping(node, deep)
