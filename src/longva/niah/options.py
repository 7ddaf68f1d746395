"""Lettered options of a question: write them, count them, turn them, offer one more.

    What is it?              turned by 1       What is it?          one more       What is it?
    A. bird                                    A. dog                              A. bird
    B. dog          <- B                       B. bird     <- A                    B. dog
    Answer ...                                 Answer ...                          C. not shown

Turning is the circular evaluation of VNBench (VideoNIAH, arXiv 2406.09367): the same is asked once
for each place that the right option may have, and counts as known if all replies are right.
Whoever does not look is right at most as often as by one guess: in one turn of n, a reply that goes
by the letter is right in one of the n questions only, and one that goes by the option's text in all
of them, if the text is the right one.
"""

from collections.abc import Sequence
from typing import Any

LETTER_ENDING = "\nAnswer with the option's letter from the given choices directly."


def multiple_choice(question: str, options: Sequence[str], right: int) -> dict[str, Any]:
    """Write a question with lettered options in the paper's form: prompt, answer and chance."""
    lines = "".join(f"\n{letter(i)}. {option}" for i, option in enumerate(options))
    return {
        "prompt": f"\n{question}{lines}{LETTER_ENDING}",
        "answer": letter(right),
        "chance": 1 / len(options),
    }


def letter(number: int) -> str:
    """Return the letter of an option, counted from 0."""
    return chr(ord("A") + number)


def options_of(prompt: str) -> list[str]:
    """Return the texts of a question's lettered options; of fewer than two, none.

    >>> options_of("\\nWhat is it?\\nA. bird\\nB. dog\\nAnswer")
    ['bird', 'dog']
    """
    options: list[str] = []
    for line in prompt.split("\n"):
        if line.startswith(f"{letter(len(options))}. "):
            options.append(line[3:])
    return options if len(options) > 1 else []


def guess_chance(prompt: str) -> float:
    """Return 1 / options for a question with lines "A. ...", "B. ..."; 0 for an open one.

    >>> guess_chance("The scientist is a...\\nA. Bird\\nB. Elephant\\nC. Panda\\nD. Dog\\nAnswer")
    0.25
    """
    options = options_of(prompt)
    return 1 / len(options) if options else 0.0


def turns(prompt: str, answer: str) -> int:
    """Return how many questions a turn of the options makes: 1 where there is nothing to turn."""
    options = options_of(prompt)
    return len(options) if answer in map(letter, range(len(options))) else 1


def turned(prompt: str, answer: str, by: int) -> tuple[str, str]:
    """Move every option on by so many letters, the last ones to the front; return also the answer.

    >>> turned("\\nWhat?\\nA. x\\nB. y\\nC. z\\nAnswer", "C", by=1)
    ('\\nWhat?\\nA. z\\nB. x\\nC. y\\nAnswer', 'A')
    """
    options = options_of(prompt)
    count = len(options)
    moved = [options[(i - by) % count] for i in range(count)]
    right = (ord(answer) - ord("A") + by) % count
    return with_options(prompt, moved), letter(right)


def with_options(prompt: str, options: Sequence[str]) -> str:
    """Put other options where a question's own stand; further ones follow the last.

    >>> with_options("\\nWhat?\\nA. x\\nB. y\\nAnswer", ["y", "x", "z"])
    '\\nWhat?\\nA. y\\nB. x\\nC. z\\nAnswer'
    """
    count = len(options_of(prompt))
    lines, seen = [], 0
    for line in prompt.split("\n"):
        if seen < count and line.startswith(f"{letter(seen)}. "):
            seen += 1
            last = len(options) if seen == count else seen
            lines += [f"{letter(i)}. {options[i]}" for i in range(seen - 1, last)]
        else:
            lines.append(line)
    return "\n".join(lines)
