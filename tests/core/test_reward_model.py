"""The reward model: what it learns, what it reports, and what its folder says to plain transformers."""

from __future__ import annotations

import itertools
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from tests.core import drive, tiny
from training.core import held_out, judgement, models, score_scale
from training.core.types import Pair

CONFIG = {"epochs": 4, "batch_pairs": 8, "learning_rate": 1e-3}


def run(path: Path, folder: Path, rows: list[dict[str, Any]] | None = None, **changes: Any) -> Path:
    snapshot = tiny.write_rows(path.with_suffix(".jsonl"), tiny.preferences() if rows is None else rows)
    made = tiny.run_dir(path, "reward_model", {**CONFIG, **changes}, {"policy": folder, "snapshot": snapshot})
    assert drive.run(made) == {"status": "done"}, drive.events(made, "error")
    return made


def plain_scores(folder: Path, rows: list[dict[str, Any]], which: str) -> torch.Tensor:
    """Oracle: plain transformers, one text at a time."""
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    found = []
    for row in rows:
        prompt = tokenizer.apply_chat_template(row["prompt"], add_generation_prompt=True, tokenize=False)
        ids = tokenizer(prompt)["input_ids"] + tokenizer(row[which])["input_ids"] + [tokenizer.eos_token_id]
        with torch.no_grad():
            found.append(model(torch.tensor([ids])).logits[0, 0])
    return torch.stack(found)


@pytest.fixture(params=["gpt2", "llama"])
def folder(request: pytest.FixtureRequest) -> Path:
    return request.getfixturevalue(request.param)


def test_it_orders_held_out_pairs_and_its_scores_are_normalised(folder: Path, tmp_path: Path) -> None:
    """Items 26, 51 and 61: mean 0 and deviation 1 on training completions, in the weights themselves."""
    made = run(tmp_path / "run", folder)
    rows = drive.metrics(made)
    last = rows[max(rows)]
    assert last["held_out/accuracy"] == 1.0
    assert last["held_out/loss"] < 0.4 < rows[0]["held_out/loss"]
    assert last["held_out/accuracy_low"] == pytest.approx(1 / (1 + 1.959964**2 / 8), abs=1e-6)
    train = [row for row in tiny.preferences() if row["split"] == "train"]
    scores = torch.cat([plain_scores(made / "output", train, side) for side in ("chosen", "rejected")])
    assert scores.mean().item() == pytest.approx(0.0, abs=2e-3)
    assert scores.std().item() == pytest.approx(1.0, abs=2e-3)
    held_out = [row for row in tiny.preferences() if row["split"] == "held_out"]
    chosen, rejected = (plain_scores(made / "output", held_out, side) for side in ("chosen", "rejected"))
    assert (chosen > rejected).all()


def test_a_fresh_reward_model_guesses(gpt2: Path, tmp_path: Path) -> None:
    """Item 52: before the first step the loss is near log 2, over pairs without any order."""
    rows = tiny.preferences(60)
    for row in rows[::12]:  # every second one of the held-out pairs
        row["chosen"], row["rejected"] = row["rejected"], row["chosen"]
    made = run(tmp_path / "run", gpt2, rows, epochs=1, learning_rate=1e-8)
    assert drive.metrics(made)[0]["held_out/loss"] == pytest.approx(math.log(2), abs=0.2)


def test_the_split_into_micro_batches_changes_nothing(gpt2: Path, tmp_path: Path) -> None:
    rows = tiny.preferences()
    for place, row in enumerate(rows):
        row["weight"], row["tie"] = 0.5 + place % 3, place % 7 == 0
    settings: dict[str, Any] = {"epochs": 1, "margins": "learned", "label_smoothing": 0.1}
    whole = run(tmp_path / "whole", gpt2, rows, **settings)
    split = run(tmp_path / "split", gpt2, rows, **settings, microbatch_tokens=16)
    expected, found = drive.steady(drive.metrics(whole)), drive.steady(drive.metrics(split))
    assert expected.keys() == found.keys()
    for step, values in expected.items():
        assert found[step] == pytest.approx(values, rel=2e-3, abs=1e-4)


