"""Orders: what a customer asks for, and the sentences in which it is asked."""

import random
from dataclasses import dataclass

from vocabulary import ADJECTIVES, COLOURS, DAYS, ITEMS, NAMES, NUMBERS, TOWNS

REQUESTS = (
    "Please bring {goods} to {name}{town}{day}.",
    "Please send {goods} to {name}{town}{day}, thank you.",
    "Could you deliver {goods} to {name}{town}{day}?",
    "We need {goods} for {name}{town}{day}.",
    "{name} would like {goods}{town}{day}.",
    "Hello, this is {name}. I want to order {goods} for delivery{town}{day}.",
    "Good morning! {name} asked for {goods}, to be delivered{town}{day}.",
    "Can we get {goods}{town}{day}? They are for {name}.",
    "Order for {name}: {goods}, delivery{town}{day}.",
    "I am calling for {name}. We are short of {goods}{town}, so send them{day}.",
)


@dataclass(frozen=True)
class Order:
    """One order.

    Attributes:
        item: What is ordered, in the singular.
        count: How many, 2 to 20.
        name: Who gets it.
        town: Where it goes.
        day: The day of the week, or None when the customer names none.
    """

    item: str
    count: int
    name: str
    town: str
    day: str | None


def draw_order(rng: random.Random) -> Order:
    """Draws an order; one in eight names no day."""
    return Order(
        item=rng.choice(list(ITEMS)),
        count=rng.randint(2, len(NUMBERS)),
        name=rng.choice(NAMES),
        town=rng.choice(TOWNS),
        day=None if rng.random() < 0.125 else rng.choice(DAYS),
    )


def write_request(order: Order, rng: random.Random) -> str:
    """Words an order as a customer would, with the odd detail that the order does not keep."""
    count = rng.choice((NUMBERS[order.count - 1], str(order.count)))
    detail = rng.choice(("", "", rng.choice(ADJECTIVES) + " ", rng.choice(COLOURS) + " "))
    return rng.choice(REQUESTS).format(
        goods=f"{count} {detail}{ITEMS[order.item]}",
        name=order.name,
        town=f" in {order.town}",
        day="" if order.day is None else f" on {order.day}",
    )
