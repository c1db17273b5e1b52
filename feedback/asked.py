"""What a row of an import asks for: a comparison of some completions, with the judgement recorded of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from feedback.exchange.rows import Judged, Row
from feedback.models import Comparison, ComparisonKind, DataImport, Project, canonical_json, sha256_text

MOST_CANDIDATES = 8
"""Of a comparison put up for judging: what fits on a screen."""


class Wanted(NamedTuple):
    """A comparison that must be there, with the recorded judgement of it, if there is one."""

    key: str
    """Of the comparison: what makes two rows ask for the same."""
    judgement_key: str
    prompt: int
    texts: tuple[str, ...]
    """By position."""
    kind: str
    purpose: str
    gold_answer: dict[str, Any] | None
    judged: Judged | None
    place: dict[int, int]
    """Position by index in the row."""


def wanted_of(row: Row, prompt: int, prompt_hash: str, data_import: DataImport) -> Iterator[Wanted]:
    if data_import.options.get("put_up"):
        for kind, of, judged in put_up(row, data_import.project):
            texts = {index: row.completions[index] for index in of}
            order = list(of) if row.ordered else canonical_order(texts)
            gold = judged and judged.gold_answer
            facts = ["put up", prompt_hash, *sorted(map(sha256_text, texts.values()))]
            key = sha256_text(canonical_json(facts if kind == ComparisonKind.PAIRWISE else [*facts, kind]))
            purpose = Comparison.Purpose.GOLD if gold else Comparison.Purpose.TRAINING
            by_position = tuple(texts[index] for index in order)
            place = {index: position for position, index in enumerate(order)}
            answer = moved(gold, judged.of, place) if gold and judged else None
            yield Wanted(key, "", prompt, by_position, kind, purpose, answer, None, place)
        return
    for judged in row.judged:
        texts = {index: row.completions[index] for index in judged.of}
        order = list(judged.of) if row.ordered else canonical_order(texts)
        place = {index: position for position, index in enumerate(order)}
        key = judgement_key = sha256_text(canonical_json(identity(row, judged, prompt_hash)))
        if judged.by:
            hashes = sorted(map(sha256_text, texts.values()))
            key = sha256_text(canonical_json(["compared", row.origin, prompt_hash, judged.kind, *hashes]))
        gold = judged.gold_answer and moved(judged.gold_answer, judged.of, place)
        by_position = tuple(texts[index] for index in order)
        yield Wanted(
            key, judgement_key, prompt, by_position, judged.kind, judged.purpose, gold, judged, place
        )


def put_up(row: Row, project: Project) -> Iterator[tuple[str, tuple[int, ...], Judged | None]]:
    """Which completions are compared, and how: as the file compared them, else as the project does."""
    everything = tuple(range(len(row.completions)))
    compared = [judged for judged in row.judged if len(judged.of) > 1 and judged.kind != "demonstration"]
    gold = [judged for judged in compared if judged.gold_answer]
    if gold:
        yield from ((judged.kind, judged.of, judged) for judged in gold)
    elif project.kind == ComparisonKind.PAIRWISE or len(everything) == 2:
        pairs = [judged.of for judged in compared if judged.kind == ComparisonKind.PAIRWISE]
        shown = everything[:MOST_CANDIDATES]
        pairs = pairs or [(one, other) for one in shown for other in shown if one < other]
        yield from ((ComparisonKind.PAIRWISE, pair, None) for pair in pairs)
    elif project.kind in (ComparisonKind.RANKING, ComparisonKind.RATING):
        for start in range(0, len(everything), MOST_CANDIDATES):
            group = everything[start : start + MOST_CANDIDATES]
            if len(group) > 1 or project.kind == ComparisonKind.RATING:
                yield project.kind, group, None


def identity(row: Row, judged: Judged, prompt_hash: str) -> list[Any]:
    """What makes two recorded judgements the same: prompt, completions and what was said, by whom.

    So a second person who saw it otherwise is kept.
    """
    hashes = {index: sha256_text(row.completions[index]) for index in judged.of}
    if judged.strength is not None:
        better, worse = judged.of[::-1] if judged.strength > 0 else judged.of
        sides = [hashes[better], hashes[worse]]
        facts = ["judged", prompt_hash, *(sides if judged.strength else sorted(sides)), abs(judged.strength)]
    else:
        groups = [sorted(hashes[index] for index in group) for group in judged.ranking]
        ratings = sorted(zip(hashes.values(), judged.ratings, strict=False), key=lambda one: one[0])
        facts = ["judged", prompt_hash, judged.kind, sorted(hashes.values()), groups, ratings]
    more = [judged.acceptability, judged.written, judged.corrects is not None and hashes[judged.corrects]]
    # A plain preference keeps the key that earlier releases gave it.
    facts += more if any(more) else []
    return [*facts, row.origin, judged.by] if judged.by else facts


def canonical_order(texts: dict[int, str]) -> list[int]:
    """Indices in an order that tells nothing of which was better: by hash of each text and of all of them."""
    together = "".join(sorted(sha256_text(text) for text in texts.values()))
    return sorted(texts, key=lambda index: sha256_text(together + texts[index]))


def moved(answer: dict[str, Any], of: tuple[int, ...], place: dict[int, int]) -> dict[str, Any]:
    """A gold answer on places in `of`, on positions."""
    position = [place[index] for index in of]
    if "strength" in answer:
        return {"strength": answer["strength"] if position[1] > position[0] else -answer["strength"]}
    if "ranking" in answer:
        return {"ranking": [sorted(position[one] for one in group) for group in answer["ranking"]]}
    ratings = dict(zip(position, answer["ratings"], strict=True))
    return {"ratings": [ratings[one] for one in range(len(of))]}


def answer(one: Wanted, judged: Judged) -> tuple[int | None, list[list[int]], list[dict[str, int]]]:
    """Strength, ranking and ratings on positions."""
    strength = judged.strength
    if strength is not None and one.place[judged.of[0]] > one.place[judged.of[1]]:
        strength = -strength
    ranking = [sorted(one.place[index] for index in group) for group in judged.ranking]
    by_position = {one.place[index]: given for index, given in zip(judged.of, judged.ratings, strict=False)}
    return strength, ranking, [by_position[position] for position in sorted(by_position)]
