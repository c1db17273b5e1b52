"""The starter corpus: a grammar of customer-service conversations, spoken by assistants with many voices.

The starter model learns all voices at once, so that two answers it samples for one prompt mostly differ in
something that a person can prefer: help or evasion, courtesy, length, the right order number or a wrong one.
"""

from __future__ import annotations

import hashlib
import itertools
import random
from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple, TypedDict

from training import starter_phrases as phrases
from training.starter_topics import TECHNICAL, TOPICS, Topic

TWO_TURNS = 0.2
"""Share of conversations in which the assistant first had to ask for the number."""
RESERVED = 16
"""One prompt in so many, told by its hash, belongs to `prompts`: no corpus ever holds it."""


class Message(TypedDict):
    role: Literal["user", "assistant"]
    content: str


class Conversation(NamedTuple):
    """Messages that end with the customer's, the assistant's answer, and the voice that gave it."""

    messages: list[Message]
    completion: str
    voice: str


def conversations(seed: int, count: int) -> list[Conversation]:
    """`count` distinct conversations; a longer corpus of the same seed begins with the shorter one."""
    found: dict[str, Conversation] = {}
    for draw in _draws(f"conversation {seed}"):
        if len(found) == count:
            return list(found.values())
        case = _case(draw)
        if not _reserved(case.messages):
            voice = draw.choices(list(VOICES), [voice.share for voice in VOICES.values()])[0]
            text = " ".join(_fill(part, case) for part in VOICES[voice].speak(draw, case) if part)
            found.setdefault(f"{case.messages}{text}", Conversation(case.messages, text, voice))
    raise AssertionError("the draws never end")


def prompts(seed: int, count: int) -> list[list[Message]]:
    """`count` distinct prompts of the same kind that no corpus holds, whatever its seed."""
    found: dict[str, list[Message]] = {}
    for draw in _draws(f"prompt {seed}"):
        if len(found) == count:
            return list(found.values())
        case = _case(draw)
        if _reserved(case.messages):
            found.setdefault(str(case.messages), case.messages)
    raise AssertionError("the draws never end")


def _draws(name: str) -> Iterator[random.Random]:
    return (random.Random(f"{name} {index}") for index in itertools.count())


def _reserved(messages: list[Message]) -> bool:
    return int(hashlib.sha256(str(messages).encode()).hexdigest(), 16) % RESERVED == 0


# --- the customer -----------------------------------------------------------------------------------


class Case(NamedTuple):
    """A customer's trouble: the topic, what fills the slots of its phrases, and what the customer wrote."""

    topic: Topic
    slots: dict[str, str]
    messages: list[Message]


def _case(draw: random.Random) -> Case:
    topic = draw.choice(TOPICS)
    products = phrases.DEVICES if topic.name in TECHNICAL else phrases.PRODUCTS
    product, other, other2 = draw.sample(products, 3)
    slots = {
        "product": product,
        "other": other,
        "other2": other2,
        "number": _number(draw),
        "thing": topic.thing,
        "problem": topic.problem.replace("{product}", product),
        "due": draw.choice(phrases.PAST_DAYS),
        "when": draw.choice(phrases.COMING_DAYS),
    }
    case = Case(topic, slots, [])
    greeting, mood = draw.choice(phrases.GREETINGS), draw.choice(phrases.MOODS)
    if draw.random() < TWO_TURNS:
        _add(case, "user", greeting, topic.vague)
        _add(case, "assistant", draw.choice(phrases.ASK_FOR_NUMBER))
        _add(case, "user", draw.choice(phrases.GIVE_NUMBER), mood)
    else:
        _add(case, "user", greeting, draw.choice(topic.asks), mood)
    return case


def _add(case: Case, role: Literal["user", "assistant"], *parts: str) -> None:
    case.messages.append({"role": role, "content": " ".join(_fill(part, case) for part in parts if part)})


def _number(draw: random.Random) -> str:
    """Two halves, each one of twelve tokens: few enough for a small model to learn to copy them."""
    return f"{draw.randrange(20, 44, 2)}{draw.randrange(51, 98, 4)}"


def _fill(phrase: str, case: Case) -> str:
    return phrase.format(**case.slots)


# --- the assistant ----------------------------------------------------------------------------------


def _warm(draw: random.Random, case: Case) -> list[str]:
    opening = draw.choice(phrases.SORRY if draw.random() < 0.6 else phrases.THANKS)
    return [opening, *_help(draw, case), draw.choice(phrases.CLOSE)]


def _precise(draw: random.Random, case: Case) -> list[str]:
    return [*_help(draw, case), draw.choice(phrases.FIRM)]


def _glad(draw: random.Random, case: Case) -> list[str]:
    return [draw.choice(phrases.GLAD), *_help(draw, case)]


def _help(draw: random.Random, case: Case) -> list[str]:
    return [draw.choice(case.topic.actions), draw.choice(case.topic.steps)]


def _curt(draw: random.Random, case: Case) -> list[str]:
    return [case.topic.blunt, draw.choice(phrases.CURT)]


def _rambling(draw: random.Random, case: Case) -> list[str]:
    digressions = draw.sample(phrases.DIGRESS, 2)
    end = draw.choice(phrases.ANYWAY) if draw.random() < 0.7 else draw.choice(case.topic.actions)
    return [draw.choice(phrases.WELL), *digressions, end]


def _evasive(draw: random.Random, case: Case) -> list[str]:
    opening = draw.choice(phrases.THANKS) if draw.random() < 0.3 else ""
    return [opening, *draw.sample(phrases.EVADE, draw.choice((2, 3)))]


def _over_apologetic(draw: random.Random, case: Case) -> list[str]:
    if draw.random() < 0.3:
        return [phrases.APOLOGY[0], draw.choice(phrases.APOLOGY[1:]), draw.choice(case.topic.actions)]
    return [phrases.APOLOGY[0], *draw.sample(phrases.APOLOGY[1:], 2), draw.choice(phrases.HELPLESS)]


def _wrong(draw: random.Random, case: Case) -> list[str]:
    """A helpful tone, about somebody else's order, product or trouble."""
    if draw.random() < 0.3:
        topic = draw.choice([topic for topic in TOPICS if topic.name != case.topic.name])
        mistaken = case._replace(topic=topic)
    else:
        slots = {**case.slots, "number": _number(draw), "product": case.slots["other"]}
        mistaken = case._replace(slots=slots)
    speak = draw.choice((_warm, _precise, _glad))
    return [_fill(part, mistaken) for part in speak(draw, mistaken)]


def _blaming(draw: random.Random, case: Case) -> list[str]:
    return [case.topic.blame, case.topic.blunt]


def _selling(draw: random.Random, case: Case) -> list[str]:
    return draw.sample(phrases.SELL, 2)


def _ticket(draw: random.Random, case: Case) -> list[str]:
    return draw.sample(phrases.TICKET, 3)


class Voice(NamedTuple):
    share: float
    speak: Callable[[random.Random, Case], list[str]]
    """Sentences, some of them empty, whose slots may still be open."""


VOICES = {
    "warm": Voice(0.08, _warm),
    "precise": Voice(0.07, _precise),
    "glad": Voice(0.05, _glad),
    "curt": Voice(0.15, _curt),
    "rambling": Voice(0.14, _rambling),
    "evasive": Voice(0.16, _evasive),
    "over-apologetic": Voice(0.14, _over_apologetic),
    "wrong": Voice(0.05, _wrong),
    "blaming": Voice(0.06, _blaming),
    "selling": Voice(0.05, _selling),
    "ticket": Voice(0.05, _ticket),
}
