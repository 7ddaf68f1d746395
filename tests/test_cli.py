"""The command as users run it, in processes of its own where exit codes and output count."""

import io
import json
import re
import signal
import subprocess
import sys
import warnings
import wave
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from PIL import Image
from typer.testing import CliRunner

from longva import __version__
from longva.__main__ import main
from longva.cli import app
from longva.cli.ask import print_evidence
from longva.cli.console import out, printable, worded
from longva.cli.options import grouped
from longva.errors import LongVAError
from longva.media.medium import open_media
from longva.media.sampling import clock
from longva.model.random_model import random_longva
from longva.watching.answer import Answer, Evidence
from tests.hard_videos import truncate, write_tracks, write_video
from tests.interrupts import OBEYING_LONGVA


def in_process(*arguments):
    """Run a command here: fast, and errors are raised instead of printed."""
    return CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)


def test_ask_prints_one_json_object_a_question(video):
    result = in_process("ask", video, "What is shown?", "When?", "--frames", 5, "--json")
    answers = json.loads(result.stdout)
    assert [answer["question"] for answer in answers] == ["What is shown?", "When?"]
    assert answers[0]["frames"] == 5 and len(answers[0]["evidence"]) == 5
    assert "nano is an example" in result.stderr  # which does not spoil the JSON


def test_ask_prints_answer_and_evidence_times(video):
    result = in_process("ask", video, "What is shown?", "--max-new-tokens", 4, "--evidence", 2)
    lines = result.stdout.splitlines()
    assert lines[0] == "Q  What is shown?" and lines[1].startswith("A  ")
    assert sum("frame " in line for line in lines) == 2
    assert "6 frames" in lines[-2] or "6 frames" in lines[-1]


def frames_of(video, folder):
    folder.mkdir()
    media = open_media(video)
    for second, picture in enumerate(media.pictures([0, 8, 16, 24])):
        Image.fromarray(picture).save(folder / f"frame_{second}.png")
    return folder


def evidence(*arguments, **options) -> list[tuple]:
    (answer,) = json.loads(in_process("ask", *arguments, "--json", **options).stdout)
    return sorted((one["frame"], one["seconds"], one["file"]) for one in answer["evidence"])


def test_ask_about_photos_names_files_and_invents_no_times(video, tmp_path):
    photos = frames_of(video, tmp_path / "photos")
    names = [f"frame_{number}.png" for number in range(4)]
    assert evidence(photos, "What?") == [(n, None, name) for n, name in enumerate(names)]
    rated = evidence(photos, "What?", "--frames-fps", 2, "--fps", 1, "--cache", tmp_path / "cache")
    assert rated == [(0, 0.0, names[0]), (2, 1.0, names[2])]
    lines = in_process("ask", photos, "What?", "--max-new-tokens", 1).stdout
    assert re.search(r"frame_\d.png  frame \d  weight", lines)
    part = ["--frames-fps", 4, "--fps", 4, "--start", 0.3, "--cache", tmp_path / "cache"]
    assert [second for _, second, _ in evidence(photos, "What?", *part)] == [0.25, 0.5, 0.75]


def test_the_remedy_for_a_part_of_photos_works(video, tmp_path):
    photos = frames_of(video, tmp_path / "photos")
    with pytest.raises(LongVAError) as refused:
        in_process("ask", photos, "What?", "--start", 1)
    assert worded(refused.value).endswith("from a time to another. Try --frames-fps 1.")
    assert len(evidence(photos, "What?", "--start", 1, "--frames-fps", 1)) == 3


def test_ask_reads_a_film_from_standard_input(video):
    command = [sys.executable, "-m", "longva", "ask", "-", "What?", "--frames", "2", "--json"]
    piped = subprocess.run(command, input=video.read_bytes(), stdout=subprocess.PIPE, check=True)
    (answer,) = json.loads(piped.stdout)
    assert (answer["frames"], answer["media"]) == (2, "standard input")
    for wrong in (["ask", "-", "What?", "--also", "-"], ["chat", "-"]):
        with pytest.raises(LongVAError, match="- is one file on standard input: longva ask - "):
            in_process(*wrong)


def test_ask_about_a_part_gives_times_of_the_whole_film(video):
    part = ["--start", "0:02.5", "--end", "0:00:05"]
    (answer,) = json.loads(in_process("ask", video, "What is shown?", *part, "--json").stdout)
    found = sorted((one["seconds"], one["frame"]) for one in answer["evidence"])
    assert found == [(2.5, 20), (3.5, 28), (4.5, 36)]