def test_a_pair_without_weight_does_not_exist(gpt2: Path, tmp_path: Path) -> None:
    rows = tiny.preferences(24)
    noise = [{**row, "chosen": row["rejected"], "rejected": row["chosen"], "weight": 0.0} for row in rows]
    without = run(tmp_path / "without", gpt2, rows, epochs=1)
    with_them = run(tmp_path / "with", gpt2, [*rows, *noise], epochs=1)
    one, other = (load_file(made / "output" / "model.safetensors") for made in (without, with_them))
    assert all(torch.equal(weight, other[name]) for name, weight in one.items())


def test_an_annotator_without_weight_does_not_exist(gpt2: Path, tmp_path: Path) -> None:
    """Item 57: with reliabilities learned, too, so that his is not learned either."""
    rows = [{**row, "annotator": index % 3} for index, row in enumerate(tiny.preferences(24))]
    liar = [
        {**row, "chosen": row["rejected"], "rejected": row["chosen"], "weight": 0.0, "annotator": 7}
        for row in rows
    ]
    kept = {"epochs": 1, "annotators": "reliability"}
    without = run(tmp_path / "without", gpt2, rows, **kept)
    with_him = run(tmp_path / "with", gpt2, [*rows, *liar], **kept)
    one, other = (load_file(made / "output" / "model.safetensors") for made in (without, with_him))
    assert all(torch.equal(weight, other[name]) for name, weight in one.items())
    assert drive.steady(drive.metrics(without)) == drive.steady(drive.metrics(with_him))


def test_the_human_ceiling_stands_beside_the_accuracy(gpt2: Path, tmp_path: Path) -> None:
    """By hand: of the held-out pairs, those at 0, 6, 12 and 18, two were judged by others as well."""
    rows = [{**row, "agreement": None} for row in tiny.preferences(24)]
    rows[0]["agreement"], rows[6]["agreement"], rows[1]["agreement"] = 1.0, 0.5, 0.0  # row 1 is for training
    made = run(tmp_path / "run", gpt2, rows, epochs=1)
    assert drive.metrics(made)[max(drive.metrics(made))]["held_out/human_agreement"] == 0.75
    assert any("agree with one another in 75.0%" in event["message"] for event in drive.events(made, "log"))
    unknown = [{**row, "agreement": None} for row in rows]
    alone = run(tmp_path / "alone", gpt2, unknown, epochs=1)
    assert not any("held_out/human_agreement" in row for row in drive.metrics(alone).values())


def test_accuracy_by_annotator_and_strength_is_that_of_plain_transformers(gpt2: Path, tmp_path: Path) -> None:
    """Item 58. Annotator 1 says the opposite of what annotator 0 says, and is foreseen as badly."""
    rows = tiny.preferences(60)
    for place, row in enumerate(rows):
        row["annotator"] = place // 6 % 2 if row["split"] == "held_out" else 0
        row["margin"] = 1.0 + place // 6 % 3
        if row["annotator"] == 1:
            row["chosen"], row["rejected"] = row["rejected"], row["chosen"]
    rows[0]["tie"] = True  # undecided: it counts for nobody
    made = run(tmp_path / "run", gpt2, rows, epochs=1)
    unseen = [row for row in rows if row["split"] == "held_out" and not row["tie"]]
    difference = plain_scores(made / "output", unseen, "chosen") - plain_scores(
        made / "output", unseen, "rejected"
    )

    def share(name: str, value: float) -> tuple[float, int]:
        of = [gap > 0 for gap, row in zip(difference.tolist(), unseen, strict=True) if row[name] == value]
        return sum(of) / len(of), len(of)

    last = drive.metrics(made)[max(drive.metrics(made))]
    assert [share("annotator", number)[1] for number in (0, 1)] == [4, 5]
    assert last["held_out/annotator_lowest"] == last["held_out/annotator_highest"] == share("annotator", 1)[0]
    told = "\n".join(event["message"] for event in drive.events(made, "log"))
    for number in (0, 1):
        found, count = share("annotator", number)
        assert re.search(rf"{number}: {found:.1%} \([\d.]+% to [\d.]+%, {count} pairs\)", told)
    for strength, words in ((1.0, "slightly better"), (2.0, "better"), (3.0, "much better")):
        found, count = share("margin", strength)
        assert re.search(rf"[:;] {words}: {found:.1%} \([\d.]+% to [\d.]+%, {count} pairs\)", told)
    assert told.index("by annotator number, the lowest first: 1:") < told.index("; 0: ")


