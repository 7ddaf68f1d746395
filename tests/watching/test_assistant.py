import json
import resource
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from longva.checkpoints.names import embedded_folder
from longva.errors import ContextLengthError, LongVAError, NonFiniteError, VideoError
from longva.media.medium import open_media
from longva.media.sampling import FrameSampling
from longva.model.random_model import random_longva
from longva.nano.film import write_film
from longva.prompts.decoding import Sampling
from longva.prompts.kv_cache import CachedSequence
from longva.watching.assistant import LongVA
from longva.watching.features import FrameSettings
from tests.hard_videos import change_packet, hide_vp9_keyframe, write_video
from tests.tolerance import SAME

QUESTION = "What happens?"


@pytest.fixture(scope="module")
def longva():
    return LongVA(*random_longva(dtype=torch.float64), name="random")


def generated_text(longva, messages, max_new_tokens, **media):
    """The answer by transformers' own generate, in one forward over the whole prompt."""
    processor = longva.processor
    text = processor.apply_chat_template(messages, add_generation_prompt=True)
    inputs = processor(text=text, return_tensors="pt", **media)
    ids = longva.model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False)
    answer = ids[0, inputs["input_ids"].shape[1] :]
    return processor.tokenizer.decode(answer, skip_special_tokens=True).strip()


def turn(question, *media):
    return {"role": "user", "content": [*media, {"type": "text", "text": question}]}


def test_answer_about_a_video_is_that_of_generate(longva, video):
    answer = longva.watch(video, frames=10).ask(QUESTION, max_new_tokens=12)
    expected = generated_text(
        longva, [turn(QUESTION, {"type": "video"})], 12, videos=[str(video)], num_frames=10
    )
    assert answer.text == expected


def test_answer_about_an_image_is_that_of_generate(longva, image):
    answer = longva.watch(image).ask(QUESTION, max_new_tokens=12)
    expected = generated_text(
        longva, [turn(QUESTION, {"type": "image"})], 12, images=[Image.open(image)]
    )
    assert answer.text == expected


def test_several_media_stand_in_one_prompt(longva, video, image):
    session = longva.watch([image, video], frames=4, settings=FrameSettings(named=False))
    answer = session.ask(QUESTION, max_new_tokens=12)
    expected = generated_text(
        longva,
        [turn(QUESTION, {"type": "image"}, {"type": "video"})],
        12,
        images=[Image.open(image)],
        videos=[str(video)],
        num_frames=4,
    )
    assert answer.text == expected
    every = session.ask(QUESTION, max_new_tokens=1, evidence=99).evidence
    assert {e.medium for e in every} == {0, 1} and len(every) == session.frames


def test_asking_twice_gives_two_fresh_answers(longva, video):
    session = longva.watch(video, frames=10)
    first, other, again = (
        session.ask(q, max_new_tokens=12) for q in (QUESTION, "And then?", QUESTION)
    )
    fresh = longva.watch(video, frames=10).ask("And then?", max_new_tokens=12)
    assert first.text == again.text and first.evidence == again.evidence
    assert other.text == fresh.text
    assert [e.frame for e in other.evidence] == [e.frame for e in fresh.evidence]


@pytest.mark.parametrize("chunk_tokens", [1, 16, 37])
def test_prefill_in_chunks_gives_the_same_answer(longva, video, chunk_tokens):
    expected = longva.watch(video, frames=10).ask(QUESTION, max_new_tokens=8).text
    chunked = LongVA(longva.model, longva.processor, name="chunked", chunk_tokens=chunk_tokens)
    assert chunked.watch(video, frames=10).ask(QUESTION, max_new_tokens=8).text == expected


def test_a_kept_turn_is_seen_by_the_next_question(longva, video):
    session = longva.watch(video, frames=4)
    first = session.ask("First?", max_new_tokens=6, keep=True)
    second = session.ask("Second?", max_new_tokens=6, keep=True)
    messages = [
        turn("First?", {"type": "video"}),
        {"role": "assistant", "content": first.text},
        {"role": "user", "content": "Second?"},
    ]
    assert second.text == generated_text(longva, messages, 6, videos=[str(video)], num_frames=4)


