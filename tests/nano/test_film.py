import pytest
from typer.testing import CliRunner

from longva.errors import LongVAError
from longva.media.medium import open_media
from longva.nano.film import write_film


def test_a_film_has_a_frame_a_second_and_says_where_the_object_is(tmp_path):
    scene, second = write_film(tmp_path / "out" / "film.mp4", seconds=30, hide="anchor", seed=3)
    media = open_media(tmp_path / "out" / "film.mp4")
    assert len(media) == 30
    assert media.pts_seconds[second] == second
    assert scene.object == "anchor"


def test_the_same_seed_hides_the_same_scene_at_the_same_time(tmp_path):
    first = write_film(tmp_path / "a.mp4", seconds=12, seed=5)
    assert write_film(tmp_path / "b.mp4", seconds=12, seed=5) == first
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()


@pytest.mark.parametrize(("seconds", "hide"), [(1, "anchor"), (30, "dragon")])
def test_an_impossible_film_is_refused_before_anything_is_written(tmp_path, seconds, hide):
    with pytest.raises(LongVAError, match="2 seconds or more"):
        write_film(tmp_path / "film.mp4", seconds=seconds, hide=hide)
    assert not list(tmp_path.iterdir())


def test_a_film_without_an_object_never_shows_it(tmp_path, monkeypatch):
    shown: list[str] = []
    drawn = "longva.nano.film.write_frames"
    monkeypatch.setattr(drawn, lambda path, film: shown.extend(scene.object for scene, _ in film))
    write_film(tmp_path / "film.mp4", seconds=2000, hide="cup", without=["urn"])
    assert shown.count("cup") == 1 and "urn" not in shown and "anchor" in shown
    with pytest.raises(LongVAError, match="not without"):
        write_film(tmp_path / "film.mp4", seconds=30, hide="cup", without=["cup"])


def test_the_command_says_what_it_hid(tmp_path):
    import typer

    from longva.nano.film import main

    app = typer.Typer()
    app.command()(main)
    result = CliRunner().invoke(app, [str(tmp_path / "f.mp4"), "--seconds", "10", "--hide", "cat"])
    assert result.exit_code == 0
    assert "10 frames, and only at 0:00:0" in result.output
    assert "a cat with the number" in result.output
    assert "no frame" not in result.output.lower()
    without = ["--seconds", "10", "--without", "urn", "--without", "cup"]
    result = CliRunner().invoke(app, [str(tmp_path / "f.mp4"), *without])
    assert "No frame shows an urn.\nNo frame shows a cup.\n" in result.output
    refused = CliRunner().invoke(app, [str(tmp_path / "g.mp4"), "--seconds", "1"])
    assert refused.exit_code == 2
    assert "2 seconds or more" in refused.output
