"""Inputs for `fuzz.py`: what is right, made wrong in a few places, and what is nothing at all."""

import copy
import random
from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st

EDGES = [
    *(
        "",
        " ",
        "\n",
        "\0",
        "\ud800",
        "\u2028",
        "\ue000",
        "a" * 5000,
        "..",
        "/",
        "~",
        "*",
        "-",
        "[]",
    ),
    *("nan", "-1", "1e999", "0x10", "9" * 5000, "1:02:03", "-0:01", "2024-13-45", "true", "None"),
    *("<image>", "<video>", "<image><video>", "<|im_start|>", "<|im_end|>", "{{", "{%", "\\"),
    *("data:", "data:;base64,", "data:image/png;base64,AAAA", "file:///etc/passwd", "file://x/y"),
    *("user", "assistant", "system", "human", "gpt", "text", "image", "(((", "[a-", "a{9999}"),
]
"""Texts that mean something somewhere."""

NUMBERS = [
    *(0, 1, -1, 2, 3, 2**31, 2**63 - 1, 2**63, -(2**63) - 1, 10**30, -0.0, 0.5, 1e-300, 1e308),
    *(float("nan"), float("inf"), float("-inf")),
]

TEXTS = st.sampled_from(EDGES) | st.text(max_size=20)
LEAVES = st.none() | st.booleans() | TEXTS | st.sampled_from(NUMBERS) | st.integers() | st.floats()
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)
"""Anything that JSON can say, and what only Python's reads."""

CHANCE = st.randoms(use_true_random=True)
"""Where to change something: a generator that hypothesis seeds."""


def places(value: Any, at: tuple = ()) -> list[tuple]:
    """Return the paths of all that is inside a value, itself first."""
    found, inside = [at], []
    if isinstance(value, dict | list):
        inside = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in inside:
        found += places(inner, (*at, key))
    return found


def edit(value: Any, chance: random.Random, new: Any) -> Any:
    """Change one place of a value: put something else there, leave it out, wrap it, repeat it."""
    path = chance.choice(places(value))
    if not path:
        return chance.choice([new, [value], value, {"type": value}])
    parent = value
    for key in path[:-1]:
        parent = parent[key]
    kind = chance.randrange(7)
    if kind < 3:
        parent[path[-1]] = new
    elif kind == 3:
        del parent[path[-1]]
    elif kind == 4:
        parent[path[-1]] = [parent[path[-1]]]
    elif kind == 5 and isinstance(parent, list):
        parent.extend(copy.deepcopy(parent[path[-1]]) for _ in range(chance.choice([1, 20])))
    elif isinstance(parent, dict):
        parent[chance.choice(EDGES)] = parent[path[-1]]
    return value


def edited(seeds: Sequence[Any]) -> st.SearchStrategy[Any]:
    """Seeds that are changed in no, one or a few places."""

    def change(seed: Any, chance: random.Random, news: list[Any]) -> Any:
        value = copy.deepcopy(seed)
        for new in news:
            value = edit(value, chance, new)
        return value

    return st.builds(change, st.sampled_from(seeds), CHANCE, st.lists(VALUES, max_size=4))


def cut_up(content: bytes, chance: random.Random, others: Sequence[bytes]) -> bytes:
    """Change bytes of a file: flip, overwrite, insert, leave out, end early, mix with another."""
    data = bytearray(content)
    for _ in range(chance.choice([1, 1, 2, 4, 16])):
        at = chance.randrange(len(data) + 1)
        length = chance.choice([1, 2, 4, 8, 64, 1000])
        kind = chance.randrange(8)
        if kind == 0 and at < len(data):
            data[at] ^= 1 << chance.randrange(8)
        elif kind == 1:
            data[at : at + length] = chance.randbytes(length)
        elif kind == 2:
            data[at : at + length] = chance.choice([b"\0", b"\xff", b"\x7f"]) * length
        elif kind == 3:
            del data[at : at + length]
        elif kind == 4:
            data[at:at] = data[at : at + length]
        elif kind == 5:
            number = chance.choice([0, 1, 2**31 - 1, 2**32 - 1, len(data), chance.getrandbits(32)])
            data[at : at + 4] = number.to_bytes(4, chance.choice(["big", "little"]))
        elif kind == 6:
            other = chance.choice(others)
            data[at : at + length] = other[at : at + length]
        elif chance.random() < 0.3:
            del data[at:]
    return bytes(data)


def damaged(seeds: Sequence[bytes]) -> st.SearchStrategy[bytes]:
    """Files of which some bytes are others; seldom bytes that are no file."""
    seed = st.sampled_from(seeds)
    changed = st.builds(lambda whole, chance: cut_up(whole, chance, seeds), seed, CHANCE)
    return st.one_of(*[changed] * 9, st.binary(max_size=64))


def pieced(pieces: Sequence[str], most: int = 30) -> st.SearchStrategy[str]:
    """Texts put together from pieces of a language."""
    return st.lists(st.sampled_from(pieces) | TEXTS, max_size=most).map("".join)