def test_nothing_is_watched_twice(longva, video, monkeypatch):
    session = longva.watch(video, frames=10)
    lengths = []
    model = longva.model.model
    hooks = [
        model.vision_tower.embeddings.register_forward_pre_hook(
            lambda *_: lengths.append("vision")
        ),
        model.language_model.register_forward_pre_hook(
            lambda _, __, kwargs: lengths.append(kwargs["inputs_embeds"].shape[1]), with_kwargs=True
        ),
    ]
    answer = session.ask(QUESTION, max_new_tokens=3)
    for hook in hooks:
        hook.remove()
    assert lengths[0] < answer.prompt_tokens - 40  # only what follows the 10 x 4 visual tokens
    assert lengths[1:] == [1, 1]


def test_stream_pieces_join_to_the_answer(longva, video):
    stream = longva.watch(video, frames=4).stream(QUESTION, max_new_tokens=16)
    assert "".join(stream).strip() == stream.answer.text != ""
    assert list(stream) == [] and stream.answer is not None


def test_an_abandoned_stream_leaves_the_session_as_it_was(longva, video):
    session = longva.watch(video, frames=4)
    expected = session.ask(QUESTION, max_new_tokens=8).text
    pieces = iter(session.stream("Another question?", max_new_tokens=8, keep=True))
    next(pieces)
    pieces.close()
    assert session.history == []
    assert session.ask(QUESTION, max_new_tokens=8).text == expected


def test_an_interrupt_before_the_question_is_noted_down_leaves_no_trace(longva, video, monkeypatch):
    session = longva.watch(video, frames=4)
    expected = session.ask(QUESTION, max_new_tokens=8).text
    append = CachedSequence.append

    def interrupted(*args, **kwargs):
        append(*args, **kwargs)
        raise KeyboardInterrupt

    monkeypatch.setattr(CachedSequence, "append", interrupted)
    with pytest.raises(KeyboardInterrupt):
        session.ask("Another question?")
    monkeypatch.undo()
    assert session.ask(QUESTION, max_new_tokens=8).text == expected


def test_sampling_follows_its_seed(longva, video):
    session = longva.watch(video, frames=4)

    def text(seed):
        sampling = Sampling(temperature=2.0, top_p=0.95, seed=seed)
        return session.ask(QUESTION, max_new_tokens=12, sampling=sampling).text

    assert text(1) == text(1) != text(2)


def test_a_rule_says_the_same_as_the_keywords_and_goes_without_them(longva, video):
    rule = FrameSampling(num_frames=3)
    by_rule, by_word = longva.watch(video, sampling=rule), longva.watch(video, frames=3)
    assert by_rule.media[0].indices.tolist() == by_word.media[0].indices.tolist()
    with pytest.raises(LongVAError, match="either sampling, or frames"):
        longva.watch(video, sampling=rule, fps=1)


def test_a_misnumbered_video_is_watched_by_its_true_frames(longva, tmp_path):
    options = {"b": "300k", "deadline": "realtime", "cpu-used": "8", "g": "20"}
    path = write_video(tmp_path / "vp9.webm", codec="libvpx-vp9", options=options)
    path = change_packet(path, tmp_path / "hidden.webm", 40, hide_vp9_keyframe)
    assert len(open_media(path)) == 60
    session = longva.watch(path, sampling=FrameSampling(num_frames=2))
    assert session.media[0].indices.tolist() == [0, 58]


