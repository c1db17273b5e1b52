"""Label Studio tasks: Pairwise, Ranker, Rating, Choices and TextArea regions over a prompt's completions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from django.utils.translation import gettext as _

from feedback.exchange.rows import (
    ACCEPTABILITY,
    DEFAULT_STRENGTH,
    MAX_COMMENT,
    MAX_NAME,
    Judged,
    Row,
    checked_prompt,
    different,
    external_id_of,
    optional_list,
    prompt_in,
    required,
    short,
    whole_number,
    wrong_type,
)
from feedback.lines import BadRow
from feedback.models import Preference

PAIRS = (
    ("answer1", "answer2"),
    ("response1", "response2"),
    ("completion1", "completion2"),
    ("left", "right"),
    ("chosen", "rejected"),
    ("text1", "text2"),
)
PROMPTS = ("messages", "prompt", "question", "instruction", "text")
TIES = {"tie": "", "both_good": "both", "both_bad": "neither"}
"""Choices beside an empty Pairwise, which knows no tie itself."""
UNRANKED = "_"
LONGEST_SECONDS = 24 * 3600


def fits(data: dict[str, Any]) -> bool:
    return isinstance(data.get("data"), dict) and (
        "annotations" in data or "predictions" in data or len(data) == 1
    )


def read(task: dict[str, Any], line: int) -> Row:
    data = required(task, "data")
    if not isinstance(data, dict):
        raise wrong_type("data", _("an object"), data)
    prompt = next((name for name in PROMPTS if data.get(name) is not None), None)
    if prompt is None:
        raise BadRow(_("none of the columns %s in 'data'") % ", ".join(PROMPTS))
    names, texts = candidates(data, prompt)
    judged = [
        found
        for annotation in optional_list(task, "annotations")
        if isinstance(annotation, dict) and not annotation.get("was_cancelled")
        for found in judgements(annotation, names)
    ]
    external_id = external_id_of(data) or external_id_of(task)
    messages = checked_prompt(prompt_in(data, prompt))
    return Row(line, messages, external_id, different(texts, "data"), tuple(judged))


def candidates(data: dict[str, Any], prompt: str) -> tuple[dict[str, int], list[str]]:
    """Names by which regions may speak of a completion, with its index; and the texts."""
    if isinstance(data.get("items"), list):
        names: dict[str, int] = {}
        for place, item in enumerate(data["items"]):
            if not isinstance(item, dict) or not isinstance(body_of(item), str):
                raise BadRow(_("'items' must be objects with 'id' and 'body'"))
            name = str(item.get("id", place))
            if name in names:
                raise BadRow(_("'items': two have the id '%s'") % name[:80])
            names[name] = place
        return names, [body_of(item) for item in data["items"]]
    for pair in PAIRS:
        if all(isinstance(data.get(name), str) for name in pair):
            return {"left": 0, "right": 1}, [data[name] for name in pair]
    others = {name: value for name, value in data.items() if name not in (prompt, "id", *PROMPTS)}
    texts = [value for value in others.values() if isinstance(value, str)]
    if len(texts) != 2:
        found = ", ".join(others)[:200] or _("none")
        raise BadRow(
            _("which columns are the two completions? Wanted answer1 and answer2, found: %s") % found
        )
    return {"left": 0, "right": 1}, texts


def body_of(item: dict[str, Any]) -> Any:
    return next((item[key] for key in ("body", "text", "html") if key in item), None)


class Region(NamedTuple):
    """What somebody said with one of the controls of the page."""

    control: str
    of: str
    value: dict[str, Any]


def regions_of(annotation: dict[str, Any]) -> list[Region]:
    return [
        Region(str(region.get("from_name")), str(region.get("to_name")), region["value"])
        for region in optional_list(annotation, "result")
        if isinstance(region, dict) and isinstance(region.get("value"), dict)
    ]


def judgements(annotation: dict[str, Any], names: dict[str, int]) -> list[Judged]:
    """What regions say of the order, with what others add. Ratings are a judgement where no order is."""
    regions = regions_of(annotation)
    choices = [choice for region in regions for choice in optional_list(region.value, "choices")]
    facts = facts_of(annotation, regions, names, choices)
    everything = tuple(range(len(names)))
    found: list[Judged] = []
    for region in regions:
        side = region.value.get("selected")
        if side in ("left", "right") and len(names) == 2:
            size = strength_of(regions)
            found.append(Judged("pairwise", (0, 1), strength=-size if side == "left" else size, **facts))
        elif region.value.get("ranker") is not None:
            groups = groups_of(region.value["ranker"], names)
            found.append(Judged("ranking", everything, ranking=groups, **facts))
    tie = next((choice for choice in TIES if choice in choices), None)
    if not found and tie is not None and len(names) == 2:
        facts["acceptability"] = TIES[tie] or facts["acceptability"]
        found.append(Judged("pairwise", (0, 1), strength=0, **facts))
    if not found and (ratings := ratings_of(regions, names)):
        found.append(Judged("rating", everything, ratings=ratings, **facts))
    if not found and facts["written"] is not None:
        kind, of = ("demonstration", ()) if facts["corrects"] is None else ("rating", (facts["corrects"],))
        found.append(Judged(kind, of, **facts))
    return found


def strength_of(regions: list[Region]) -> int:
    """What a Rating of that name beside the pair says."""
    given = next((region.value for region in regions if region.control == "strength"), {})
    return whole_number(given, "rating", 1, 3) if "rating" in given else DEFAULT_STRENGTH


def facts_of(
    annotation: dict[str, Any], regions: list[Region], names: dict[str, int], choices: list[Any]
) -> dict[str, Any]:
    """Who, how long, the comment, the correction: what stands beside the order."""
    who = annotation.get("completed_by")
    who = who.get("id") if isinstance(who, dict) else who
    seconds: Any = annotation.get("lead_time")
    timed = isinstance(seconds, int | float) and 0 <= seconds < LONGEST_SECONDS
    texts = {
        region.control: (region.of, "\n".join(map(str, region.value["text"])))
        for region in regions
        if isinstance(region.value.get("text"), list)
    }
    place, written = texts.get("written", ("", None))
    return {
        "by": "" if who is None else str(who),
        "active_ms": round(seconds * 1000) if timed else None,
        "comment": short(texts.get("comment", ("", ""))[1], "comment", MAX_COMMENT),
        "written": written,
        "corrects": names.get(place) if written is not None else None,
        "acceptability": next((value for value in ACCEPTABILITY if value in choices), ""),
    }


def groups_of(value: object, names: dict[str, int]) -> tuple[tuple[int, ...], ...]:
    """["id2", "id1"], {"best": ["id2"]} or {"1": ["id2"], "2": ["id0", "id1"]}; the rest comes last."""
    groups = [[name] for name in value] if isinstance(value, list) else buckets_of(value)
    ranked = [str(name) for group in groups for name in group]
    for name in ranked:
        if name not in names or ranked.count(name) > 1:
            raise BadRow(_("'ranker': '%s' is not an item, or stands there twice") % name[:80])
    places = [tuple(names[str(name)] for name in group) for group in groups if group]
    rest = tuple(place for name, place in names.items() if name not in ranked)
    return (*places, rest) if rest else tuple(places)


def buckets_of(value: object) -> list[list[Any]]:
    if not isinstance(value, dict):
        raise wrong_type("ranker", _("a list"), value)
    buckets = {name: ids for name, ids in value.items() if name != UNRANKED and isinstance(ids, list)}
    if buckets and all(name.isdecimal() and len(name) < 10 for name in buckets):
        return [buckets[name] for name in sorted(buckets, key=int)]
    if len(buckets) == 1:
        return [[name] for name in next(iter(buckets.values()))]
    found = ", ".join(buckets)[:200] or _("none")
    raise BadRow(_("'ranker': wanted one bucket, or buckets named 1, 2, ... by rank, found: %s") % found)


def ratings_of(regions: list[Region], names: dict[str, int]) -> tuple[dict[str, int], ...]:
    found: list[dict[str, int]] = [{} for _name in names]
    for region in regions:
        place = names.get(region.of, 0 if len(names) == 1 else None)
        if "rating" in region.value and place is not None:
            criterion = short(region.control, "from_name", MAX_NAME)
            found[place][criterion] = whole_number(region.value, "rating", 1, 5)
    return tuple(found) if any(found) else ()


# --- out --------------------------------------------------------------------------------------------


def write(preference: Preference) -> Iterator[dict[str, Any]]:
    """A task for each judgement: the prompt as text for people and as turns for programs."""
    if preference.withdrawn or preference.overruled:
        return
    comparison = preference.comparison
    texts = [candidate.completion.text for candidate in comparison.candidates.all()]
    ids = [f"c{place}" for place in range(len(texts))]
    data: dict[str, Any] = {
        "prompt": "\n\n".join(turn["content"] for turn in comparison.prompt.messages),
        "messages": comparison.prompt.messages,
    }
    if preference.kind == "pairwise":
        data |= {"answer1": texts[0], "answer2": texts[1]}
        ids = ["left", "right"]
    else:
        data["items"] = [{"id": name, "body": text} for name, text in zip(ids, texts, strict=True)]
    annotation: dict[str, Any] = {"result": list(regions(preference, ids)), "was_cancelled": False}
    if preference.active_ms is not None:
        annotation["lead_time"] = preference.active_ms / 1000
    yield {"data": data, "annotations": [annotation]}


def regions(preference: Preference, ids: list[str]) -> Iterator[dict[str, Any]]:
    def region(name: str, to: str, kind: str, value: dict[str, Any]) -> dict[str, Any]:
        return {"from_name": name, "to_name": to, "type": kind, "value": value}

    strength = preference.strength
    if strength:
        yield region("pw", "pw", "pairwise", {"selected": "right" if strength > 0 else "left"})
        yield region("strength", "pw", "rating", {"rating": abs(strength)})
    elif strength == 0:
        tie = {"both": "both_good", "neither": "both_bad"}.get(preference.acceptability, "tie")
        yield region("verdict", "pw", "choices", {"choices": [tie]})
    if preference.acceptability:
        yield region("acceptability", "pw", "choices", {"choices": [preference.acceptability]})
    if preference.ranking:
        buckets = {
            str(rank): [ids[place] for place in group] for rank, group in enumerate(preference.ranking, 1)
        }
        yield region("ranker", "ranker", "ranker", {"ranker": buckets})
    for name, given in zip(ids, preference.ratings, strict=False):
        for criterion, rating in given.items():
            yield region(criterion, name, "rating", {"rating": rating})
    if preference.written is not None:
        corrected = [candidate.completion_id for candidate in preference.comparison.candidates.all()]
        to = ids[corrected.index(preference.corrects_id)] if preference.corrects_id in corrected else "prompt"
        yield region("written", to, "textarea", {"text": [preference.written.text]})
    if preference.comment:
        yield region("comment", "prompt", "textarea", {"text": [preference.comment]})
