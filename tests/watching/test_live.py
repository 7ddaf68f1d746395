"""`longva watch`: what it answers while a film grows is what a fresh session would."""

import json
import random
import re
from itertools import islice

import pytest
from typer.testing import CliRunner

from longva.cli import app
from longva.errors import LongVAError, VideoError
from longva.nano.film import draw_frame
from longva.nano.world import haystack, random_layout, random_scene
from longva.watching.assistant import LongVA
from longva.watching.features import FrameSettings
from tests.live_films import growing, write_film

QUESTION = "What number is with the anchor?"


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    """40 seconds, one frame each, an anchor at second 13; and the parts that it grows by."""
    rng = random.Random(5)
    shown = list(islice(haystack(rng, without=["anchor"]), 40))
    shown[13] = (random_scene(rng, ["anchor"]), random_layout(rng))
    path = tmp_path_factory.mktemp("film") / "film.ts"
    write_film(str(path), (draw_frame(*one) for one in shown))
    return path


@pytest.fixture(scope="module")
def nano():
    return LongVA.from_pretrained("nano")


def parts(path, size=3000):
    data = path.read_bytes()
    return [data[n : n + size] for n in range(0, len(data), size)]


def run(*arguments, given: str | bytes = ""):
    return CliRunner().invoke(
        app, ["watch", *map(str, arguments)], input=given, catch_exceptions=False
    )


def said(answer):
    evidence = [(e["seconds"], round(e["weight"], 3)) for e in answer["evidence"]]
    return answer["answer"], [e for e in evidence if e[1]], answer["frames"]


def test_a_growing_file_asked_every_ten_frames_gives_the_answers_of_fresh_sessions(
    film, nano, tmp_path
):
    path = tmp_path / "film.ts"
    with growing(path, parts(film)):
        result = run(path, QUESTION, "--every", 10, "--idle", 2, "--json")
    answers = [json.loads(line) for line in result.stdout.splitlines()]
    assert [answer["frames"] for answer in answers] == [10, 20, 30, 40]
    for answer in answers:
        fresh = nano.watch(film, fps=1, end=answer["frames"]).ask(QUESTION)
        assert said(answer) == said(fresh.to_json())
        assert answer["media"] == str(path)
    assert "Watched until 0:00:39.0: 40 frames are known." in result.stderr


def test_lines_of_standard_input_are_questions(film):
    result = run(film, "--idle", 0.1, given=f"\n{QUESTION}\nWhat color is behind the anchor?\n")
    asked = re.findall(r"^0:00:\d\d\.0  Q  (.*)$", result.stdout, re.MULTILINE)
    assert asked == [QUESTION, "What color is behind the anchor?"]


def test_a_bad_line_does_not_end_the_watching(film):
    result = run(film, QUESTION, "--idle", 0.1, given=b"\xff\n")
    assert (
        "longva: the question is not valid UTF-8" in result.stderr
        and "A  anchor number" in result.stdout
    )


@pytest.mark.parametrize(("policy", "known"), [("stop", True), ("newest", False), ("thin", False)])
def test_what_the_policy_forgot_is_said(film, policy, known):
    result = run(film, QUESTION, "--idle", 0.1, "--policy", policy, "--max-frames", 16, "--json")
    answer = json.loads(result.stdout)
    assert (answer["evidence"][0]["seconds"] == 13) is known and answer["frames"] <= 16
    (note,) = answer["notes"]
    assert answer["answer"].endswith("not shown") is not known
    assert note.startswith(f"{film}: the context ") and note in result.stderr


def test_a_session_is_kept_gone_on_with_and_asked(film, nano, tmp_path):
    half, saved, whole = tmp_path / "film.ts", tmp_path / "a.session", tmp_path / "b.session"
    half.write_bytes(b"".join(parts(film)[: len(parts(film)) // 2]))
    run(half, "--idle", 0.1, "--save-session", saved)
    until = nano.resume(saved).watched_until
    assert until is not None and 13 <= until < 39
    half.write_bytes(film.read_bytes())
    run(half, "--idle", 0.1, "--resume", saved, "--save-session", whole)
    fresh = nano.watch(film, fps=1)
    assert nano.resume(whole).frames == fresh.frames == 40
    ask = ["ask", str(whole), QUESTION, "What color is behind the anchor?", "--json"]
    answers = json.loads(CliRunner().invoke(app, ask, catch_exceptions=False).stdout)
    assert said(answers[0]) == said(fresh.ask(QUESTION).to_json())


def test_what_was_watched_before_an_error_is_kept(film, nano, tmp_path, monkeypatch):
    from longva.media.live import LiveSource

    steps, come = [], LiveSource.next

    def breaks_off(source, most, timeout):
        steps.append(most)
        if len(steps) > 1:
            raise VideoError("the camera is gone.")
        return come(source, most, 9.0)

    monkeypatch.setattr(LiveSource, "next", breaks_off)
    file = tmp_path / "session.safetensors"
    with pytest.raises(VideoError, match="the camera is gone"):
        run(film, "--save-session", file)
    assert nano.resume(file).frames > 0


def test_ask_keeps_a_session_too(film, nano, tmp_path):
    saved = tmp_path / "a.session"
    ask = ["ask", str(film), QUESTION, "--save-session", str(saved), "--json"]
    (first,) = json.loads(CliRunner().invoke(app, ask, catch_exceptions=False).stdout)
    again = ["ask", str(saved), QUESTION, "--json"]
    (second,) = json.loads(CliRunner().invoke(app, again, catch_exceptions=False).stdout)
    assert said(first) == said(second)
    refused = [["--also", str(film)], ["--fps", "1"], ["--evidence-dir", str(tmp_path / "seen")]]
    for options in refused:
        with pytest.raises(LongVAError, match=f"{re.escape(options[0])} is for films"):
            CliRunner().invoke(app, [*again, *options], catch_exceptions=False)


def test_a_film_from_standard_input(film):
    result = run("-", QUESTION, "--json", given=film.read_bytes())
    assert json.loads(result.stdout)["frames"] == 40


def test_times_are_written_into_the_prompt_if_asked_for(film, nano):
    result = run(film, QUESTION, "--time-tokens", 10, "--idle", 0.1, "--json")
    session = nano.watch(film, fps=1, settings=FrameSettings(time_tokens=10))
    want = session.ask(QUESTION, evidence=5)
    assert json.loads(result.stdout)["prompt_tokens"] == want.prompt_tokens


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["absent.ts"], "absent.ts: there is no such file. Give a file that is being written"),
        (["FILM", " "], "question is empty"),
        (["FILM", "--every", "0"], "--every needs seconds, more than 0, got 0"),
        (["FILM", "--fps", "0"], "fps and idle must be greater than 0"),
        (["FILM", "--idle", "-1"], "fps and idle must be greater than 0"),
    ],
)
def test_mistakes_are_told_in_one_message(film, arguments, message):
    with pytest.raises(LongVAError, match=message):
        run(*(film if one == "FILM" else one for one in arguments))