def test_evidence_is_the_attention_of_eager_softmax(longva, video):
    """One answer token: its query is the last position of the prompt.

    The softmax of transformers' eager attention is float32.
    """
    answer = longva.watch(video, frames=6).ask(QUESTION, max_new_tokens=1, evidence=6)
    processor, model = longva.processor, longva.model
    text = processor.apply_chat_template(
        [turn(QUESTION, {"type": "video"})], add_generation_prompt=True
    )
    inputs = processor(text=text, videos=[str(video)], num_frames=6, return_tensors="pt")
    model.set_attn_implementation({"text_config": "eager"})
    try:
        with torch.no_grad():
            attentions = model(**inputs, output_attentions=True).attentions
    finally:
        model.set_attn_implementation({"text_config": "evidence"})
    last = torch.stack(attentions)[:, 0, :, -1].mean((0, 1))  # [L]
    visual = last[inputs["input_ids"][0] == model.config.video_token_id].view(6, 4).sum(1)
    expected = (visual / visual.sum()).tolist()
    times = open_media(video).frames_at(FrameSampling(num_frames=6), size=56)
    by_frame = {e.frame: e for e in answer.evidence}
    assert sorted(by_frame) == times.indices.tolist()
    for frame, seconds, weight in zip(times.indices, times.pts_seconds, expected, strict=True):
        assert by_frame[frame].weight == pytest.approx(weight, abs=SAME)
        assert by_frame[frame].seconds == pytest.approx(seconds)


def test_evidence_comes_heaviest_first_and_as_many_as_asked(longva, video):
    answer = longva.watch(video, frames=10).ask(QUESTION, max_new_tokens=4, evidence=3)
    weights = [e.weight for e in answer.evidence]
    assert len(weights) == 3 and weights == sorted(weights, reverse=True)


def test_pictures_of_a_program_are_watched_as_one_film_or_as_several_media(longva, video):
    pictures = list(open_media(video).pictures(range(0, 48, 8)))
    film = longva.watch(np.stack(pictures), frames_fps=1)
    (seconds,) = (medium.seconds.tolist() for medium in film.media)
    assert seconds == [0, 1, 2, 3, 4, 5]
    want = longva.watch(video, fps=1).ask(QUESTION, max_new_tokens=8)
    assert film.ask(QUESTION, max_new_tokens=8).text == want.text
    tensors = [torch.from_numpy(picture).permute(2, 0, 1) for picture in pictures]
    assert len(longva.watch(tensors, frames_fps=2, fps=1).media[0].indices) == 3
    assert len(longva.watch([pictures], frames=2).media) == 1  # a list in a list
    assert [medium.kind for medium in longva.watch(pictures[:2]).media] == ["image", "image"]
    both = longva.watch([video, tensors], frames_fps=3, fps=1)
    assert [len(medium.indices) for medium in both.media] == [6, 2]
    assert [e.seconds for e in longva.watch([tensors]).ask(QUESTION).evidence] == [None] * 5


def test_a_rate_or_a_part_needs_a_medium_that_can_have_it(longva, video, image):
    with pytest.raises(
        VideoError, match=r"a rate of 2 frames a second is for pictures without times: .*mp4"
    ):
        longva.watch(video, frames_fps=2)
    with pytest.raises(VideoError, match="image.png has no times, so it has no part"):
        longva.watch(image, start=1)


def test_one_cache_serves_the_same_pictures_with_and_without_a_clock(video, tmp_path):
    longva = LongVA(*random_longva(), name="random", cache_dir=tmp_path)
    pictures = np.stack(list(open_media(video).pictures([0, 8, 16])))
    first = longva.watch([pictures], frames=3)
    again = longva.watch(open_media(pictures, fps=4), frames=3)
    assert len(list(tmp_path.iterdir())) == 1
    assert first.media[0].seconds is None
    assert again.media[0].seconds.tolist() == [0, 0.25, 0.5]
    longva.watch(open_media(pictures[::-1]), frames=3)
    longva.watch(open_media(pictures, fps=4), start=0.25)
    assert len(list(tmp_path.iterdir())) == 3


