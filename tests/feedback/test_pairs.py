"""What a judgement becomes in training: the worked examples of docs/data.md, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
from django.db import IntegrityError, transaction

from feedback.models import Comparison, Completion, Preference, Prompt
from tests.factories import make_comparison, make_completion, make_preference, make_prompt, put_up

pytestmark = pytest.mark.django_db
TEXTS = ("zero", "one", "two", "three")


def compared(kind: str, count: int = 4) -> Comparison:
    return make_comparison(kind=kind, texts=TEXTS[:count])


def said(preference: Preference) -> list[tuple[str, str, float, bool]]:
    rows = Preference.objects.get(pk=preference.pk).pairs()
    return sorted((pair.chosen.text, pair.rejected.text, pair.margin, pair.tie) for pair in rows)


def test_a_ranking_becomes_every_ordered_pair() -> None:
    row = make_preference(comparison=compared("ranking"), ranking=[[2], [0, 3], [1]])
    assert said(row) == [
        ("three", "one", 1.0, False),
        ("two", "one", 2.0, False),
        ("two", "three", 1.0, False),
        ("two", "zero", 1.0, False),
        ("zero", "one", 1.0, False),
        ("zero", "three", 0.0, True),
    ]


@pytest.mark.parametrize("count", [2, 3, 4])
def test_a_ranking_of_k_weighs_as_much_as_k_minus_one_pairs(count: int) -> None:
    row = make_preference(comparison=compared("ranking", count), ranking=[[place] for place in range(count)])
    assert sum(pair.weight for pair in row.pairs()) == pytest.approx(count - 1)


def test_a_ranking_without_anything_good_keeps_its_order_but_no_ties() -> None:
    row = make_preference(comparison=compared("ranking", 3), ranking=[[1], [0, 2]], acceptability="neither")
    assert said(row) == [("one", "two", 1.0, False), ("one", "zero", 1.0, False)]


def test_ratings_become_pairs_by_the_difference_of_their_means() -> None:
    ratings = [{"helpful": 2, "harmless": 5, "honest": 5}, {"helpful": 5, "harmless": 5, "honest": 5}]
    row = make_preference(comparison=compared("rating", 2), ratings=ratings)
    assert said(row) == [("one", "zero", 1.0, False)]


def test_one_rated_completion_is_no_pair() -> None:
    assert said(make_preference(comparison=compared("rating", 1), ratings=[{"helpful": 5}])) == []


def correction_of(comparison: Comparison, position: int) -> dict[str, Any]:
    original = comparison.candidates.get(position=position).completion
    edited = make_completion(
        prompt=comparison.prompt, text="zero, mended", source="corrected", corrected_from=original
    )
    return {"written": edited, "corrects": original}


def test_a_correction_is_better_than_what_it_corrects() -> None:
    comparison = compared("pairwise", 2)
    row = make_preference(comparison=comparison, strength=-3, **correction_of(comparison, 0))
    assert said(row) == [("zero", "one", 3.0, False), ("zero, mended", "zero", 1.0, False)]
    assert [text.text for text in row.demonstrations()] == ["zero, mended"]


def test_a_correction_beside_two_bad_ones_still_counts() -> None:
    comparison = compared("pairwise", 2)
    row = make_preference(
        comparison=comparison, strength=0, acceptability="neither", **correction_of(comparison, 0)
    )
    assert said(row) == [("zero, mended", "zero", 1.0, False)]


def demonstrated(prompt: Prompt, text: str = "As I would say it.") -> Preference:
    written = make_completion(prompt=prompt, text=text, source=Completion.Source.WRITTEN)
    return make_preference(comparison=put_up(prompt, [], kind="demonstration"), written=written)


def test_a_demonstration_is_no_pair_but_a_text_to_imitate() -> None:
    row = demonstrated(make_prompt())
    assert row.pairs() == []
    assert [text.text for text in row.demonstrations()] == ["As I would say it."]


def test_what_was_withdrawn_becomes_nothing() -> None:
    comparison = compared("ranking", 3)
    row = make_preference(comparison=comparison, ranking=[[0], [1], [2]], **correction_of(comparison, 0))
    gone = Preference(
        kind="ranking", comparison=comparison, ranking=row.ranking, written=row.written, withdrawn=True
    )
    assert (gone.pairs(), gone.demonstrations()) == ([], [])


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("pairwise", {"strength": None}),
        ("pairwise", {"strength": 4}),
        ("demonstration", {}),
        ("ranking", {"strength": 1}),
    ],
)
def test_the_database_wants_the_answer_of_the_kind(kind: str, fields: dict[str, Any]) -> None:
    comparison = compared(kind, 2)
    first = make_preference(comparison=compared("pairwise", 2))
    with pytest.raises(IntegrityError), transaction.atomic():
        Preference.objects.create(
            assignment=first.assignment, comparison=comparison, annotator=first.annotator, kind=kind,
            shown_order=[0, 1], idempotency_key="refused!", body_hash="x", supersedes=first, **fields,
        )  # fmt: skip


def test_gold_and_its_answer_go_together() -> None:
    for fields in ({"purpose": "gold"}, {"purpose": "training", "gold_answer": {"strength": 1}}):
        with pytest.raises(IntegrityError), transaction.atomic():
            make_comparison(**fields)
    assert make_comparison(purpose="gold", gold_answer={"strength": 1}).pk