def test_pairs_without_annotator_or_strength_are_no_group() -> None:
    pair = Pair([1], [2], [3], 0.0, False, 1.0)
    figures, words = held_out.by_group([pair] * 6, torch.ones(6))
    assert figures == {} and list(words) == []


def test_of_many_annotators_the_lowest_are_told() -> None:
    pairs = [Pair([1], [2], [3], 0.0, False, 1.0, number) for number in range(30) for _ in range(5)]
    correct = torch.tensor([float(pair.annotator >= 3) for pair in pairs])
    figures, words = held_out.by_group(pairs, correct)
    assert figures == {"held_out/annotator_lowest": 0.0, "held_out/annotator_highest": 1.0}
    (told,) = words
    assert told.count("pairs)") == 20 and "0: 0.0% (0.0% to 43.4%, 5 pairs)" in told
    assert "10 more are above these" in told


def test_an_ensemble_is_the_single_model_and_others_of_other_seeds(gpt2: Path, tmp_path: Path) -> None:
    """Item 59: the first member is what a run without others makes; each folder is plain transformers'."""
    single = run(tmp_path / "single", gpt2, epochs=1)
    made = run(tmp_path / "ensemble", gpt2, epochs=1, members=3)
    folders = models.member_folders(made / "output")
    assert [folder.name for folder in folders] == ["output", "member-2", "member-3"]
    rows = [row for row in tiny.preferences() if row["split"] == "held_out"]
    differences = torch.stack(
        [plain_scores(folder, rows, "chosen") - plain_scores(folder, rows, "rejected") for folder in folders]
    )
    one = plain_scores(single / "output", rows, "chosen") - plain_scores(single / "output", rows, "rejected")
    assert torch.allclose(differences[0], one, atol=1e-5)
    assert not torch.allclose(differences[0], differences[1], atol=1e-2)
    last = drive.metrics(made)[max(drive.metrics(made))]
    assert last["held_out/disagreement"] > 0 and 0 <= last["held_out/ensemble_accuracy"] <= 1


def test_without_held_out_pairs_it_says_so(gpt2: Path, tmp_path: Path) -> None:
    rows = [{**row, "split": "train"} for row in tiny.preferences(12)]
    made = run(tmp_path / "run", gpt2, rows, epochs=1)
    assert "no held-out pairs" in drive.warnings(made)
    assert not any("held_out/accuracy" in values for values in drive.metrics(made).values())


def test_held_out_ties_alone_have_a_loss_and_no_accuracy(gpt2: Path, tmp_path: Path) -> None:
    rows = [{**row, "split": "train", "tie": False} for row in tiny.preferences(12)]
    rows += [{**row, "split": "held_out", "tie": True} for row in tiny.preferences(14)[12:]]
    made = run(tmp_path / "run", gpt2, rows, epochs=1, members=2)
    assert "All held-out pairs are ties" in drive.warnings(made)
    figures = drive.metrics(made)[max(drive.metrics(made))]
    assert figures["held_out/loss"] > 0
    assert not [name for name in figures if name.startswith("held_out/") and "accuracy" in name]
    told = [event["message"] for event in drive.events(made, "log")]
    assert any(line.startswith("Member 2: Kept the weights of step") for line in told)


