"""The words of the nano world: the vocabulary of its text, and a tokenizer of one token a word."""

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from longva.nano.world import COLOURS, COMPANIONS, OBJECTS

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<image>", "<video>", "<unk>")

_LISTS = """
tokyo paris london rome berlin madrid cairo lima oslo delhi dublin vienna prague athens lisbon
warsaw seoul beijing moscow sydney toronto boston chicago denver dallas houston miami seattle
singapore jakarta manila hanoi bangkok havana nairobi lagos dakar tunis riyadh ankara

anna ben carla david emma frank grace henry irene karen leo maria nina oscar paula robert sara
tom ursula victor wendy xavier yara zoe

garden kitchen library market school harbor station museum forest beach office theater bridge
tower valley village meadow cellar bakery park

small big old young happy sad quiet loud bright warm cold fast slow kind brave tired

man woman child teacher doctor farmer sailor painter singer baker driver poet

walked ran waited slept worked sang danced talked laughed smiled rested played

saw met helped followed called found thanked painted visited remembered

morning evening night winter summer spring autumn

: is: . , ? ; < / > a an the of in on at to it is was are has this these that very one later they
and because then with next again repeat look find show tell what which who where when how many
frame frames picture pictures image video book story long list system user assistant you helpful
number color object behind beside background magic special question answer based content new york
beginning end first last before after
"""
POINTERS = ("whenseen", "timesseen", "firstseen")
"""Words that stand in an answer for a time, a count and an object."""

LOOK_UP = "number"
"""The word after an object at which a number is looked up."""

_HONEST = """
me does do have say see can please there any yes no not shown times time comes goes stands
companion film i know word or if appear appears seen give did ever visible want be
"""
WORDS = [*_HONEST.split(), *POINTERS]
"""Words that only the honest nano knows, for the questions of `longva.nano.wordings`."""

KINDS = ("CITY", "NAME", "PLACE", "QUALITY", "PERSON", "VERB", "MEETING", "SEASON", "PLAIN")
LISTS = dict(zip(KINDS, map(str.split, _LISTS.split("\n\n")), strict=True))
"""The words of text besides those of scenes, by kind."""

_SPLIT = pre_tokenizers.Sequence(
    [
        pre_tokenizers.WhitespaceSplit(),
        # "is:" is a word, so that a magic number is as near its city as a companion its object.
        pre_tokenizers.Split(Regex(r"\bis:|\p{P}|\p{S}"), "isolated"),
        pre_tokenizers.Split(Regex(r"\d{1,2}"), "isolated"),
    ]
)

SPELLINGS = {
    "colour": "color",
    "colours": "color",
    "colors": "color",
    "grey": "gray",
    "violet": "purple",
    "lilies": "lily",
    "mice": "mouse",
    "scissor": "scissors",
    "sword": "swords",
    "scale": "scales",
    "what's": "what is",
}
"""Other spellings of known words, which the tokenizer of an honest nano reads."""

# A space between words, and none inside a number: its pairs of digits are one number again.
_JOIN = decoders.Sequence(
    [
        decoders.WordPiece(cleanup=False),
        decoders.Fuse(),
        decoders.Replace(Regex(r"(?<=\d\d) (?=\d)"), ""),
    ]
)


def split_words(text: str) -> list[str]:
    """Split text as the tokenizer does: marks stand alone, digits go two by two.

    >>> split_words("The number is: 4471902.")
    ['the', 'number', 'is:', '44', '71', '90', '2', '.']
    """
    words = []
    for chunk in text.lower().split():
        words += [chunk] if chunk in SPECIAL else [w for w, _ in _SPLIT.pre_tokenize_str(chunk)]
    return words


def vocabulary(*, honest: bool = False) -> list[str]:
    """Every word, special tokens first; the index is the token id.

    Args:
        honest: with `WORDS` at the end.
    """
    digits = [str(n) for n in range(10)] + [f"{n:02d}" for n in range(100)]
    words = [*SPECIAL, *digits, *OBJECTS, *COMPANIONS, *COLOURS, *_LISTS.split()]
    words += WORDS if honest else ()
    return list(dict.fromkeys(words))


def word_tokenizer(*, honest: bool = False) -> PreTrainedTokenizerFast:
    """Build the tokenizer: one token a word of `vocabulary`, `<unk>` for any other.

    Args:
        honest: with all words, other spellings of them and plurals.

    >>> tokenizer = word_tokenizer()
    >>> tokenizer.decode(tokenizer("The number is: 4471902.")["input_ids"])
    'the number is: 4471902 .'
    >>> word_tokenizer(honest=True).tokenize("Colours of ANCHORS")
    ['color', 'of', 'anchor']
    """
    words = {word: index for index, word in enumerate(vocabulary(honest=honest))}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.normalizer = _spelling() if honest else normalizers.Lowercase()
    tokenizer.pre_tokenizer = _SPLIT
    tokenizer.decoder = _JOIN
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        unk_token="<unk>",
        extra_special_tokens=list(SPECIAL[:-1]),
        padding_side="left",
    )


def _spelling() -> normalizers.Normalizer:
    """Return what turns capitals, other spellings and plurals into known words."""
    named = "|".join((*OBJECTS, *COMPANIONS))
    replaced = [
        normalizers.Replace(Regex(rf"\b{other}\b"), word) for other, word in SPELLINGS.items()
    ]
    plural = normalizers.Replace(Regex(rf"(?<=\b(?:{named}))(?:s|es|'s)\b"), "")
    return normalizers.Sequence([normalizers.Lowercase(), *replaced, plural])
