"""What holds for any input, against plain references."""

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from longva.data.text import packing
from longva.data.text.packing import PackedText, tokenizer_fingerprint, write_packed
from longva.data.text.upsampling import Candidates, LengthStatistics, choose_documents
from longva.errors import RecipeError
from longva.media.address import locate, path_of
from longva.model.random_model import byte_tokenizer
from longva.model.unires import choose_grid, image_to_grids, letterbox
from longva.parallel.zigzag import zigzag_index, zigzag_positions, zigzag_shard, zigzag_unshard
from longva.recipes import STRICT, apply_override, load_recipe, recipe_yaml
from longva.train.order import StepOrder

MANY = settings(deadline=None, derandomize=True, database=None)


@MANY
@given(
    *(st.integers(1, 40), st.integers(1, 40), st.integers(1, 6)),
    *(st.sampled_from(["released", "paper"]), st.sampled_from(["unires", "anyres"])),
)
def test_grids_put_together_are_the_picture_on_its_canvas(width, height, size, rule, packing_):
    pixels = np.random.default_rng(width * 41 + height).integers(0, 256, (height, width, 3))
    image = Image.fromarray(pixels.astype(np.uint8))

    def choose(width, height):
        return choose_grid(width, height, rule=rule, grid_size=size, max_grids=9)

    grids, (rows, columns) = image_to_grids(image, choose, grid_size=size, packing=packing_)
    assert grids.shape == (rows * columns, 3, size, size)
    if packing_ == "anyres":
        squashed = np.asarray(image.resize((size, size), Image.Resampling.BICUBIC))
        assert np.array_equal(grids[0].permute(1, 2, 0), squashed) and not grids[1:columns].any()
        grids, rows = grids[columns:], rows - 1
    assert (columns, rows) == choose(width, height)
    want = np.asarray(letterbox(image, columns * size, rows * size))
    for number, grid in enumerate(grids):
        top, left = (size * n for n in divmod(number, columns))
        assert np.array_equal(grid.permute(1, 2, 0), want[top : top + size, left : left + size]), (
            number
        )


@MANY
@given(st.integers(1, 60), st.integers(1, 8), st.integers(0, 2), st.data())
def test_shards_of_any_tensor_come_back_and_every_place_is_on_one_rank(length, ranks, dim, data):
    shape = [2, 3, 2]
    shape[dim] = length
    x = torch.arange(int(np.prod(shape))).reshape(shape) + 1
    shards = [zigzag_shard(x, rank, ranks, dim=dim, fill=0) for rank in range(ranks)]
    assert torch.equal(zigzag_unshard(shards, length, dim=dim), x)
    held = [zigzag_positions(length, rank, ranks) for rank in range(ranks)]
    for rank, positions in enumerate(held):
        for place, position in enumerate(positions.tolist()):
            found = shards[rank].select(dim, place)
            want = x.select(dim, position) if position < length else torch.zeros_like(found)
            assert torch.equal(found, want)
    everywhere = sorted(p for positions in held for p in positions.tolist() if p < length)
    assert everywhere == [*range(length)]
    wanted = torch.tensor(data.draw(st.lists(st.integers(0, length - 1), min_size=1, max_size=9)))
    times = torch.zeros(len(wanted), dtype=torch.long)
    for rank in range(ranks):
        mine, index = zigzag_index(wanted, length, rank, ranks)
        times[mine] += 1
        assert torch.equal(held[rank][index], wanted[mine])
    assert (times == 1).all()


documents = st.lists(st.lists(st.integers(0, 99), min_size=1, max_size=9), min_size=1, max_size=9)


