"""Encoded media on disk: what they are stored under, and how many bytes they take."""

import os

import pytest
from PIL import Image

from longva.media.medium import open_media
from longva.watching.assistant import LongVA
from longva.watching.feature_cache import FeatureCache


def still(path, level, **options):
    Image.new("RGB", (80, 60), (level, 0, 0)).save(path, **options)
    return path


@pytest.fixture
def cached(longva, tmp_path):
    return LongVA(longva.model, longva.processor, name="cached", cache_dir=tmp_path / "cache")


def watched(longva, path):
    """What the cache holds of a medium, as it was computed or found."""
    session = longva.watch(path)
    return session.timings["encode"] == 0, session.ask("What?", max_new_tokens=4).evidence


@pytest.mark.parametrize("when", ["opened", "hashed"])
def test_a_file_that_is_overwritten_meanwhile_is_not_stored_as_what_it_was(
    cached, tmp_path, monkeypatch, when
):
    old, new = still(tmp_path / "old.png", 10), still(tmp_path / "new.png", 200)
    path = still(tmp_path / "film.png", 10)
    if when == "opened":
        media = open_media(path)
        still(path, 200)
    else:
        media = path
        key = FeatureCache.key

        def then_overwritten(*args):
            named = key(*args)
            still(path, 200)
            return named

        monkeypatch.setattr(FeatureCache, "key", then_overwritten)
    with pytest.warns(UserWarning, match="film.png was written to while it was watched"):
        cached.watch(media)
    monkeypatch.undo()
    assert list((tmp_path / "cache").iterdir()) == []
    for sound in (old, new):
        assert not watched(cached, sound)[0]


def test_the_folder_is_bounded_and_what_was_used_least_recently_goes(longva, tmp_path):
    folder = tmp_path / "cache"
    folder.mkdir()
    (folder / "mine.safetensors").write_bytes(bytes(10**6))
    paths = [still(tmp_path / f"{level}.png", level) for level in (10, 90, 200)]
    options = {"name": "cached", "cache_dir": folder}
    LongVA(longva.model, longva.processor, **options).watch(paths[0])
    (entry,) = (path for path in folder.iterdir() if path.stem != "mine")
    size = entry.stat().st_size

    two = LongVA(longva.model, longva.processor, cache_bytes=2 * size, **options)
    os.utime(entry, (0, 0))
    two.watch(paths[1])
    (second,) = set(folder.glob("*.safetensors")) - {entry, folder / "mine.safetensors"}
    os.utime(second, (1, 1))
    assert watched(two, paths[0])[0]  # found, and now the most recently used
    two.watch(paths[2])
    assert entry.exists() and not second.exists()
    assert (folder / "mine.safetensors").exists()  # not ours, not counted
    held = sum(path.stat().st_size for path in folder.iterdir() if path.stem != "mine")
    assert held == 2 * size


def test_an_entry_larger_than_the_bound_is_not_kept(longva, tmp_path):
    options = {"name": "cached", "cache_dir": tmp_path / "cache", "cache_bytes": 100}
    small = LongVA(longva.model, longva.processor, **options)
    assert small.watch(still(tmp_path / "a.png", 10)).frames > 0
    assert list((tmp_path / "cache").iterdir()) == []