def test_evidence_of_no_weight_gets_no_line(capsys):
    weights = [0.6, 0.0006, 0.0004, 0.0]
    evidence = [Evidence(frame=n, seconds=n, weight=w) for n, w in enumerate(weights)]
    answer = Answer(
        question="Q",
        text="A",
        evidence=evidence,
        model="nano",
        media=["film.mp4"],
        frames=4,
        prompt_tokens=9,
        answer_tokens=1,
        finish_reason="stop",
    )
    print_evidence(answer)
    assert re.findall(r"weight (.*)", capsys.readouterr().out) == ["0.600", "0.001"]
    print_evidence(replace(answer, evidence=evidence[2:]))
    assert "   no frame stands out: each has less than 0.001 of" in capsys.readouterr().out
    print_evidence(replace(answer, evidence=[]))
    assert "stands out" not in capsys.readouterr().out


def test_ask_names_what_a_folder_of_frames_holds_besides(tmp_path):
    Image.new("RGB", (60, 60)).save(tmp_path / "1.png")
    (tmp_path / "clip.mp4").write_bytes(b"")
    left_out = f"{tmp_path}: left out as no images: clip.mp4"
    result = in_process("ask", tmp_path, "What?", "--max-new-tokens", 1)
    assert f"Note: {left_out}." in result.stderr.splitlines()
    result = in_process("ask", tmp_path, "What?", "--max-new-tokens", 1, "--json")
    assert json.loads(result.stdout)[0]["notes"][0] == left_out  # and that nano knows nothing here


def test_ask_watches_the_track_asked_for(tmp_path):
    tracks = ("libx264", 64, 48, 5, False), ("libx264", 96, 64, 30, True)
    path = write_tracks(tmp_path / "film.mp4", *tracks)
    options = ["--max-frames", 9, "--fps", 25, "--max-new-tokens", 1, "--json"]
    for track, frames in ((1, 5), (2, 9)):
        result = in_process("ask", path, "What?", *options, "--track", track)
        assert json.loads(result.stdout)[0]["frames"] == frames
    with pytest.raises(LongVAError, match="track 3 was asked for"):
        in_process("ask", path, "What?", *options, "--track", 3)


def test_chat_answers_until_exit(video):
    options = ["chat", str(video), "--frames", "3", "--max-new-tokens", "1"]
    lines = "Hello?\nWhy <video>?\n\nAnd?\n/what\n/exit\nToo late?\n"
    result = CliRunner().invoke(app, options, input=lines)
    assert result.exit_code == 0
    assert result.stdout.count("evidence: 0:00:0") == 3
    assert result.stdout.count("cut at 1 tokens: raise --max-new-tokens") == 3
    assert result.stdout.count("/forget clears") == 2  # at the start, and for an unknown command


def test_evidence_of_several_films_names_each_and_numbers_those_of_one_name(video, tmp_path):
    films = [tmp_path / folder / "film.mp4" for folder in ("a", "b")]
    for film in films:
        film.parent.mkdir()
        film.write_bytes(video.read_bytes())
    session = tmp_path / "both.longva"
    ask = ["ask", films[0], "Where is it?", "--also", films[1], "--frames", 2, "--evidence", 4]
    told = in_process(*ask, "--save-session", session).stdout
    assert re.search(r"0:00:0\d\.0  film.mp4 \([12]\)  frame ", told)
    assert "film.mp4  frame" not in told
    chat = CliRunner().invoke(app, ["chat", str(session)], input="Where is it?\n/exit\n")
    assert re.search(r"evidence: film.mp4 \([12]\) 0:00:0\d\.0", chat.stdout)


def test_ctrl_c_while_watching_leaves_what_was_watched_and_it_goes_on(video, monkeypatch, tmp_path):
    interrupts = [KeyboardInterrupt()]

    @contextmanager
    def bars(show=True):
        def report(stage, done, total):
            if interrupts:
                raise interrupts.pop()

        yield report

    monkeypatch.setattr("longva.cli.ask.progress_bar", bars)
    model = str(save(tmp_path / "model"))  # it encodes 16 frames at a time
    options = ["chat", str(video), "--frames", "40", "--max-new-tokens", "1", "--model", model]
    result = CliRunner().invoke(app, options, input="Hello?\n/watch\nAnd?\n/exit\n")
    assert result.exit_code == 0
    assert "until then. /watch goes on" in result.stderr and "Stopped at 0:00:0" in result.stderr
    assert "Watched 16 frames" in result.stdout and "(40 frames watched)" in result.stdout
    assert result.stdout.count("evidence: 0:00:0") == 2


