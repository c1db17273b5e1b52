"""The starter corpus: many distinct, readable conversations, and prompts that no corpus holds."""

from __future__ import annotations

import re
import string
from collections import Counter

import pytest

from training import starter, starter_phrases, starter_topics

MANY = 10_500


@pytest.fixture(scope="module")
def corpus() -> list[starter.Conversation]:
    return starter.conversations(0, MANY)


def test_over_ten_thousand_conversations_are_all_distinct(corpus: list[starter.Conversation]) -> None:
    assert len({(str(talk.messages), talk.completion) for talk in corpus}) == len(corpus) == MANY


def test_the_same_seed_gives_the_same_corpus_and_a_longer_one_begins_with_the_shorter(
    corpus: list[starter.Conversation],
) -> None:
    assert starter.conversations(0, 300) == corpus[:300]
    assert starter.conversations(1, 300) != corpus[:300]
    assert starter.prompts(0, 50) == starter.prompts(0, 80)[:50]


def test_every_voice_speaks_about_as_often_as_its_share(corpus: list[starter.Conversation]) -> None:
    heard = Counter(talk.voice for talk in corpus)
    assert sum(voice.share for voice in starter.VOICES.values()) == pytest.approx(1.0)
    for name, voice in starter.VOICES.items():
        # Four standard deviations of a binomial share.
        allowed = 4 * (voice.share * (1 - voice.share) / MANY) ** 0.5
        assert heard[name] / MANY == pytest.approx(voice.share, abs=allowed), name


def test_prompts_are_distinct_and_no_corpus_holds_them(corpus: list[starter.Conversation]) -> None:
    asked = [str(messages) for messages in starter.prompts(0, 300)]
    assert len(set(asked)) == 300
    for talks in (corpus, starter.conversations(5, 3000)):
        assert not set(asked) & {str(talk.messages) for talk in talks}


def test_messages_alternate_and_end_with_the_customer(corpus: list[starter.Conversation]) -> None:
    turns = Counter(len(talk.messages) for talk in corpus)
    assert set(turns) == {1, 3}
    for messages in [*(talk.messages for talk in corpus), *starter.prompts(0, 300)]:
        roles = [message["role"] for message in messages]
        assert roles == ["user", "assistant", "user"][: len(roles)]


def test_all_texts_are_filled_and_end_like_sentences(corpus: list[starter.Conversation]) -> None:
    for talk in corpus:
        for text in [*(message["content"] for message in talk.messages), talk.completion]:
            assert text == text.strip() and "  " not in text
            assert not set("{}") & set(text)
            assert text[-1] in ".?!"
        assert 5 <= len(talk.completion.split()) <= 60


def test_every_phrase_has_known_slots_only() -> None:
    known = {"number", "product", "other", "other2", "due", "when", "thing", "problem"}
    texts = [text for value in vars(starter_phrases).values() if isinstance(value, tuple) for text in value]
    for topic in starter_topics.TOPICS:
        texts += [
            *topic.asks,
            topic.vague,
            topic.problem,
            *topic.actions,
            *topic.steps,
            topic.blunt,
            topic.blame,
        ]
    for text in texts:
        assert {slot for _, slot, _, _ in string.Formatter().parse(text) if slot} <= known, text


def test_the_words_are_few(corpus: list[starter.Conversation]) -> None:
    words = {word for talk in corpus for word in re.findall("[a-z]+", talk.completion.lower())}
    assert len(words) < 600


def test_all_voices_but_the_wrong_one_name_the_customers_own_number(
    corpus: list[starter.Conversation],
) -> None:
    strange = 0
    for talk in corpus:
        asked = " ".join(message["content"] for message in talk.messages)
        own, named = set(re.findall(r"\d+", asked)), set(re.findall(r"\d+", talk.completion))
        assert len(own) == 1
        if talk.voice == "wrong":
            strange += bool(named - own)
        else:
            assert named <= own, talk
    # Three in ten of the wrong answers are about another topic instead, some of the others name no number.
    wrong = sum(talk.voice == "wrong" for talk in corpus)
    assert 0.4 < strange / wrong < 0.8