def test_an_answer_says_how_probable_it_was_whether_or_not_its_tokens_were_asked_for(longva, video):
    session = longva.watch(video, fps=1)
    told = session.ask(QUESTION, max_new_tokens=4, sampling=Sampling(logprobs=0))
    assert told.logprob == pytest.approx(sum(token.logprob for token in told.logprobs))
    assert told.logprob < -1
    plain = session.ask(QUESTION, max_new_tokens=4)
    assert (plain.logprob, plain.logprobs) == (told.logprob, [])
    (together,) = session.ask_all([QUESTION], max_new_tokens=4)
    assert together.logprob == pytest.approx(told.logprob, abs=5 * SAME)  # a sum of five at most


def test_json_has_the_promised_keys(longva, video):
    answer = longva.watch(video, fps=1).ask(QUESTION, max_new_tokens=4)
    row = json.loads(json.dumps(answer.to_json()))
    promised = {"question", "answer", "model", "media", "frames", "prompt_tokens", "evidence"}
    assert set(row) == promised | {"notes", "timings", "finish_reason", "logprob"}
    assert set(row["timings"]) == {"decode", "encode", "prefill", "answer"}
    assert set(row["evidence"][0]) == {"frame", "seconds", "weight", "medium", "file"}
    assert row["frames"] == 6 and row["media"] == str(video)


def test_default_sampling_is_one_frame_a_second(longva, video):
    session = longva.watch(video)
    assert session.media[0].seconds.tolist() == [0, 1, 2, 3, 4, 5] and session.notes == []


def test_default_sampling_spreads_over_the_video_when_the_context_is_short(video):
    model, processor = random_longva(max_position_embeddings=1296)
    session = LongVA(model, processor, name="short").watch(video)
    assert session.frames == 4  # 4 x 4 tokens beside the 1,280 of text that are planned for
    assert session.media[0].indices.tolist()[-1] == 47
    said = "4 frames, spread evenly: the 6 of one a second do not fit"
    assert session.notes == [f"{video}: {said}"]
    fewer = LongVA(model, processor, name="short").watch(video, max_frames=2)
    assert fewer.notes == []  # as asked


def test_frames_that_exceed_the_context_are_refused_with_the_number_that_fits(video):
    model, processor = random_longva(max_position_embeddings=1300)
    with pytest.raises(
        ContextLengthError, match=r"40 frames .* 1,440 tokens.*context is 1,300.*At most 5"
    ):
        LongVA(model, processor, name="short").watch(video, frames=40)


@pytest.mark.parametrize("kv", ["int8", "int4"])
def test_a_quantised_kv_cache_answers(longva, video, kv):
    small = LongVA(longva.model, longva.processor, name="small", kv=kv)
    session = small.watch(video, frames=10)
    full = longva.watch(video, frames=10)
    assert session.kv_bytes < 0.5 * full.kv_bytes
    assert session.ask(QUESTION, max_new_tokens=4).answer_tokens == 4


def test_a_cached_video_is_neither_decoded_nor_encoded_again(longva, video, tmp_path):
    cached = LongVA(longva.model, longva.processor, name="cached", cache_dir=tmp_path / "cache")
    first = cached.watch(video, frames=5)
    second = cached.watch(video, frames=5)
    assert second.timings["encode"] == 0 and first.timings["encode"] > 0
    a, b = (session.ask(QUESTION, max_new_tokens=6) for session in (first, second))
    assert (a.text, a.evidence) == (b.text, b.evidence)
    assert cached.watch(video, frames=6).timings["encode"] > 0
    padded = cached.watch(video, frames=5, settings=FrameSettings(fit="pad"))
    assert padded.timings["encode"] > 0
    assert {path.suffix for path in (tmp_path / "cache").iterdir()} == {".safetensors"}


def test_a_cache_on_a_full_disk_is_said_left_clean_and_does_without(longva, video, tmp_path):
    cached = LongVA(longva.model, longva.processor, name="cached", cache_dir=tmp_path / "cache")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))  # no file may be longer
    try:
        with pytest.warns(UserWarning, match="safetensors cannot be written: .*Make room"):
            session = cached.watch(video, frames=5)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list((tmp_path / "cache").iterdir()) == []
    assert session.frames == 5


