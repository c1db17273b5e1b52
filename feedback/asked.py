"""What a row of an import asks for: a comparison of some completions, with the judgement recorded of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from feedback.exchange.rows import Judged, Row
from feedback.models import (
    Comparison,
    ComparisonKind,
    DataImport,
    Project,
    Prompt,
    canonical_json,
    sha256_text,
)

MOST_CANDIDATES = 8
"""Of a comparison put up for judging: what fits on a screen."""


class Asking(NamedTuple):
    """A row with the hashes by which its prompt and completions are known."""

    row: Row
    prompt_hash: str
    hashes: tuple[str, ...]

    @classmethod
    def of(cls, row: Row) -> Asking:
        return cls(row, Prompt.hash_of(row.messages), tuple(map(sha256_text, row.completions)))


class Wanted(NamedTuple):
    """A comparison that must be there, with the recorded judgement of it, if there is one."""

    key: str
    """Of the comparison: what makes two rows ask for the same."""
    judgement_key: str
    """Of the judgement, or of the comparison that is put up."""
    prompt_hash: str
    hashes: tuple[str, ...]
    """Of the completions, by position."""
    kind: str
    purpose: str
    gold_answer: dict[str, Any] | None
    judged: Judged | None
    place: dict[int, int]
    """Position by index in the row."""


class Asked(NamedTuple):
    """A row with all that it asks for, worked out before any lock is held."""

    asking: Asking
    wanted: list[Wanted]

    @classmethod
    def of(cls, row: Row, data_import: DataImport) -> Asked:
        if data_import.options.get("nameless"):
            row = row._replace(judged=tuple(judged._replace(by="") for judged in row.judged))
        asking = Asking.of(row)
        return cls(asking, wanted_of(asking, data_import))


def wanted_of(asking: Asking, data_import: DataImport) -> list[Wanted]:
    if data_import.options.get("put_up"):
        found = [put_up(asking, *one) for one in to_put_up(asking.row, data_import.project)]
    else:
        found = [recorded(asking, judged) for judged in asking.row.judged]
    return found


def put_up(asking: Asking, kind: str, of: tuple[int, ...], gold: Judged | None) -> Wanted:
    """Known by prompt and completions in any order: whichever the file prefers, it is put up once."""
    place = places(asking, of)
    hashes = [asking.hashes[index] for index in place]
    facts = ["put up", asking.prompt_hash, *sorted(hashes)]
    key = sha256_text(canonical_json(facts if kind == ComparisonKind.PAIRWISE else [*facts, kind]))
    purpose = Comparison.Purpose.GOLD if gold else Comparison.Purpose.TRAINING
    answer = moved(gold.gold_answer, of, place) if gold and gold.gold_answer else None
    return Wanted(key, key, asking.prompt_hash, tuple(hashes), kind, purpose, answer, None, place)


def recorded(asking: Asking, judged: Judged) -> Wanted:
    place = places(asking, judged.of)
    hashes = tuple(asking.hashes[index] for index in place)
    key = own = sha256_text(canonical_json(identity(asking, judged)))
    if judged.by:
        facts = ["compared", asking.row.origin, asking.prompt_hash, judged.kind, *sorted(hashes)]
        key = sha256_text(canonical_json(facts))
    gold = moved(judged.gold_answer, judged.of, place) if judged.gold_answer else None
    return Wanted(key, own, asking.prompt_hash, hashes, judged.kind, judged.purpose, gold, judged, place)


def places(asking: Asking, of: tuple[int, ...]) -> dict[int, int]:
    """Position by index in the row, in the order of the positions.

    The order tells nothing of which was better: by hash of each text and of all of them together.
    """
    order: Sequence[int] = of
    if not asking.row.ordered and len(of) > 1:
        together = "".join(sorted(asking.hashes[index] for index in of))
        order = sorted(of, key=lambda index: sha256_text(together + asking.row.completions[index]))
    return {index: position for position, index in enumerate(order)}


def to_put_up(row: Row, project: Project) -> Iterator[tuple[str, tuple[int, ...], Judged | None]]:
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


def identity(asking: Asking, judged: Judged) -> list[Any]:
    """What makes two recorded judgements the same: prompt, completions and what was said, by whom.

    So a second person who saw it otherwise is kept.
    """
    hashes = asking.hashes
    if judged.strength is not None:
        better, worse = judged.of[::-1] if judged.strength > 0 else judged.of
        sides = [hashes[better], hashes[worse]]
        sides = sides if judged.strength else sorted(sides)
        facts = ["judged", asking.prompt_hash, *sides, abs(judged.strength)]
    else:
        own = [hashes[index] for index in judged.of]
        groups = [sorted(hashes[index] for index in group) for group in judged.ranking]
        ratings = sorted(zip(own, judged.ratings, strict=False), key=lambda one: one[0])
        facts = ["judged", asking.prompt_hash, judged.kind, sorted(own), groups, ratings]
    more = [judged.acceptability, judged.written, judged.corrects is not None and hashes[judged.corrects]]
    # A plain preference keeps the key that earlier releases gave it.
    facts += more if any(more) else []
    facts += [["margin", judged.margin]] if judged.margin is not None else []
    return [*facts, asking.row.origin, judged.by] if judged.by else facts


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