def save(folder: Path, **config) -> Path:
    """Save a random model and its processor."""
    for part in random_longva(**config):
        part.save_pretrained(folder)
    return folder


def test_a_conversation_that_filled_the_context_can_be_forgotten(video, tmp_path):
    model = save(tmp_path / "model", max_position_embeddings=1400)
    options = ["chat", str(video), "--frames", "3", "--max-new-tokens", "1", "--model", str(model)]
    long = "what " * 160  # 800 tokens
    result = CliRunner().invoke(app, options, input=f"{long}\n{long}\n/forget\n{long}\n")
    assert result.exit_code == 0 and result.stdout.count("evidence: ") == 2
    assert "longva: The sequence would be" in result.stderr and "/forget makes" in result.stderr


def test_ctrl_c_stops_an_answer_and_not_the_conversation(video):
    command = [*OBEYING_LONGVA, "chat", str(video), "--frames", "3"]
    # At this temperature any of the words may come next, so the answer is long.
    options = ["--temperature", "1000", "--max-new-tokens", "10000"]
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with subprocess.Popen([*command, *options], text=True, **pipes) as chat:
        assert chat.stdin is not None and chat.stdout is not None
        assert chat.stdout.readline().startswith("Watched 3 frames")
        chat.stdin.write("Hello?\n")
        chat.stdin.flush()
        assert chat.stdout.read(10).startswith("> ")  # and the first words of the answer
        chat.send_signal(signal.SIGINT)
        rest, notes = chat.communicate("/forget\n")
    assert chat.returncode == 0
    (note,) = notes.splitlines()  # no progress bars outside terminals, no library's warnings
    assert "nano is an example" in note
    assert "(stopped)" in rest and "(forgotten" in rest and "evidence" not in rest
    assert rest.endswith("> \n")  # the shell's next prompt has a line of its own


def test_every_command_stops_at_nan_and_writes_nothing(tmp_path, monkeypatch, capsys):
    model, processor = random_longva()
    model.get_decoder().layers[1].mlp.down_proj.weight.data[0, 0] = float("nan")
    for part in (model, processor):
        part.save_pretrained(tmp_path / "broken")
    Image.new("RGB", (64, 64)).save(tmp_path / "black.png")
    monkeypatch.chdir(tmp_path)
    grid = "grid: {lengths: [300], depths: [0.5]}"
    Path("text.yaml").write_text(f"model: broken\noutput_dir: text\n{grid}\ntrials: 1\n")
    Path("loss.yaml").write_text("model: broken\noutput_dir: loss\nlengths: [64]\ndocuments: 1\n")
    message = "longva: the model computed NaN or infinity: its logits."
    for arguments in (
        ["ask", "black.png", "What?", "--model", "broken", "--json"],
        ["ask", "black.png", "What?", "--model", "broken"],
        ["chat", "black.png", "--model", "broken"],
        ["niah", "text", "text.yaml"],
        ["perplexity", "loss.yaml"],
    ):
        monkeypatch.setattr(sys, "argv", ["longva", *arguments])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"What?\nAnd?\n")))
        with pytest.raises(SystemExit) as stopped:
            main()
        told = capsys.readouterr()
        assert (stopped.value.code, told.err.count(message)) == (2, 1), arguments
        assert "{" not in told.out
    assert [*tmp_path.rglob("*.png")] == [tmp_path / "black.png"]
    assert not [*tmp_path.rglob("cells*"), *tmp_path.glob("loss")]