def test_pooling_set_at_load_changes_the_tokens_a_frame(longva, video, image, tmp_path):
    longva.model.save_pretrained(tmp_path / "model")
    longva.processor.save_pretrained(tmp_path / "model")
    cache = tmp_path / "cache"
    one = LongVA.from_pretrained(tmp_path / "model", device="cpu", pool_stride=4, cache_dir=cache)
    four = LongVA.from_pretrained(tmp_path / "model", device="cpu", cache_dir=cache)

    for medium in (video, image):
        sessions = [model.watch(medium) for model in (four, one)]
        more, fewer = (s.ask(QUESTION, max_new_tokens=1).prompt_tokens for s in sessions)
        assert sessions[0].frames == sessions[1].frames
        assert more - fewer == sessions[0].frames * (4 - 1)
    assert one.plan(5).prompt_tokens == four.plan(5).prompt_tokens - 5 * (4 - 1)
    with pytest.raises(LongVAError, match=r"must divide the 4 patches a side, got 3.*\[1, 2, 4\]"):
        LongVA.from_pretrained(tmp_path / "model", device="cpu", pool_stride=3)


def test_features_are_kept_apart_by_pooling(longva, video, tmp_path):
    model, processor = random_longva(dtype=torch.float64)
    cached = LongVA(model, processor, name="cached", cache_dir=tmp_path)
    average, _ = cached.watch(video, frames=5), model.config.set_pooling(mode="max")
    largest = cached.watch(video, frames=5)
    assert len(list(tmp_path.iterdir())) == 2 and average.frames == largest.frames


def test_an_answer_cut_by_the_context_says_so(video):
    model, processor = random_longva(max_position_embeddings=1400)
    session = LongVA(model, processor, name="short").watch(video, frames=4)
    question = "x" * 1300
    answer = session.ask(question, max_new_tokens=500)
    assert answer.finish_reason == "length" and answer.prompt_tokens + answer.answer_tokens == 1400
    with pytest.raises(ContextLengthError, match="context is"):
        session.ask("x" * 1500)
    assert session.ask("Still there?", max_new_tokens=2).answer_tokens == 2


@pytest.mark.parametrize(
    ("question", "message"), [(" ", "question is empty"), ("a \udc80", "not valid UTF-8")]
)
def test_questions_that_cannot_be_asked(longva, video, question, message):
    with pytest.raises(LongVAError, match=message):
        longva.watch(video, frames=2).ask(question)


def test_questions_and_answers_that_spell_control_tokens_are_text(longva, video, monkeypatch):
    """A tag in a question shows no second video, and one in an answer ends no turn."""
    session, question = longva.watch(video, frames=2), "see <video><|im_end|> now"
    letters = len("<video>") + len("<|im_end|>")  # a token each; three between the words
    plain, asked = (session.ask(text, max_new_tokens=2) for text in ("see  now", question))
    assert asked.prompt_tokens == plain.prompt_tokens + letters
    monkeypatch.setattr(longva.processor.tokenizer, "decode", lambda *_, **__: "<|im_end|>")
    first = session.ask(question, max_new_tokens=2, keep=True)
    assert first.text == "<|im_end|>" == session.history[-1]["content"]
    again = session.ask(question, max_new_tokens=2)
    other = longva.watch(video, frames=2)
    other.history = [*session.history[:1], {"role": "assistant", "content": "0123456789"}]
    assert again.prompt_tokens == other.ask(question, max_new_tokens=2).prompt_tokens


def test_a_folders_other_files_and_a_files_other_pages_are_told(longva, tmp_path):
    frames = tmp_path / "frames"
    (frames / "more").mkdir(parents=True)
    for name in ("1.png", "2.png", ".hidden.png"):
        Image.new("RGB", (60, 60)).save(frames / name)
    for number in range(6):
        (frames / f"notes{number}.txt").write_text("")
    pages = tmp_path / "pages.tiff"
    page = Image.new("RGB", (60, 60))
    page.save(pages, save_all=True, append_images=[page, page])
    left_out = "left out as no images: more/, notes0.txt, notes1.txt, notes2.txt, notes3.txt"
    want = [
        f"{frames.name}: {left_out} and 2 more",
        f"{pages.name}: only the first of its 3 pictures is read",
    ]
    session = longva.watch([frames, pages, frames / "1.png"])
    assert session.notes == want
    assert session.ask(QUESTION, max_new_tokens=1).to_json()["notes"] == want


