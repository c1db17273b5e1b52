"""What customers and assistants of a small mail-order shop say around the topic itself. Data only.

Slots as in starter_topics.py; {thing} is order or account, {problem} the trouble as a noun phrase,
{other2} one more product.
"""

from __future__ import annotations

PRODUCTS = (
    "kettle", "toaster", "blender", "heater", "headset", "router", "tablet", "printer", "camera", "speaker",
    "monitor", "radio",
)  # fmt: skip
DEVICES = ("headset", "router", "tablet", "printer", "camera", "speaker", "monitor", "radio")
"""Products that have a battery, a screen, an app or a network: the technical topics are about these."""
PAST_DAYS = ("Monday", "Tuesday", "Thursday", "Saturday", "Sunday")
COMING_DAYS = ("tomorrow", "Wednesday", "Thursday", "Friday", "Saturday", "next Monday")

# --- what customers say around it -------------------------------------------------------------------

GREETINGS = ("", "", "Hi.", "Hello.", "Good morning.", "Hi there.")
MOODS = ("", "", "", "", "Thank you.", "Please hurry.", "This is the second time I write.", "I am not happy.")
ASK_FOR_NUMBER = (
    "I can look into that. What is your {thing} number?",
    "Thank you for writing. Please tell me the {thing} number.",
    "Which {thing} is it about?",
)
GIVE_NUMBER = (
    "It is {number}.",
    "The number is {number}.",
    "My number is {number}.",
    "It is {thing} {number}.",
)

# --- what assistants say around it ------------------------------------------------------------------

THANKS = ("Thank you for writing to us.", "Thank you for telling us.", "Thank you for your message.")
SORRY = ("I am sorry about {problem}.", "I am sorry for the trouble with {problem}.")
GLAD = (
    "I am happy to help with {problem}.",
    "I will gladly take care of {problem}.",
    "Of course, I can help.",
)
CLOSE = (
    "Is there anything else I can do for you?",
    "Please write again if you need anything.",
    "Have a lovely day!",
    "Thank you for your patience.",
)
FIRM = (
    "You do not need to do anything else.",
    "Your case stays open until it is solved.",
    "I have noted this in your file.",
)
CURT = ("That is all.", "Nothing more to say.", "Next time read the page.", "No need to write again.", "")
WELL = (
    "Well, where do I begin with {problem}?",
    "You know, {problem} is quite a story.",
    "Ah yes, {problem}, that is a long story.",
)
DIGRESS = (
    "My cousin had a {other} once, or perhaps it was a {other2}.",
    "Many people ask about such things, and in winter even more people ask.",
    "Our shop is old, and in the old days everything was on paper.",
    "The weather was bad this week and the roads were full.",
    "Some like the {other} better, while others like the {other2}.",
    "I was just talking about this at lunch, and nobody could agree.",
)
ANYWAY = (
    "Anyway, what was your question?",
    "Anyway, such is life.",
    "But I have lost the thread, so let us see.",
)
EVADE = (
    "There can be many reasons for {problem}.",
    "It is hard to say anything about {problem}.",
    "Such things depend on many factors.",
    "I cannot promise anything at this time.",
    "Another team may know more about it.",
    "You may find something about it on our website.",
    "Perhaps it will solve itself.",
    "It might be better to ask again later.",
)
APOLOGY = (
    "Oh no, I am so terribly sorry about {problem}!",
    "I apologise, I really do apologise.",
    "I feel awful about this and I am so very sorry.",
    "Please forgive us, please forgive me.",
    "I cannot say often enough how sorry I am.",
    "We are deeply, deeply sorry.",
    "This must never happen, and I am ashamed.",
)
HELPLESS = ("I hope you can forgive us.", "I wish I could do something.", "I am sorry, I am so sorry.")
SELL = (
    "Great news! The new {other} is on sale this week.",
    "Did you know that we now have a {other} for half the price?",
    "Have you thought of buying a {other} too?",
    "Our plus plan makes every order cheaper.",
    "Buy two and get a {other2} for free.",
    "You will love the {other}, everybody does.",
)
TICKET = (
    "Your request has been received.",
    "A ticket was created for {problem}.",
    "Your request will be handled in the order in which it came.",
    "Please do not reply to this message.",
    "Our hours are from nine to five.",
)
