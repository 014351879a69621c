"""Writes the corpus on which the tiny base model is trained.

Everything is templated English of our own: passages of small facts, customers' orders, and
questions about them whose answers stand in the passage, so that the model learns to find and
copy. Rows are ``{"text": ...}`` or ``{"messages": [...]}``. Deterministic from the seed.
"""

import argparse
import json
import random
import string
from dataclasses import dataclass
from pathlib import Path

from orders import Order, draw_order, write_request
from vocabulary import (
    ADJECTIVES,
    COLOURS,
    DAYS,
    ITEMS,
    JOBS,
    NAMES,
    NUMBERS,
    SMALL_WORDS,
    TOWNS,
)

SYSTEM_PROMPTS = (
    "You are a helpful assistant.",
    "Answer from the text only.",
    "You work at the order desk of a shop.",
    "Be brief.",
)


@dataclass(frozen=True)
class Fact:
    """A sentence, and the questions that it answers.

    Attributes:
        text: One or two sentences.
        questions: Pairs of a question and its answer.
    """

    text: str
    questions: tuple[tuple[str, str], ...]


def made_up_name(rng: random.Random) -> str:
    """Makes a name that is in no list: copying it takes looking, not remembering."""
    syllables = [rng.choice("bdfgklmnprstvz") + rng.choice("aeiou") for _ in range(3)]
    return ("".join(syllables) + rng.choice(("", "n", "r", "s"))).capitalize()


def person_fact(name: str, rng: random.Random) -> Fact:
    """Says one thing about somebody: where they live, what they do, what they bought."""
    town, job, day = rng.choice(TOWNS), rng.choice(JOBS), rng.choice(DAYS)
    plural, number = rng.choice(list(ITEMS.values())), rng.randint(2, 20)
    colour, code = rng.choice(COLOURS), rng.randint(10, 99999)
    facts = (
        (f"{name} lives in {town}.", ("Where does {} live?", f"In {town}.")),
        (f"{name} works as a {job}.", ("What is the job of {}?", f"The job is {job}.")),
        (f"{name} was born on a {day}.", ("On which day was {} born?", f"On {day}.")),
        (
            f"{name} bought {NUMBERS[number - 1]} {colour} {plural}.",
            ("How many things did {} buy?", f"It is {number}."),
            ("Which colour did {} choose?", f"It is {colour}."),
            ("What did {} buy?", f"It is {plural}."),
        ),
        (f"The number of {name} is {code}.", ("What is the number of {}?", f"It is {code}.")),
        (
            f"On {day} {name} takes the train to {town}.",
            ("When does {} travel?", f"On {day}."),
            ("Where does {} go?", f"To {town}."),
        ),
    )
    text, *questions = rng.choice(facts)
    told = ("What do you know about {}?", f"I know this: {text}")
    return Fact(
        text, tuple((question.format(name), answer) for question, answer in (*questions, told))
    )


def order_questions(order: Order) -> tuple[tuple[str, str], ...]:
    """Asks for each field of an order, and for all of them in a notice."""
    day = order.day or "not given"
    return (
        ("Which item is ordered?", f"The item is {order.item}."),
        ("How many are ordered?", f"The count is {order.count}."),
        ("Who gets the order?", f"It is for {order.name}."),
        ("Which town does it go to?", f"The town is {order.town}."),
        ("Which day is asked for?", f"The day is {day}."),
        (
            "Write the order as a list.",
            f"Item: {order.item}\nCount: {order.count}\nName: {order.name}\n"
            f"Town: {order.town}\nDay: {day}",
        ),
        (
            "Write a label.",
            f"For {order.name} in {order.town} by {day}, {order.count} of {order.item}",
        ),
    )


def order_fact(rng: random.Random) -> Fact:
    """Draws an order and words it as a customer would."""
    order = draw_order(rng)
    return Fact(write_request(order, rng), order_questions(order))


def common_fact(rng: random.Random) -> Fact:
    """States something that holds for everybody: sums, days, plurals, numbers."""
    first, second = rng.randint(1, 20), rng.randint(1, 20)
    day = rng.randrange(7)
    today, tomorrow = DAYS[day], DAYS[(day + 1) % 7]
    item, plural = rng.choice(list(ITEMS.items()))
    word, adjective = NUMBERS[first - 1], rng.choice(ADJECTIVES)
    total = f"{first + second}"
    facts = (
        (f"{first} plus {second} is {total}.", (f"{first} + {second} = ?", f"It is {total}.")),
        (f"{tomorrow} follows {today}.", (f"What comes after {today}?", f"It is {tomorrow}.")),
        (f"One {item}, many {plural}.", (f"What is one of the {plural}?", f"One {item}.")),
        (f"The number {word} is {first}.", (f"Write {word} in digits.", f"It is {first}.")),
        (f"The {item} is {adjective}.", (f"What is {adjective}?", f"The {item} is {adjective}.")),
    )
    text, *questions = rng.choice(facts)
    return Fact(text, tuple(questions))


def echo_fact(rng: random.Random) -> Fact:
    """Gives words, or printable characters at random, to be said again."""
    words = [*SMALL_WORDS, *NAMES, *TOWNS, *ITEMS, *DAYS]
    if rng.random() < 0.8:
        said = " ".join(rng.choices(words, k=rng.randint(4, 16)))
    else:
        printable = string.ascii_letters + string.digits + string.punctuation
        said = " ".join("".join(rng.choices(printable, k=rng.randint(1, 8))) for _ in range(4))
    return Fact(f"Listen: {said}", (("Say it again.", f"You said: {said}"),))


def draw_passage(rng: random.Random) -> list[Fact]:
    """Draws the facts of one document."""
    kind = rng.random()
    if kind < 0.5:
        return [order_fact(rng)]
    if kind < 0.7:
        people = [made_up_name(rng) if rng.random() < 0.3 else rng.choice(NAMES) for _ in range(3)]
        return [person_fact(name, rng) for name in people[: rng.randint(1, 3)]]
    if kind < 0.8:
        return [common_fact(rng)]
    return [echo_fact(rng)]


def make_document(rng: random.Random) -> dict:
    """Makes one row: a chat in most cases, else plain text."""
    facts = draw_passage(rng)
    passage = " ".join(fact.text for fact in facts)
    questions = [pair for fact in facts for pair in fact.questions]
    rng.shuffle(questions)
    questions = questions[: rng.randint(2, 4)]

    if rng.random() < 0.15:
        lines = [f"Question: {question}\nAnswer: {answer}" for question, answer in questions]
        return {"text": "\n".join([passage, *lines])}

    messages = []
    if rng.random() < 0.1:
        messages.append({"role": "system", "content": rng.choice(SYSTEM_PROMPTS)})
    if rng.random() < 0.1:
        messages.append({"role": "tool", "content": passage})
        passage = ""
    for question, answer in questions:
        content = f"{passage}\n{question}" if passage else question
        messages.append({"role": "user", "content": content})
        messages.append({"role": "assistant", "content": answer})
        passage = ""
    return {"messages": messages}


def main() -> None:
    """Reads the flags and writes the corpus."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, required=True, help="folder to write to")
    parser.add_argument("--documents", type=int, default=80_000)
    parser.add_argument("--seed", type=int, default=10)
    args = parser.parse_args()

    rng = random.Random(args.seed)
    args.output.mkdir(parents=True, exist_ok=True)
    with (args.output / "corpus.jsonl").open("w", encoding="utf-8") as file:
        for _ in range(args.documents):
            file.write(json.dumps(make_document(rng)) + "\n")
    print(f"{args.documents} documents in {args.output}")


if __name__ == "__main__":
    main()