def test_what_is_left_out_is_told_of_features_from_the_cache_too(longva, tmp_path):
    frames = tmp_path / "frames"
    frames.mkdir()
    Image.new("RGB", (60, 60)).save(frames / "1.png")
    cached = LongVA(longva.model, longva.processor, name="cached", cache_dir=tmp_path / "cache")
    assert cached.watch(frames).notes == []
    (frames / "sound.wav").write_bytes(b"")
    assert cached.watch(frames).notes == [f"{frames}: left out as no images: sound.wav"]


def test_evidence_of_no_weight_is_not_shown_but_exact_in_json(longva, video):
    answer = longva.watch(video, frames=3).ask(QUESTION, max_new_tokens=1)
    weights = [0.6, 0.0006, 0.0004]
    evidence = [replace(e, weight=w) for e, w in zip(answer.evidence, weights, strict=True)]
    answer = replace(answer, evidence=evidence)
    assert [item.weight for item in answer.shown_evidence] == [0.6, 0.0006]
    assert [item["weight"] for item in answer.to_json()["evidence"]] == weights


def test_a_medium_may_be_the_bytes_of_a_file(longva, video):
    session = longva.watch(video.read_bytes(), frames=4)
    assert session.ask(QUESTION, max_new_tokens=8).text == (
        longva.watch(video, frames=4).ask(QUESTION, max_new_tokens=8).text
    )


def test_an_unknown_dtype_is_named():
    with pytest.raises(LongVAError, match="must be float32, float16 or bfloat16, got 'bf16'"):
        LongVA.from_pretrained("nano", dtype="bf16")


def test_sampling_settings_are_checked():
    with pytest.raises(LongVAError, match="top_p"):
        Sampling(top_p=0.0)


def test_the_embedded_model_says_what_it_is():
    longva = LongVA.from_pretrained("nano")
    assert "drawn world" in longva.notice
    card = embedded_folder() / "README.md"
    assert "longva reproduce nano" in card.read_text(encoding="utf-8")
    size = sum(path.stat().st_size for path in embedded_folder().iterdir())
    assert size < 20_000_000


def test_the_embedded_model_finds_one_frame_in_a_film_and_says_when(tmp_path):
    scene, second = write_film(tmp_path / "film.mp4", seconds=200, hide="anchor", seed=1)
    session = LongVA.from_pretrained("nano").watch(tmp_path / "film.mp4", fps=1)
    answer = session.ask("What color is behind the anchor?")
    assert answer.text == f"anchor color {scene.color}"
    assert answer.evidence[0].seconds == second


def test_a_second_question_ends_a_stream_that_was_left_open(longva, video):
    session = longva.watch(video, frames=4)
    expected = session.ask("Second?", max_new_tokens=8).text
    first = iter(session.stream("First?", max_new_tokens=30))
    next(first)
    assert session.ask("Second?", max_new_tokens=8).text == expected
    with pytest.raises(LongVAError, match="another question was asked"):
        list(first)
    assert session.ask("Second?", max_new_tokens=8).text == expected


def test_the_watched_features_are_freed_and_the_conversation_stays(longva, video):
    session = longva.watch(video, frames=4)
    assert session._reader.rows is None
    assert len(session._ahead) == 0
    kept = session.ask("First?", max_new_tokens=4, keep=True)
    session.ask("An aside?", max_new_tokens=4)
    assert session._reader.length == kept.prompt_tokens


