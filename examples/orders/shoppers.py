"""A thousand impatient shoppers, the same for every shop: who comes when, clicks how often, and pays how, if at all."""

import dataclasses
import random

import provider

# Of a hundred shoppers. Those who pay in time with a good card come back for as long as there is something to be had.
KINDS = {"buys": 20, "leaves": 30, "pays late": 16, "declined": 15, "slow": 7, "lost": 6, "silent": 6}
NUMBERS = {behaviour: number for number, behaviour in provider.CARDS.items()}


@dataclasses.dataclass(frozen=True)
class Shopper:
    number: int
    kind: str
    # Seconds after the sale has begun.
    arrives: float
    # Between two looks at a page, and at the cart before it is checked out.
    thinks: float
    # Clicks on "Check out" and on "Pay": one, or several in a row.
    clicks: int
    # After the units were held; None: never.
    pays_after: float | None
    card: str

    @property
    def insists(self):
        return self.kind == "buys"


def shoppers(count=1000, hold=4.0, sale=20.0, seed=7):
    """`count` shoppers who come within `sale` seconds to a shop that holds units for `hold` seconds."""
    dice = random.Random(seed)
    kinds = dice.choices(list(KINDS), KINDS.values(), k=count)
    found = []
    for number, kind in enumerate(kinds):
        pays_after = {"leaves": None, "pays late": hold * dice.uniform(0.9, 1.8)}.get(kind, hold * dice.uniform(0.1, 0.6))
        found.append(Shopper(
            number, kind, arrives=sale * dice.random(), thinks=dice.uniform(0.5, 1.5), clicks=dice.choice([1, 1, 1, 2, 3]),
            pays_after=pays_after, card=NUMBERS[kind if kind in NUMBERS else "good"]))
    return found
