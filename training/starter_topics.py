"""What customers of a small mail-order shop write about, and what helps, for each kind of trouble. Data only.

Slots: {number} is the customer's order or account number, {product} what they bought, {other} something else,
{due} a day that has passed, {when} a day to come.
"""

from __future__ import annotations

from typing import NamedTuple


class Topic(NamedTuple):
    """One kind of trouble. Sentences end in a full stop; `problem` is a noun phrase."""

    name: str
    asks: tuple[str, ...]
    """First messages that say everything, the number included."""
    vague: str
    """A first message without the number: the assistant asks for it, and the customer gives it."""
    thing: str
    """What the number belongs to: order or account."""
    problem: str
    actions: tuple[str, ...]
    """What a helpful assistant has done or tells the customer to do, with the number or product named."""
    steps: tuple[str, ...]
    """What happens next, and when."""
    blunt: str
    blame: str


TOPICS = (
    Topic(
        "late parcel",
        (
            "My order {number} was due on {due} and the {product} is still not here. Where is it?",
            "Where is the {product} from order {number}? It should have come on {due}.",
            "I am waiting for order {number}, a {product}. Can you tell me when it will arrive?",
        ),
        "My {product} has not arrived yet. It was due on {due}.",
        "order",
        "the late parcel",
        (
            "I have traced order {number} and asked the carrier to deliver the {product} first.",
            "I checked order {number}: the {product} is at the local depot and goes out again.",
            "I have sent a new {product} for order {number} by express.",
        ),
        ("It will reach you by {when}.", "You will get a text message with the time by {when}."),
        "Order {number} is late. Wait until {when}.",
        "You should have looked at the tracking page for order {number}.",
    ),
    Topic(
        "new address",
        (
            "I moved house. Can you send order {number} with the {product} to my new address?",
            "Please change the delivery address of order {number}. The {product} must not go to my old flat.",
            "I gave the wrong street for order {number}. Is it too late to change it?",
        ),
        "I need to change the delivery address for my {product}.",
        "order",
        "the wrong address",
        (
            "I have stopped order {number}, so the {product} will not go to the old address.",
            "I have opened the address of order {number} for you to change.",
            "I have moved order {number} to the new address in your account.",
        ),
        ("Please confirm the street by {when}.", "The {product} will then reach you by {when}."),
        "Order {number} has shipped. Ask the driver.",
        "You should have checked the address before you paid for order {number}.",
    ),
    Topic(
        "cancel order",
        (
            "I want to cancel order {number}. I do not need the {product} any more.",
            "Please cancel the {product} in order {number}. I found it cheaper elsewhere.",
            "Can I still cancel order {number}? I bought the {product} by mistake.",
        ),
        "I would like to cancel the {product} that I ordered.",
        "order",
        "the order you want to cancel",
        (
            "I have cancelled order {number} and the {product} will not be sent.",
            "I have stopped order {number} in the warehouse, so you pay nothing for the {product}.",
            "I have cancelled the {product} in order {number} and started your refund.",
        ),
        ("The money will be on your card by {when}.", "You will get an email about it by {when}."),
        "Order {number} cannot be stopped. Send it back.",
        "You should have thought about order {number} before you paid.",
    ),
    Topic(
        "missing part",
        (
            "I opened order {number} and the cable of the {product} is missing.",
            "The {product} in order {number} came without the manual and one part. Can you help?",
            "Order {number} is not complete. The box of the {product} was half empty.",
        ),
        "A part of my {product} was not in the box.",
        "order",
        "the missing part",
        (
            "I have sent the missing part of the {product} for order {number} by express.",
            "I have put the missing part for order {number} in the post today.",
            "I have ordered a complete {product} for order {number}, and you may keep the first one.",
        ),
        ("It will reach you by {when}.", "You will get the tracking number by {when}."),
        "Parts for order {number} are not in stock. Buy one.",
        "You should have looked in the box of order {number} more carefully.",
    ),
    Topic(
        "wrong item",
        (
            "I ordered a {product} but order {number} had a {other} in it. What now?",
            "Order {number} was wrong. I got a {other} and not the {product} that I paid for.",
            "You sent me the wrong thing in order {number}. I need the {product}.",
        ),
        "I got the wrong item. I ordered a {product}.",
        "order",
        "the wrong item",
        (
            "I have sent the right {product} for order {number} today.",
            "I have packed the {product} for order {number} myself and it leaves tonight.",
            "I have booked a driver for order {number} who brings the {product} you paid for.",
        ),
        ("It will reach you by {when}.", "The driver comes by {when} and you pay nothing."),
        "Send order {number} back first. Then we will see.",
        "You should have checked the list when you placed order {number}.",
    ),
    Topic(
        "refund",
        (
            "I returned the {product} from order {number} and the money is not back yet.",
            "When do I get my refund for order {number}? I sent the {product} back on {due}.",
            "My refund for the {product} in order {number} is still missing.",
        ),
        "I am waiting for the refund of a {product}.",
        "order",
        "the missing refund",
        (
            "I have paid out the refund for order {number} today.",
            "I found the {product} from order {number} in our warehouse and released your refund.",
            "I have asked the bank about order {number} and sent the refund for the {product} again.",
        ),
        ("The money will be on your card by {when}.", "You will get a receipt by {when}."),
        "Refunds take time. Order {number} is in the queue.",
        "You should have sent order {number} back sooner.",
    ),
    Topic(
        "broken item",
        (
            "The {product} from order {number} arrived broken. I want my money back.",
            "My {product} was broken when I opened order {number} on {due}. What can you do?",
            "There is a crack in the {product} from order {number}. Please help me.",
        ),
        "My {product} arrived broken.",
        "order",
        "the broken item",
        (
            "I have started a full refund for the {product} in order {number}.",
            "I have sent a new {product} for order {number} at no cost.",
            "I have booked a free return for order {number} and a new {product} leaves today.",
        ),
        ("You will have it by {when}.", "You will get the return label by {when}."),
        "Order {number} was fine when it left us.",
        "You should have opened order {number} with more care.",
    ),
    Topic(
        "charged twice",
        (
            "You charged me twice for order {number}. I bought only one {product}.",
            "My bank shows two payments for order {number}. Please return one of them.",
            "Why did I pay two times for the {product} in order {number}?",
        ),
        "I was charged twice for one {product}.",
        "order",
        "the double payment",
        (
            "I found the second payment for order {number} and sent it back.",
            "I have cancelled the double payment for the {product} in order {number}.",
            "I have returned one payment for order {number} to your card.",
        ),
        ("The money will be on your card by {when}.", "You will get a receipt by {when}."),
        "Ask your bank about order {number}.",
        "You should have pressed the button only once for order {number}.",
    ),
    Topic(
        "return",
        (
            "How can I return the {product} from order {number}? It is too big for me.",
            "I do not like the {product} from order {number}. How do I send it back?",
            "I want to return order {number}. Do I have to pay for the post?",
        ),
        "I would like to return a {product}.",
        "order",
        "the return",
        (
            "I have made a free return label for order {number} and sent it to your email.",
            "I have booked a driver to collect the {product} from order {number}.",
            "Please put the {product} from order {number} in its box and use the free label I sent you.",
        ),
        ("You will have your money by {when}.", "The label works until {when}."),
        "Order {number} can go back. You pay for it.",
        "You should have read the size of order {number} first.",
    ),
    Topic(
        "password",
        (
            "I forgot my password. My account number is {number}.",
            "I cannot sign in to account {number}. The password is not accepted.",
            "The reset email for account {number} never came. How do I get a new password?",
        ),
        "I forgot my password and cannot sign in.",
        "account",
        "the lost password",
        (
            "I have sent a new reset link for account {number} to your email.",
            "I have reset the password of account {number} and sent you a link.",
            "Please open the link that I sent for account {number} and choose a new password.",
        ),
        ("The link works until {when}.", "If it has not come by {when}, I will call you."),
        "Use the reset page for account {number}.",
        "You should have written down the password of account {number}.",
    ),
    Topic(
        "locked account",
        (
            "My account {number} is locked and I cannot order anything.",
            "Why did you lock account {number}? I did nothing wrong.",
            "Account {number} says that it is closed. I need to see my orders.",
        ),
        "My account is locked since {due}.",
        "account",
        "the locked account",
        (
            "I have opened account {number} again.",
            "I have checked account {number} and removed the lock.",
            "I have unlocked account {number} and sent you a new sign-in link.",
        ),
        ("You can sign in at once.", "If it is locked again, I will call you by {when}."),
        "Account {number} is locked. Wait a day.",
        "You should not have tried so many passwords for account {number}.",
    ),
    Topic(
        "email change",
        (
            "I have a new email address. Please change it for account {number}.",
            "Account {number} still uses my old email. How can I change it?",
            "I do not get your emails since {due}. Account {number} has the wrong address.",
        ),
        "I need to change the email address of my account.",
        "account",
        "the old email address",
        (
            "I have opened account {number} so that you can enter the new email.",
            "I have sent a link for account {number} to your new email.",
            "I have removed the old email from account {number}.",
        ),
        ("Please open the link by {when}.", "All messages will come to the new address from {when}."),
        "Change it in the settings of account {number}.",
        "You should have kept the email of account {number} up to date.",
    ),
    Topic(
        "close account",
        (
            "Please close account {number} and delete my data.",
            "I want to delete account {number}. I do not use it any more.",
            "How do I close account {number}? I get too many emails.",
        ),
        "I want to close my account.",
        "account",
        "the account you want to close",
        (
            "I have closed account {number} and deleted your data.",
            "I have marked account {number} to be deleted and stopped all emails.",
            "I have started to delete account {number}, and no order is open.",
        ),
        ("You will get an email when it is done, by {when}.", "If you change your mind, tell me by {when}."),
        "Account {number} stays open for a year.",
        "You should not have opened account {number} at all.",
    ),
    Topic(
        "no power",
        (
            "The {product} from order {number} does not turn on. What can I do?",
            "My {product} from order {number} stopped working on {due}.",
            "I plugged in the {product} from order {number} and nothing happens.",
        ),
        "My {product} does not turn on.",
        "order",
        "the {product} without power",
        (
            "Please hold the power button of the {product} for ten seconds and try another plug.",
            "Please unplug the {product} for one minute and then press the red button.",
            "I have booked a free repair of the {product} from order {number}.",
        ),
        (
            "If that does not help, I will send a new one by {when}.",
            "You will get a new one for order {number} by {when}.",
        ),
        "The {product} needs power. Check the plug.",
        "You should have read the manual of the {product}.",
    ),
    Topic(
        "no network",
        (
            "The {product} from order {number} does not connect to my network.",
            "My {product} from order {number} loses the network every hour. Please help.",
            "I cannot connect the {product} from order {number} to my phone.",
        ),
        "My {product} does not connect to the network.",
        "order",
        "the lost network",
        (
            "Please turn the {product} off, wait one minute and choose your network again.",
            "Please move the {product} closer and press the reset button for five seconds.",
            "I have sent the new software for the {product} from order {number} to your email.",
        ),
        (
            "If that does not help, I will call you by {when}.",
            "If it fails again, I will replace it for order {number} by {when}.",
        ),
        "The {product} works. Check your network.",
        "You should have read the manual of the {product}.",
    ),
    Topic(
        "weak battery",
        (
            "The battery of the {product} from order {number} is empty after one hour.",
            "My {product} from order {number} does not charge any more.",
            "The {product} from order {number} gets hot and the battery is weak.",
        ),
        "The battery of my {product} is weak.",
        "order",
        "the weak battery",
        (
            "Please charge the {product} with the cable from the box for three hours.",
            "I have sent a new battery for the {product} from order {number}.",
            "I have booked a free repair of the {product} from order {number}.",
        ),
        ("If that does not help, I will send a new one by {when}.", "I will call you about it by {when}."),
        "The battery of the {product} is old. Buy one.",
        "You should not have used the {product} so much.",
    ),
    Topic(
        "update fails",
        (
            "The update of the {product} from order {number} stops half way.",
            "Since the update on {due} the {product} from order {number} is very slow.",
            "The app for my {product} closes when I open it. The order number is {number}.",
        ),
        "The update of my {product} does not work.",
        "order",
        "the failed update",
        (
            "Please restart the {product}, delete the app and load it again.",
            "I have sent a working update for the {product} from order {number} to your email.",
            "Please reset the {product} in the settings and start the update again.",
        ),
        (
            "If that does not help, I will call you by {when}.",
            "If it fails again, I will replace it for order {number} by {when}.",
        ),
        "The update for the {product} is new. Try later.",
        "You should not have stopped the update of the {product}.",
    ),
    Topic(
        "loud noise",
        (
            "The {product} from order {number} makes a loud noise. Is that normal?",
            "My {product} from order {number} is so loud that I cannot sleep.",
            "There is a strange sound in the {product} from order {number} since {due}.",
        ),
        "My {product} makes a loud noise.",
        "order",
        "the noise",
        (
            "Please put the {product} on a flat table and clean the filter.",
            "I have booked a free repair of the {product} from order {number}.",
            "I have sent a new {product} for order {number}, because it should be quiet.",
        ),
        (
            "A driver comes for the old one by {when}.",
            "If that does not help, I will send a new one by {when}.",
        ),
        "The {product} is loud. That is normal.",
        "You should have put the {product} in another room.",
    ),
)
TECHNICAL = ("no network", "weak battery", "update fails")
"""Topics that only make sense for `starter_phrases.DEVICES`."""