def test_a_renamed_copy_is_found_in_the_cache_and_other_content_is_not(longva, tmp_path):
    cached = LongVA(longva.model, longva.processor, name="cached", cache_dir=tmp_path / "cache")
    paths = [tmp_path / name for name in ("a.png", "copy.png", "other.png")]
    for path, level in zip(paths, (10, 10, 200), strict=True):
        Image.new("RGB", (80, 60), (level, 0, 0)).save(path)
    sessions = [cached.watch(path) for path in paths]
    assert [session.timings["encode"] > 0 for session in sessions] == [True, False, True]
    assert sessions[1].media[0].source == str(paths[1])
    other = LongVA(*random_longva(seed=1), name="other", cache_dir=tmp_path / "cache")
    assert other.watch(paths[0]).timings["encode"] > 0


def test_a_damaged_cache_entry_is_made_again(longva, video, tmp_path):
    cached = LongVA(longva.model, longva.processor, name="cached", cache_dir=tmp_path)
    cached.watch(video, frames=3)
    entry = next(tmp_path.glob("*.safetensors"))
    entry.write_bytes(entry.read_bytes()[:100])
    assert cached.watch(video, frames=3).timings["encode"] > 0
    assert cached.watch(video, frames=3).timings["encode"] == 0


def test_two_media_share_what_fits_when_no_number_was_asked_for(video):
    model, processor = random_longva(max_position_embeddings=1312)  # 8 frames beside the text
    unnamed = FrameSettings(named=False)  # names take tokens, too
    session = LongVA(model, processor, name="short").watch([video, video], settings=unnamed)
    assert [len(medium) for medium in session.media] == [4, 4]


def test_a_model_without_room_for_one_frame_says_so(video):
    model, processor = random_longva(max_position_embeddings=1000)
    with pytest.raises(ContextLengthError, match="Not even one frame fits"):
        LongVA(model, processor, name="tiny").watch(video)


def test_an_anyres_image_is_planned_with_all_its_tokens(image):
    model, processor = random_longva(image_packing="anyres", max_position_embeddings=1340)
    with pytest.raises(ContextLengthError, match="frames make a prompt of"):
        LongVA(model, processor, name="anyres").watch(image)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_an_answer_of_nan_is_no_answer(image, temperature):
    broken = LongVA(*random_longva(), name="random")
    session = broken.watch(image)
    weight = broken.model.get_decoder().layers[1].mlp.down_proj.weight.data
    was = weight[0, 0].clone()
    weight[0, 0] = float("nan")
    pieces = iter(session.stream(QUESTION, sampling=Sampling(temperature=temperature)))
    with pytest.raises(NonFiniteError, match="NaN or infinity: its logits"):
        next(pieces)
    weight[0, 0] = was
    want = LongVA(*random_longva(), name="random").watch(image).ask(QUESTION, max_new_tokens=4)
    assert session.ask(QUESTION, max_new_tokens=4).text == want.text


def test_a_picture_that_encodes_to_infinity_is_not_watched(longva, image, video, tmp_path):
    broken = LongVA(*random_longva(), name="random", cache_dir=tmp_path / "cache")
    broken.model.model.multi_modal_projector.linear_2.bias.data[0] = float("inf")
    for medium in (image, video):
        with pytest.raises(NonFiniteError, match="its features of frames"):
            broken.watch(medium)
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.parametrize("convert", [torch.nn.Module.half, torch.nn.Module.bfloat16])
def test_a_converted_model_keeps_its_rotary_frequencies(convert):
    model, processor = random_longva()
    exact = model.get_decoder().rotary_emb.inv_freq.clone()
    convert(model)
    assert model.dtype.itemsize == 2
    assert torch.equal(model.get_decoder().rotary_emb.inv_freq, exact)  # dtype included
    convert(model.get_decoder())  # past our classes: mended when the model is taken
    assert model.get_decoder().rotary_emb.inv_freq.dtype == model.dtype
    LongVA(model, processor, name="random")
    assert torch.equal(model.get_decoder().rotary_emb.inv_freq, exact)
