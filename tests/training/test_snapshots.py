"""Frozen data: the same bytes for the same rows, counts that agree with a plain recount, splits by prompt."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from feedback.models import Completion, Preference, Project, Prompt, User
from tests import factories
from training import snapshots
from training.forms import freezable
from training.loop import count_judgements
from training.models import Snapshot
from training.snapshots import NothingToFreeze

pytestmark = pytest.mark.django_db


def rows(snapshot: Snapshot) -> list[dict[str, Any]]:
    return [json.loads(line) for line in snapshot.path.read_text(encoding="utf-8").splitlines()]


def judge(project: Project, strengths: list[int], **fields: Any) -> list[Preference]:
    return [factories.make_preference(project=project, strength=strength, **fields) for strength in strengths]


def test_rows_counts_and_hash_agree_with_a_recount(project: Project, engineer: User) -> None:
    made = judge(project, [3, -1, 2, 0, 1, -2, -3, 1, 2, 1, -1, 0])
    made += judge(project, [0], acceptability="neither")  # says nothing that trains
    made += judge(project, [2, -2], simulated=True)
    snapshot = snapshots.freeze_preferences(project, actor=engineer)
    found = rows(snapshot)
    assert hashlib.sha256(snapshot.path.read_bytes()).hexdigest() == snapshot.sha256
    assert [row["preference_id"] for row in found] == [
        row.pk for row in made if row.acceptability != "neither"
    ]
    for row in found:
        preference = Preference.objects.get(pk=row["preference_id"])
        first, second = (candidate.completion.text for candidate in preference.comparison.candidates.all())
        assert preference.strength is not None
        wanted = (first, second) if preference.strength <= 0 else (second, first)
        assert (row["chosen"], row["rejected"]) == wanted
        assert (row["margin"], row["tie"]) == (abs(preference.strength), preference.strength == 0)
        assert row["prompt"] == preference.comparison.prompt.messages
    held_out = sum(row["split"] == "held_out" for row in found)
    assert snapshot.counts == {
        "preferences": 15, "simulated": 2, "pairs": 14, "ties": 2, "prompts": 14, "annotators": 14,
        "train": 14 - held_out, "held_out": held_out,
    }  # fmt: skip


def test_equal_state_gives_equal_bytes_and_one_row(project: Project, engineer: User) -> None:
    judge(project, [1] * 12)
    one = snapshots.freeze_preferences(project, actor=engineer)
    before = one.path.read_bytes()
    two = snapshots.freeze_preferences(project, actor=None)
    assert two == one and two.path.read_bytes() == before
    judge(project, [-1])
    three = snapshots.freeze_preferences(project, actor=engineer)
    assert three.sha256 != one.sha256 and one.path.read_bytes() == before
    assert three.path.read_bytes().startswith(before)
    assert not list(one.path.parent.glob(".*")), "nothing half-written is left"


def test_undone_and_replaced_judgements_are_left_out(project: Project, engineer: User) -> None:
    kept = judge(project, [1] * 10)
    (undone, replaced) = judge(project, [3, 3])
    for old, change in ((undone, {"withdrawn": True, "strength": None}), (replaced, {"strength": -2})):
        fields = {"strength": 0, **change}
        Preference.objects.create(
            assignment=old.assignment, comparison=old.comparison, annotator=old.annotator, shown_order=[0, 1],
            idempotency_key=f"later-{old.pk}", body_hash="", supersedes=old, **fields,
        )  # fmt: skip
    found = rows(snapshots.freeze_preferences(project, actor=engineer))
    assert [row["margin"] for row in found] == [1.0] * len(kept) + [2.0]


def test_only_this_projects_training_judgements_by_people(project: Project, engineer: User) -> None:
    judge(project, [1] * 10)
    judge(project, [1], simulated=True)
    review = factories.make_comparison(project=project, purpose="review")
    factories.make_preference(comparison=review)
    judge(factories.make_project(), [1] * 3)
    snapshot = snapshots.freeze_preferences(project, actor=engineer, include_simulated=False)
    assert (snapshot.counts["pairs"], snapshot.counts["simulated"]) == (10, 0)
    assert snapshots.freeze_preferences(project, actor=engineer).counts["pairs"] == 11


def test_too_few_decided_pairs_are_refused_in_words(project: Project, engineer: User) -> None:
    judge(project, [1] * 9 + [0] * 5)
    with pytest.raises(NothingToFreeze, match="at least 10 .* there are 9"):
        snapshots.freeze_preferences(project, actor=engineer)
    assert not Snapshot.objects.exists()


def test_a_prompt_never_stands_on_both_sides(project: Project, engineer: User) -> None:
    prompts = [factories.make_prompt(project=project) for _ in range(60)]
    for prompt in prompts * 2:
        comparison = factories.make_comparison(prompt=prompt)
        factories.make_preference(comparison=comparison)
    snapshot = snapshots.freeze_preferences(project, actor=engineer)
    sides: dict[int, set[str]] = {}
    for row in rows(snapshot):
        sides.setdefault(row["prompt_id"], set()).add(row["split"])
    assert all(len(side) == 1 for side in sides.values())
    expected = {p.pk for p in prompts if int(p.content_hash[:8], 16) % 10 == 0}
    assert {pk for pk, side in sides.items() if side == {"held_out"}} == expected


def test_about_one_prompt_in_ten_is_held_out() -> None:
    hashes = [hashlib.sha256(f"prompt {number}".encode()).hexdigest() for number in range(2000)]
    share = sum(snapshots.split_of(value) == "held_out" for value in hashes) / 2000
    assert 0.08 < share < 0.12


@pytest.mark.parametrize("split", [Prompt.Split.HELD_OUT, Prompt.Split.REVIEW])
def test_a_prompt_set_aside_stays_out_of_training(split: str) -> None:
    assert snapshots.split_of("f" * 64) == "train"
    assert snapshots.split_of("f" * 64, split) == "held_out"


def test_demonstrations_by_source(project: Project, engineer: User) -> None:
    prompt = factories.make_prompt(project=project, text="Where is my parcel?")  # its hash says train
    texts = {
        source: factories.make_completion(prompt=prompt, source=source, text=f"by {source}").text
        for source in Completion.Source.values
    }
    written = snapshots.freeze_demonstrations(project, actor=engineer, source="written")
    assert [row["completion"] for row in rows(written)] == [texts["written"], texts["corrected"]]
    imported = snapshots.freeze_demonstrations(project, actor=engineer, source="imported")
    assert rows(imported) == [
        {"prompt": prompt.messages, "completion": "by imported", "split": rows(imported)[0]["split"]}
    ]
    assert imported.counts["demonstrations"] == 1
    with pytest.raises(NothingToFreeze, match="no demonstration"):
        snapshots.freeze_demonstrations(project, actor=engineer, source="chosen")


def test_chosen_demonstrations_are_what_won_once_each(project: Project, engineer: User) -> None:
    prompt = factories.make_prompt(project=project, text="Where is my parcel?")  # its hash says train
    comparison = factories.make_comparison(prompt=prompt, texts=("worse", "better"), overlap=3)
    for strength in (1, 2, 0):
        factories.make_preference(comparison=comparison, strength=strength)
    snapshot = snapshots.freeze_demonstrations(project, actor=engineer, source="chosen")
    assert [row["completion"] for row in rows(snapshot)] == ["better"]


def test_a_ranking_is_frozen_as_its_pairs(project: Project, engineer: User) -> None:
    judge(project, [1] * 10)
    comparison = factories.make_comparison(project=project, kind="ranking", texts=("a", "b", "c"), overlap=2)
    factories.make_preference(comparison=comparison, ranking=[[2], [0], [1]])
    factories.make_preference(comparison=comparison, ranking=[[0, 2], [1]])
    everything = rows(snapshots.freeze_preferences(project, actor=engineer))
    found = [row for row in everything if row["chosen"] in "abc"]
    said = [
        (row["chosen"], row["rejected"], row["margin"], row["tie"], row.get("agreement")) for row in found
    ]
    assert said == [
        ("a", "b", 1.0, False, 1.0), ("c", "a", 1.0, False, 0.5), ("c", "b", 2.0, False, 1.0),
        ("a", "b", 1.0, False, 1.0), ("a", "c", 0.0, True, None), ("c", "b", 1.0, False, 1.0),
    ]  # fmt: skip
    assert {row["weight"] for row in found} == {2 / 3}


def test_corrections_and_demonstrations_are_frozen_for_imitation(project: Project, engineer: User) -> None:
    for prompt in (factories.make_prompt(project=project, text=f"p{number}") for number in range(30)):
        text = f"mine {prompt.pk}"
        written = factories.make_completion(prompt=prompt, text=text, source="written")
        asked = factories.put_up(prompt, [], kind="demonstration")
        factories.make_preference(comparison=asked, written=written)
    corrected = factories.make_comparison(project=project, texts=("plain", "poor"))
    original = corrected.candidates.get(position=0).completion
    edit = factories.make_completion(
        prompt=corrected.prompt, text="mended", source="corrected", corrected_from=original
    )
    row = factories.make_preference(comparison=corrected, strength=-2, written=edit, corrects=original)
    for source in ("written", "chosen"):
        found = rows(snapshots.freeze_demonstrations(project, actor=engineer, source=source))
        texts = {row["completion"] for row in found}
        assert len(found) == 31 and "mended" in texts and not texts & {"plain", "poor"}
    Preference.objects.create(
        assignment=row.assignment, comparison=corrected, annotator=row.annotator, shown_order=[0, 1],
        idempotency_key="taken back", body_hash="", supersedes=row, withdrawn=True,
    )  # fmt: skip
    snapshot = snapshots.freeze_demonstrations(project, actor=engineer, source="written")
    assert "mended" not in {row["completion"] for row in rows(snapshot)}


def test_what_can_be_frozen_is_counted_as_it_is_frozen(project: Project, engineer: User) -> None:
    judge(project, [1] * 10 + [0])
    judge(project, [0], acceptability="neither")
    three = {"project": project, "kind": "ranking", "texts": ("a", "b", "c")}
    factories.make_preference(comparison=factories.make_comparison(**three), ranking=[[0, 1], [2]])
    factories.make_preference(
        comparison=factories.make_comparison(**three), ranking=[[0, 1], [2]], acceptability="neither"
    )
    for ratings in ([{"kind": 3}], [{"kind": 3}, {"kind": 3}], [{"kind": 1}, {"kind": 5}]):
        texts = tuple("de"[: len(ratings)])
        comparison = factories.make_comparison(project=project, kind="rating", texts=texts)
        factories.make_preference(comparison=comparison, ratings=ratings)
    written = factories.make_completion(prompt=factories.make_prompt(project=project), source="written")
    factories.make_preference(
        comparison=factories.put_up(written.prompt, [], kind="demonstration"), written=written
    )
    counts = snapshots.freeze_preferences(project, actor=engineer).counts
    now = freezable(project)
    assert (now.pairs, now.pairs - now.decided) == (counts["pairs"], counts["ties"]) == (18, 3)
    # Of the judgements those count that say which is better: ten pairs, two rankings, two ratings of two.
    assert count_judgements(project, since=None)["decided"] == 14


def test_a_text_that_came_with_no_judgement_counts_as_written(project: Project, engineer: User) -> None:
    for number in range(20):
        factories.make_completion(
            prompt=factories.make_prompt(project=project), text=f"{number}", source="written"
        )
    assert len(rows(snapshots.freeze_demonstrations(project, actor=engineer, source="written"))) == 20


def test_rows_from_outside_are_checked(project: Project, engineer: User) -> None:
    prompt = [{"role": "user", "content": "Where is my order?"}]
    row = {"prompt": prompt, "completion": "On its way.", "split": "train"}
    snapshot = snapshots.freeze_demonstration_rows(project, [row], actor=engineer)
    assert rows(snapshot) == [row] and snapshot.counts == {"demonstrations": 1, "train": 1, "held_out": 0}
    with pytest.raises(ValueError, match="a completion"):
        snapshots.freeze_demonstration_rows(project, [{**row, "completion": ""}], actor=engineer)
    with pytest.raises(ValueError, match="one of"):
        snapshots.freeze_demonstrations(project, actor=engineer, source="everything")


def test_prompts_drawn_by_seed(project: Project, engineer: User) -> None:
    prompts = [factories.make_prompt(project=project) for _ in range(20)]
    factories.make_prompt(project=project, split=Prompt.Split.REVIEW)
    train = snapshots.freeze_prompts(project, actor=engineer, split="train")
    assert [row["prompt_id"] for row in rows(train)] == [prompt.pk for prompt in prompts]
    assert rows(train)[0] == {"prompt": prompts[0].messages, "prompt_id": prompts[0].pk}
    drawn = [
        [
            row["prompt_id"]
            for row in rows(snapshots.freeze_prompts(project, actor=engineer, limit=5, seed=seed))
        ]
        for seed in (1, 1, 2)
    ]
    assert drawn[0] == drawn[1] != drawn[2] and len(set(drawn[0])) == 5
    assert snapshots.freeze_prompts(project, actor=engineer).counts == {"prompts": 21}


def test_no_prompts_no_snapshot(project: Project, engineer: User) -> None:
    with pytest.raises(NothingToFreeze, match="import some"):
        snapshots.freeze_prompts(project, actor=engineer)


def test_a_failed_freeze_leaves_nothing_behind(project: Project, engineer: User, artifact_root: Path) -> None:
    def broken() -> Any:
        yield {"prompt": [{"role": "user", "content": "Hello?"}], "completion": "Hello.", "split": "train"}
        raise OSError("No space left on device")

    with pytest.raises(OSError, match="No space"):
        snapshots.freeze_demonstration_rows(project, broken(), actor=engineer)
    assert list((artifact_root / "snapshots").iterdir()) == []


def test_text_of_every_script_survives(project: Project, engineer: User) -> None:
    text = 'Zażółć \u202e \U0001f600 \u2028 \\n "quoted" \u0007'
    row = {"prompt": [{"role": "user", "content": text}], "completion": text, "split": "train"}
    snapshot = snapshots.freeze_demonstration_rows(project, [row], actor=engineer)
    lines = snapshot.path.read_bytes().split(b"\n")
    assert json.loads(lines[0]) == row and lines[1:] == [b""]


def test_people_s_agreement_and_annotators_without_names(project: Any, engineer: Any) -> None:
    """By hand: zora and ben agree on the first pair, cat calls it a tie; nobody else judged the others."""
    people = {name: factories.make_user(username=name) for name in ("zora", "ben", "cat")}
    shared = factories.make_comparison(project=project, overlap=4)
    robot = factories.make_user(username="robot", simulated=True)
    for name, strength in (("zora", 2), ("ben", 1), ("cat", 0)):
        factories.make_preference(comparison=shared, annotator=people[name], strength=strength)
    factories.make_preference(comparison=shared, annotator=robot, strength=-3, simulated=True)
    for number in range(12):
        factories.make_preference(project=project, annotator=people["zora"], imported=number == 0)
    frozen = snapshots.freeze_preferences(project, actor=engineer)
    found = rows(frozen)
    first = {row["annotator"]: row.get("agreement") for row in found if row["prompt_id"] == shared.prompt_id}
    assert first == {0: 0.75, 1: 0.75, 2: None, 3: None}
    rest = [row for row in found if row["prompt_id"] != shared.prompt_id]
    assert [row.get("annotator") for row in rest].count(None) == 1, "an importer is no annotator"
    assert {row.get("annotator") for row in rest} == {None, 0}
    assert not any("agreement" in row for row in rest)
    assert "zora" not in frozen.path.read_text()