def test_held_out_ties_that_no_model_reads_choose_no_epoch(gpt2: Path, tmp_path: Path) -> None:
    """Half a win for each is least wrong at equal scores: such pairs would choose who learned least."""
    rows = [{**row, "split": "train", "tie": False} for row in tiny.preferences(12)]
    rows += [{**row, "split": "held_out", "tie": True} for row in tiny.preferences(14)[12:]]
    made = run(tmp_path / "run", gpt2, rows, epochs=2, ties="half")
    assert not any("held_out/loss" in values for values in drive.metrics(made).values())
    assert not any("Kept the weights" in event["message"] for event in drive.events(made, "log"))


# --- figures (item 58) ------------------------------------------------------------------------------


def test_a_step_is_skipped_when_what_it_learns_of_the_judges_is_no_number(
    gpt2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The square root of |x - x| is 0 and has no slope there: a finite loss, and a gradient that is not."""
    likelihood, calls = judgement.Judgement.forward, itertools.count(1)

    def forward(self: judgement.Judgement, *of: Any) -> torch.Tensor:
        hurt = (self.log_steps - self.log_steps.detach()).abs().sqrt().sum() if next(calls) == 2 else 0.0
        return likelihood(self, *of) + hurt

    monkeypatch.setattr(judgement.Judgement, "forward", forward)
    made = run(tmp_path / "run", gpt2, epochs=1, margins="learned")
    assert "Step 2 was skipped: its loss or gradient is not finite." in drive.warnings(made)
    rows = drive.metrics(made)
    assert "train/loss" not in rows[2] and math.isfinite(rows[max(rows)]["judgement/margin_2"])


def test_a_tied_score_counts_half() -> None:
    found = held_out.right(torch.tensor([1.0, 0.0, -1.0]))
    assert found.tolist() == [1.0, 0.5, 0.0]


def test_wilson_interval_of_the_textbook() -> None:
    """81 of 263: 0.255 to 0.366 (Newcombe 1998, table I, method 3); none of 20 starts at 0."""
    assert held_out.wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    low, high = held_out.wilson(0, 20)
    assert low == pytest.approx(0.0, abs=1e-12) and high == pytest.approx(0.1611, abs=1e-4)


def test_calibration_error_by_hand() -> None:
    sure = math.log(0.95 / 0.05)
    differences = torch.tensor([sure] * 6 + [-sure] * 2)  # says 95 %, is right in 75 %
    assert held_out.calibration_error(differences) == pytest.approx(0.2, abs=1e-5)
    assert held_out.calibration_error(torch.tensor([50.0, 60.0])) == pytest.approx(0.0, abs=1e-5)


def test_swapped_pairs_have_the_opposite_difference(gpt2: Path) -> None:
    """Item 54: the order in which two completions stand in the batch has no effect."""
    model = models.RewardModel(gpt2, fresh_head_seed=0)
    pair = Pair([5, 6], [7, 8, 1], [9, 1], 0.0, False, 1.0)
    swapped = pair._replace(chosen_ids=pair.rejected_ids, rejected_ids=pair.chosen_ids)
    with torch.no_grad():
        chosen, rejected = model.pair_scores([pair, swapped])
    assert (chosen - rejected)[0].item() == pytest.approx(-(chosen - rejected)[1].item(), abs=1e-6)


def test_the_head_is_shifted_without_touching_differences() -> None:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(200, 12, generator=generator, dtype=torch.float64)
    hidden[:, 3] = 0.7  # what a layer norm with a bias gives: some direction is constant
    weight = torch.randn(12, generator=generator, dtype=torch.float64)
    moved = score_scale.shifted_head(hidden, weight, 2.5)
    change = hidden @ moved - hidden @ weight
    assert change.mean().item() == pytest.approx(2.5, abs=1e-9)
    assert (change - 2.5).abs().max().item() < 1e-4