def test_chat_without_questions_to_read_is_refused(video, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", None)
    assert run_main(monkeypatch, "chat", video) == 2
    assert "standard input" in capsys.readouterr().err


@pytest.mark.parametrize("empty", [torch.empty, np.empty])
def test_too_little_memory_is_one_message(empty, monkeypatch, capsys):
    monkeypatch.setattr("longva.__main__.app", lambda: empty(10**15))
    assert run_main(monkeypatch) == 2
    assert capsys.readouterr().err.startswith("longva: out of memory: ")


def test_plan_says_what_fits():
    result = in_process("plan", "longva-7b", "--frames", 3000, "--device", "h200", "--json")
    plan = json.loads(result.stdout)
    assert not plan["fits"] and plan["max_frames"] == 1546
    assert result.exit_code == 1
    assert "It does NOT fit. At most 1,546 frames" in in_process("plan", "--frames", 3000).stdout
    assert in_process("plan", "--frames", 1500).exit_code == 0


def test_convert_writes_a_checkpoint_that_ask_takes(video, tmp_path):
    save(tmp_path / "ours")
    random_longva()[0].config.vision_config.save_pretrained(tmp_path / "tower")
    tower = ["--vision-tower", tmp_path / "tower"]
    converted = in_process(
        "convert", tmp_path / "ours", tmp_path / "llava", "--to", "llava", *tower
    )
    assert converted.exit_code == 0
    for folder in ("ours", "llava"):
        options = ["--frames", 3, "--json", "--max-new-tokens", 4, "--model", tmp_path / folder]
        answers = json.loads(in_process("ask", video, "What?", *options).stdout)
        assert answers[0]["prompt_tokens"] > 12, folder


def test_version_and_help():
    assert in_process("--version").stdout == f"longva {__version__}\n"
    for command in ("ask", "chat", "plan", "convert"):
        assert f"longva {command}" in in_process(command, "--help").stdout  # shows an example


def test_brackets_are_printed_as_they_are(capsys):
    out.print("Wrote runs/a[b] and x[/y]")
    assert capsys.readouterr().out == "Wrote runs/a[b] and x[/y]\n"


def test_clock_and_printable():
    assert clock(3725.04) == "1:02:05.0"
    assert printable("a\x1b[2Jb\n") == "a\\x1b[2Jb\n"


def audio_only(folder: Path) -> Path:
    path = folder / "sound.wav"
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(bytes(16_000))
    return path


def written(folder: Path, name: str, content: bytes) -> Path:
    (folder / name).write_bytes(content)
    return folder / name


def empty_folder(folder: Path) -> Path:
    (folder / "empty").mkdir()
    return folder / "empty"


def incomplete_checkpoint(folder: Path) -> Path:
    from safetensors.torch import load_file, save_file

    weights = save(folder / "broken") / "model.safetensors"
    tensors = load_file(weights)
    del tensors["lm_head.weight"]
    tensors["extra.weight"] = tensors.pop("model.language_model.norm.weight")
    save_file(tensors, weights, metadata={"format": "pt"})
    return folder / "broken"


BAD_INPUTS = {
    "missing file": lambda d, v: (["ask", d / "none.mp4", "Q"], "none.mp4"),
    "empty file": lambda d, v: (["ask", written(d, "x.mp4", b""), "Q"], "x.mp4.*0 bytes"),
    "text called mp4": lambda d, v: (["ask", written(d, "x.mp4", b"hello" * 99), "Q"], "x.mp4"),
    "audio only": lambda d, v: (["ask", audio_only(d), "Q"], "sound.wav.*no video"),
    "index missing": lambda d, v: (
        ["ask", written(d, "cut.mp4", v.read_bytes()[: v.stat().st_size // 2]), "Q"],
        "cut.mp4",
    ),
    "folder without images": lambda d, v: (["ask", empty_folder(d), "Q"], "empty.*image"),
    "broken image": lambda d, v: (
        ["ask", written(d, "x.png", b"\x89PNG\r\n\x1a\n123"), "Q"],
        "x.png",
    ),
    "zero frames": lambda d, v: (["ask", v, "Q", "--frames", 0], "1 or more, got 0"),
    "frames and fps": lambda d, v: (["ask", v, "Q", "--frames", 4, "--fps", 1], "frames and fps"),
    "negative fps": lambda d, v: (["ask", v, "Q", "--fps", -1], "greater than 0, got -1"),
    "rule before the model": lambda d, v: (
        ["ask", v, "Q", "--fps", "nan", "--model", d / "nowhere"],
        "fps must be",
    ),
    "medium before the model": lambda d, v: (
        ["ask", written(d, "x.mp4", b"hello" * 99), "Q", "--model", d / "nowhere"],
        "x.mp4",
    ),
    "empty question": lambda d, v: (["ask", v, "  "], "question is empty"),
    "pool stride": lambda d, v: (
        ["ask", v, "Q", "--pool-stride", 3],
        r"divide the 4 .*\[1, 2, 4\]",
    ),
    "top_p": lambda d, v: (["ask", v, "Q", "--top-p", 0], "top_p"),
    "no tokens": lambda d, v: (
        ["ask", d / "unopened", "Q", "--max-new-tokens", 0],
        "Invalid value for '--max-new-tokens'",
    ),
    "negative evidence": lambda d, v: (
        ["ask", d / "unopened", "Q", "--evidence", -1],
        "Invalid value for '--evidence'",
    ),
    "negative temperature": lambda d, v: (
        ["chat", v, "--temperature", -1],
        "sampling needs temperature 0 or",
    ),
    "no such device": lambda d, v: (
        ["ask", v, "Q", "--device", "cuda:99"],
        "cuda:99.*--device cpu",
    ),
    "no such model": lambda d, v: (["ask", v, "Q", "--model", d / "nowhere"], "nowhere"),
    "not a checkpoint": lambda d, v: (["ask", v, "Q", "--model", empty_folder(d)], "config.json"),
    "wrong tensors": lambda d, v: (
        ["ask", v, "Q", "--model", incomplete_checkpoint(d)],
        "(?s)missing.*(lm_head|norm).*unexpected.*extra.weight",
    ),
    "convert onto a folder": lambda d, v: (
        ["convert", incomplete_checkpoint(d), empty_folder(d)],
        "exists.*--overwrite",
    ),
    "cache is a file": lambda d, v: (
        ["ask", v, "Q", "--cache", written(d, "c", b"")],
        "is a file, where a folder",
    ),
    "unknown plan device": lambda d, v: (["plan", "--device", "gameboy"], "gameboy.*h200"),
    "plan memory": lambda d, v: (["plan", "--memory", "nan"], "--memory needs .* got nan"),
    "negative seed": lambda d, v: (["reproduce", "nano", "--seeds", -1], "'--seeds'"),
    "unknown option": lambda d, v: (["ask", v, "Q", "--farmes", 3], "--farmes"),
}


def run_main(monkeypatch, *arguments) -> object:
    """Run what the `longva` script runs, in this process; return its exit code."""
    monkeypatch.setattr(sys, "argv", ["longva", *map(str, arguments)])
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)  # as it was, afterwards
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # the handlers are those of the tests
    with pytest.raises(SystemExit) as exit_:
        main()
    return exit_.value.code


@pytest.mark.parametrize("case", BAD_INPUTS)
def test_bad_input_gets_one_message_and_exit_code_2(case, video, tmp_path, monkeypatch, capsys):
    arguments, message = BAD_INPUTS[case](tmp_path, video)
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    capsys.readouterr()
    assert run_main(monkeypatch, *arguments) == 2
    printed = capsys.readouterr()
    assert re.search(message, printed.err), printed.err
    assert printed.out == ""
    assert sorted(tmp_path.rglob("*")) == before, "something was left behind"


def test_an_error_in_a_real_process_has_no_traceback(tmp_path):
    command = [sys.executable, "-m", "longva", "ask", tmp_path / "none.mp4", "Q"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 2 and result.stdout == ""
    (message,) = result.stderr.splitlines()
    assert message.startswith("longva: ") and "none.mp4" in message


def test_a_command_takes_options_that_belong_together_as_one_argument():
    @dataclass(frozen=True, kw_only=True)
    class Size:
        width: int
        height: int = 2

    @grouped
    def draw(name: str, size: Size, bold: bool = False) -> None:
        typer.echo(f"{name} {size.width}x{size.height} {bold}")

    drawing = typer.Typer()
    drawing.command()(draw)
    run = CliRunner().invoke
    assert run(drawing, ["a", "3"]).output == "a 3x2 False\n"
    assert run(drawing, ["a", "3", "--height", "4", "--bold"]).output == "a 3x4 True\n"
    assert run(drawing, ["a"]).exit_code == 2  # the width has no default


def test_a_remedy_is_told_only_by_a_command_that_has_its_option(tmp_path):
    whole = write_video(tmp_path / "whole.mkv", size=(480, 320))
    cut = truncate(whole, tmp_path / "cut.mkv", 0.7)
    with pytest.raises(LongVAError) as asked:
        in_process("ask", cut, "Q")
    assert worded(asked.value).endswith("Try --allow-truncated.")
    films = f"haystack.videos=[{cut}]"
    with pytest.raises(LongVAError) as measured:
        in_process("niah", "visual", "nano/niah_visual", "--set", films)
    assert "cut.mkv" in worded(measured.value) and "--allow-truncated" not in worded(measured.value)
