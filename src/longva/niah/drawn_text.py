"""A story book of any length from a seed: the haystack of text where a recipe names none.

    "On the ninth evening the ferryman carried a brass kettle across the lower meadow, because ..."

Plain English in sentences that hardly repeat: a form, whose places are filled from lists. What the
needles of `text_needles` speak of does not occur: no proper names, no cities, no digits, no
variables, and nobody goes to a room of the house or picks anything up in their words. A longer book
begins with the shorter one.
"""

import random
import re
from collections.abc import Iterator
from functools import cache
from itertools import islice

_LISTS = {  # blanks divide, hyphens join words
    "who": """ferryman miller clockmaker shepherd schoolmistress lockkeeper beekeeper basket-weaver
        gardener's-widow postmaster glazier night-nurse cartwright toll-collector bell-ringer
        ropemaker surveyor thatcher bookbinder chimney-sweep orchard-keeper tinsmith dairymaid
        organist charcoal-burner harbourmaster seamstress fiddler mapmaker gatekeeper""",
    "kin": """sister cousin uncle neighbour apprentice grandmother brother tenant nephew aunt lodger
        godmother partner niece helper father-in-law pupil stepson""",
    "thing": """kettle lantern ledger saddle umbrella barometer chair ladder harness spade barrel
        compass quilt bucket whistle anvil spool mirror trunk flute hinge candlestick plough
        blanket wheelbarrow thimble sieve banner telescope oar""",
    "look": """brass borrowed crooked painted rusty narrow heavy mended blue faded wooden
        green-handled cracked patient striped hollow tarred silver-edged unfinished black
        polished lopsided folding dented""",
    "place": """meadow weir quarry chapel-yard millpond cattle-market rope-walk ridge causeway
        orchard harbour-wall ford heath tollgate sheepfold towpath beech-wood brickworks
        salt-marsh common drove-road churchyard lime-kiln coppice slipway bridge-end""",
    "side": """upper lower far old northern flooded eastern steep sunny abandoned nearer muddy
        southern grassy windy""",
    "sky": """fog drizzle frost thunder sleet moonlight haze gale hail snow drought mist
        sunshine thaw wind-from-the-sea rain""",
    "when": """the-second-week-of-Lent the-night-of-the-fair a-market-day harvest the-first-thaw
        midsummer the-longest-night the-week-of-the-floods a-dull-afternoon the-hour-before-dawn
        lambing-time the-feast-of-the-patron the-end-of-haymaking a-washing-day the-eclipse
        the-tenth-of-the-month sowing-time the-last-day-of-the-lease""",
    "did": """mended weighed painted sold described measured carried borrowed counted sketched
        washed buried polished unpacked misplaced repaired inherited auctioned lent
        dusted traded""",
    "felt": """proud uneasy content homesick suspicious amused grateful ashamed restless
        relieved puzzled stubborn hopeful weary curious jealous""",
    "said": """nobody-would-notice the-price-was-fair it-would-last-another-winter
        the-noise-came-from-below such-things-mend-themselves the-water-would-rise-again
        patience-is-cheaper-than-rope the-old-way-was-better one-should-never-hurry-a-horse
        the-letter-had-been-opened the-wood-was-too-green it-belonged-to-somebody-else
        there-was-room-for-both the-tide-keeps-no-promises a-good-knot-needs-no-witness
        the-bees-had-known-it-first every-roof-leaks-somewhere the-debt-was-long-paid""",
    "beast": """mule heron goat spaniel owl dray-horse swan hedgehog ram magpie donkey otter
        gander jackdaw ox weasel""",
    "many": """two three four five six seven eight nine ten eleven twelve thirteen twenty forty
        a-dozen some-thirty""",
    "span": """hours days weeks winters mornings evenings years seasons""",
    "trade": """rope honey slate candles oats cider wool bricks herrings salt timber lime
        willow-rods tallow cheese barley nails reeds""",
}

_FORMS = """
On {when} the {who} {did} a {look} {thing} beside the {side} {place}, and said that {said}.
For {many} {span} the {look} {thing} had stood in the {place}, and only the {who}'s {kin} missed it.
The {who} was {felt}, because the {kin} of the {who2} had {did} the {thing} without a word.
When the {sky} came over the {place}, a {look} {beast} was tied to the {side} {place2}.
It took {many} {span} to bring the {trade} down from the {side} {place}, and the {who} walked ahead.
"{Said}," the {who} used to tell the {kin}, and {did} the {look} {thing} all the same.
Nobody in the {side} {place} could say why the {beast} followed the {who} through the {sky}.
The price of {trade} fell before {when}, so the {who} {did} {many} of them, and felt {felt}.
There was {sky} on the {place} that night, and the {thing} that the {who} had {did} was {look}.
A {kin} of the {who} kept {trade} in the {place} for {many} {span}, beside a {look} {thing}.
If the {sky} had lasted, the {who} would have {did} the {thing} and the {kin} would be {felt} still.
Between the {place} and the {side} {place2} lay a field of {trade}, which the {who} {did} on {when}.
The {beast} slept under the {look} {thing}, and the {who} thought that {said}.
After {when} the {who} and the {who2} shared the {place}, the {thing} and a little {trade}.
In the {who}'s book {many} pages were about {sky}, and one about a {look} {thing} by the {place}.
What the {who} {did} in the {side} {place} was weighed twice, first in {trade} and then in {thing}s.
The {kin} grew {felt} whenever the {who} {did} the {look} {thing}, most of all in {sky}.
Every {thing} in the {place} had a story, but the {look} one was {did} by a {who} on {when}.
{Many} {span} later the {who} came back through the {sky}, {felt}, with a {beast} and no {trade}.
They had agreed upon {trade} for the {thing}, yet on {when} the {who2} brought a {look} {beast}.
Some held that {said}; the {who} of the {side} {place} held the opposite, and {did} the {thing}.
The {who} lent the {kin} a {look} {thing} for {many} {span}, and never asked about the {trade}.
Near the {place} the {sky} stays longest, which made the {who} {felt} and the {trade} dear.
At the {side} end of the {place} stood a {thing}, {look} and {did} by {many} hands before {when}.
As long as the {beast} stood in the {place}, the {who} believed that {said}.
"""


@cache
def _lists() -> dict[str, list[str]]:
    """Return the fillings of each place, in words."""
    return {
        place: [words.replace("-", " ") for words in listed.split()]
        for place, listed in _LISTS.items()
    }


def sentences(seed: int) -> Iterator[str]:
    """Yield sentences for ever, each with the blank or the empty line that follows it."""
    rng, forms = random.Random(f"story {seed}"), _FORMS.strip().split("\n")
    before = ""
    while True:
        left = rng.randint(3, 8)
        while left:
            form = rng.choice(forms)
            if form == before:
                continue
            before, left = form, left - 1
            yield _filled(form, rng) + (" " if left else "\n\n")


def _filled(form: str, rng: random.Random) -> str:
    words = {place: rng.choice(filling) for place, filling in _lists().items()}
    for place in ("who", "place"):
        others = [word for word in _lists()[place] if word != words[place]]
        words[f"{place}2"] = rng.choice(others)
    words |= {place.capitalize(): _capital(words[place]) for place in ("said", "many")}
    return re.sub(r"\b([Aa]) (?=[aeiou])", r"\1n ", form.format(**words))


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def story(seed: int, count: int) -> str:
    """Return the first `count` sentences of the book of a seed."""
    return "".join(islice(sentences(seed), count))