@settings(MANY, max_examples=30)
@given(documents, st.integers(1, 12), st.integers(2, 30), st.data())
def test_rows_of_packed_text_are_slices_of_the_documents_one_after_another(
    texts, shard, length, data
):
    domains = np.array(
        data.draw(st.lists(st.integers(0, 1), min_size=len(texts), max_size=len(texts)))
    )
    stream = [token for text in texts for token in (100, *text)]
    starts = np.cumsum([0, *(len(text) + 1 for text in texts)])[:-1].tolist()
    about = {"tokenizer": TOKENIZER, "domains": ["a", "b"]}
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(packing, "SHARD_TOKENS", shard)
        arrays = [np.array(text) for text in texts]
        dtype = np.dtype(data.draw(st.sampled_from([np.uint16, np.int32])))
        write_packed(
            *(Path(folder), arrays, domains.astype(np.int16)),
            separator=100,
            dtype=dtype,
            about=about,
        )
        if length > len(stream):
            with pytest.raises(RecipeError, match="less than one row"):
                PackedText(folder, length)
            return
        text = PackedText(folder, length)
        assert len(text) == len(stream) // length
        for number in range(len(text)):
            begin, row = number * length, text[number]
            assert row["input_ids"].tolist() == stream[begin : begin + length]
            inside = [start - begin for start in starts if begin < start < begin + length]
            assert row["document_starts"].tolist() == [0, *inside]
            of = [sum(start <= begin + at for start in starts) - 1 for at in (0, *inside)]
            assert row["document_domains"] == ["ab"[domains[document]] for document in of]


TOKENIZER = {"name": "bytes", **tokenizer_fingerprint(byte_tokenizer())}


@MANY
@given(
    *(st.integers(1, 30), st.sampled_from([1, 2, 4]), st.sampled_from([1, 2, 3])),
    *(st.integers(1, 3), st.integers(0, 2**40), st.booleans(), st.data()),
)
def test_a_step_is_the_same_samples_on_any_ranks_and_each_is_read_once_an_epoch(
    samples, dp, accumulation, micro, seed, grouped, data
):
    lengths = None
    if grouped:
        some = st.integers(-50, 50).filter(bool)
        lengths = np.array(data.draw(st.lists(some, min_size=samples, max_size=samples)))
    a_step = dp * accumulation * micro
    order = StepOrder(samples, a_step, seed=seed, lengths=lengths)
    steps = order.steps(epochs=2)
    alone = [sample for batch in order.micro_batches(0, steps) for sample in batch]
    assert len(alone) == steps * a_step
    for epoch in range(2):
        assert sorted(alone[epoch * samples : (epoch + 1) * samples]) == [*range(samples)]
    begin = data.draw(st.integers(0, steps - 1))
    ranks = [
        list(order.micro_batches(begin, steps, dp_rank=r, dp=dp, accumulation=accumulation))
        for r in range(dp)
    ]
    dealt = [sample for batch in range(len(ranks[0])) for rank in ranks for sample in rank[batch]]
    assert dealt == alone[begin * a_step :]


@MANY
@given(st.lists(st.integers(1, 2**20), max_size=20), st.integers(0, 2**20), st.integers(0, 20))
def test_statistics_of_lengths_are_sums_and_add_up(lengths, threshold, cut):
    whole = LengthStatistics.of(np.array(lengths, np.int64), threshold)
    parts = [np.array(part, np.int64) for part in (lengths[:cut], lengths[cut:])]
    added = LengthStatistics.of(parts[0], threshold) + LengthStatistics.of(parts[1], threshold)
    again = LengthStatistics.from_json(whole.to_json())
    for one in (whole, added, again):
        for power in range(32):
            of = [length for length in lengths if length.bit_length() - 1 == power]
            assert (one.documents[power], one.tokens[power]) == (len(of), sum(of))
        assert one.long_tokens == sum(length for length in lengths if length > threshold)


candidates = st.lists(
    st.tuples(st.integers(1, 40), st.integers(0, 9), st.integers(0, 5), st.integers(0, 2)),
    min_size=1,
    max_size=20,
)


