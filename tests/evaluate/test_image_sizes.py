import io
import json

import pytest
from PIL import Image

from longva.errors import LongVAError
from longva.evaluate.image_sizes import draw_image_sizes, read_image_sizes


def save(path, width, height, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width, height)).save(path, **options)
    return path


def test_grids_follow_the_size_of_the_image(tmp_path):
    for name, size in {"a.png": (336, 336), "b/c.jpg": (1280, 720), "d.png": (4032, 3024)}.items():
        save(tmp_path / name, *size)
    found = read_image_sizes(tmp_path)
    assert found.sizes.tolist() == [[336, 336], [1280, 720], [4032, 3024]]
    assert found.grids.tolist() == [2, 12, 48]
    assert read_image_sizes(tmp_path, "paper").grids.tolist() == [1, 6, 48]
    assert "3 images" in str(found) and "20.7 grids or 2,976 tokens each" in str(found)


def test_sizes_are_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    save(tmp_path / "phone.jpg", 400, 300, exif=exif)
    assert read_image_sizes(tmp_path).sizes.tolist() == [[300, 400]]


def test_a_json_of_samples_names_its_images(tmp_path):
    save(tmp_path / "images" / "a.png", 50, 40)
    save(tmp_path / "images" / "b.png", 60, 40)
    records = [{"image": "images/a.png"}, {"image": ["images/b.png", "images/gone.png"]}, {"x": 1}]
    records.append({"image": None})  # of a mixture with samples that are text alone
    whole, lines = tmp_path / "set.json", tmp_path / "set.jsonl"
    whole.write_text(json.dumps(records))
    lines.write_text("".join(json.dumps(record) + "\n" for record in records))
    for path in (whole, lines):
        found = read_image_sizes(path)
        assert (found.name, found.sizes.tolist()) == ("set", [[50, 40], [60, 40]])
        assert len(found.unreadable) == 1 and "images/gone.png" in found.unreadable[0]
        assert str(found).endswith("; 1 unreadable")


def test_a_hub_folder_has_its_images_in_parquet(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    buffer = io.BytesIO()
    Image.new("RGB", (30, 20)).save(buffer, "PNG")
    image = {"bytes": buffer.getvalue(), "path": "x.png"}
    table = pyarrow.table(
        {"question": ["?", "?"], "image": [image, None], "more": [[image, image], []]}
    )
    parquet.write_table(table, tmp_path / "test-00000-of-00001.parquet")
    assert read_image_sizes(tmp_path).sizes.tolist() == [[30, 20]] * 3


def test_several_datasets_share_a_picture(tmp_path):
    save(tmp_path / "small" / "a.png", 200, 100)
    save(tmp_path / "large" / "a.png", 2000, 1500)
    found = draw_image_sizes([tmp_path / "small", tmp_path / "large"], tmp_path / "out" / "x.png")
    assert [dataset.name for dataset in found] == ["small", "large"]
    picture = Image.open(tmp_path / "out" / "x.png").convert("RGB")
    colours = {colour for _, colour in picture.getcolors(2**24) or ()}
    assert {(31, 111, 235), (209, 73, 91)} <= colours


def test_nothing_to_draw_is_an_error(tmp_path):
    with pytest.raises(LongVAError, match="there is no such file or folder"):
        read_image_sizes(tmp_path / "gone")
    with pytest.raises(LongVAError, match="has no images. Give a folder"):
        read_image_sizes(tmp_path)
    (tmp_path / "a.png").write_bytes(b"no image")
    with pytest.raises(LongVAError, match=r"1 cannot be read, such as .*a.png"):
        read_image_sizes(tmp_path)
    (tmp_path / "set.json").write_text("{")
    with pytest.raises(LongVAError, match="set.json is no JSON"):
        read_image_sizes(tmp_path / "set.json")