@MANY
@given(
    candidates, st.lists(st.integers(0, 5), min_size=3, max_size=3).filter(any), st.integers(1, 60)
)
def test_chosen_documents_fill_the_shares_in_order_and_none_twice(found, weights, budget):
    tokens, ticket, place, domain = (np.array(column) for column in zip(*found, strict=True))
    of = Candidates(
        tokens=tokens.astype(np.int64),
        ticket=ticket.astype(np.uint64),
        place=place.astype(np.uint64),
        domain=domain.astype(np.int64),
    )
    shares = np.array(weights) / sum(weights)
    once, seen = [], set()
    for number in sorted(range(len(found)), key=lambda n: (place[n], ticket[n], domain[n], n)):
        if (place[number], ticket[number]) not in seen:
            seen.add((place[number], ticket[number]))
            once.append(number)
    has = [sum(int(tokens[n]) for n in once if domain[n] == d) for d in range(3)]
    fits = all(has[d] + 1e-6 >= share * budget for d, share in enumerate(shares))
    try:
        chosen = choose_documents(of, shares, ["a", "b", "c"], budget)
    except RecipeError:
        assert not fits
        return
    assert fits and chosen.duplicates == len(found) - len(once)
    want = {}
    for d in range(3):
        left = round(shares[d] * budget)
        for number in once:
            if domain[number] == d and (taken := min(int(tokens[number]), left)):
                want[number], left = taken, left - taken
    got = dict(zip(chosen.documents.tolist(), chosen.tokens.tolist(), strict=True))
    assert got == want and list(got) == [number for number in once if number in want]


@dataclass(kw_only=True)
class Inner:
    __pydantic_config__ = STRICT
    number: float | None = None
    names: list[str] | None = None


@dataclass(kw_only=True)
class Outer:
    __pydantic_config__ = STRICT
    text: str = ""
    inner: Inner | None = None
    table: dict[str, int] | None = None


texts = st.text(st.characters(exclude_categories=("Cs",)), max_size=12)
inner = st.builds(
    lambda number, names: {"number": number, "names": names},
    st.none() | st.floats(allow_nan=False),
    st.none() | st.lists(texts, max_size=3),
)
values = st.fixed_dictionaries(
    {"text": texts},
    optional={"inner": inner, "table": st.dictionaries(texts, st.integers(), max_size=3)},
)


@MANY
@given(values, inner)
def test_a_recipe_that_is_resolved_and_read_again_is_the_same(given_, changed):
    with TemporaryDirectory() as folder:
        path = Path(folder) / "a.yaml"
        path.write_text(yaml.safe_dump(given_, allow_unicode=True), encoding="utf-8")
        changes = [f"inner.{name}={yaml.safe_dump(value)}" for name, value in changed.items()]
        recipe = load_recipe(Outer, path, changes)
        assert recipe.text == given_["text"] and recipe.table == given_.get("table")
        assert recipe.inner == Inner(**changed)
        path.write_text(recipe_yaml(recipe), encoding="utf-8")
        assert load_recipe(Outer, path) == recipe


names = st.text("abc", min_size=1, max_size=2)
nested = st.recursive(st.integers(), lambda inside: st.dictionaries(names, inside, max_size=3))


@MANY
@given(st.dictionaries(names, nested, max_size=3), st.lists(names, min_size=1, max_size=3))
def test_a_change_sets_its_key_and_no_other(whole, path):
    want, place = yaml.safe_load(yaml.safe_dump(whole)), None
    place = want
    for name in path[:-1]:
        if place.get(name) is None:
            place[name] = {}
        place = place[name]
        if not isinstance(place, dict):
            with pytest.raises(RecipeError, match="Set it whole"):
                apply_override(whole, f"{'.'.join(path)}=new")
            return
    place[path[-1]] = "new"
    apply_override(whole, f"{'.'.join(path)}=new")
    assert whole == want


@MANY
@given(
    st.text(
        st.characters(exclude_characters="/\0", exclude_categories=("Cs",)), min_size=1, max_size=20
    )
)
def test_a_file_of_any_name_is_found_by_its_path_and_by_its_address(name):
    with TemporaryDirectory() as folder:
        path = Path(folder) / name
        try:
            path.write_bytes(b"x")
        except OSError:  # `.`, `..`, or too long for the file system
            return
        assert locate(path) == locate(str(path)) == path
        assert path_of(path.as_uri()) == str(path) and locate(path.as_uri()) == path
