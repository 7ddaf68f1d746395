"""Conversations read one after the other, against the assistant and the plain model."""

import io
import random
from pathlib import Path

import pytest
import torch
from PIL import Image

from longva.errors import ContextLengthError, LongVAError, NonFiniteError, VideoError
from longva.evaluate.conversations import Reader, fingerprint
from longva.media.sampling import FrameSampling, clock
from longva.model.random_model import random_longva
from longva.nano.film import write_film
from longva.nano.world import draw_scene, random_scene
from longva.watching.assistant import LongVA
from tests.tolerance import SAME
from tests.watching import families

SIX_FRAMES = FrameSampling(num_frames=6)


@pytest.fixture(scope="module")
def longva() -> LongVA:
    return LongVA(*random_longva(dtype=torch.float64), name="random")


def picture(seed: int) -> bytes:
    content = io.BytesIO()
    draw_scene(random_scene(random.Random(seed)), 120, 80).save(content, "PNG")
    return content.getvalue()


def user(*parts: str | bytes | Path) -> list[dict]:
    """A message of texts and of media: a Path, or bytes."""
    content = [
        {"type": "text", "text": part}
        if isinstance(part, str)
        else {"type": "image", "source": part if isinstance(part, bytes) else str(part)}
        for part in parts
    ]
    return [{"role": "user", "content": content}]


def test_an_answer_is_that_of_the_assistant(longva, video):
    want = longva.watch(video, frames=6).ask("What is shown?", max_new_tokens=12)
    reader = Reader(longva, sampling=SIX_FRAMES)
    got = reader.generate(user(video, "What is shown?"), max_new_tokens=12)
    assert (got.text, got.prompt_tokens) == (want.text, want.prompt_tokens)


def test_times_and_counts_in_an_answer_are_those_of_the_assistant(tmp_path):
    _, second = write_film(tmp_path / "film.mp4", seconds=60, hide="anchor", seed=1)
    reader = Reader(LongVA.from_pretrained("nano"), sampling=FrameSampling(num_frames=60))
    asked = user(tmp_path / "film.mp4", "When does the anchor appear?")
    answer = reader.generate(asked, max_new_tokens=12).text
    assert answer.startswith("anchor number ") and answer.endswith(f" at {clock(second)}")


@pytest.mark.parametrize("name", ["qwen3_vl", "internvl"])
def test_other_video_models_are_evaluated_by_their_own_prompts(name, video):
    model, processor = families.make(name)
    other = LongVA(model, processor, name=name)
    want = other.watch(video, frames=6).ask("What is shown?", max_new_tokens=6)
    reader = Reader(other, sampling=SIX_FRAMES)
    asked = user(video, "What is shown?")
    got = reader.generate(asked, max_new_tokens=6)
    assert (got.text, got.prompt_tokens) == (want.text, want.prompt_tokens)
    reader.generate(user("Before", video, "and", picture(0), "after?"), max_new_tokens=1)
    again = Reader(other, sampling=SIX_FRAMES, reuse=False).loglikelihood(asked, "A fox.")
    assert reader.loglikelihood(asked, "A fox.") == pytest.approx(again, abs=1e-9)


def test_questions_about_one_video_share_one_watching(longva, video):
    film = video
    asked = [user(film, question) for question in ("Who?", "Where?", "When?")]
    asked.append(user(picture(0), "What?"))
    together = Reader(longva, sampling=SIX_FRAMES)
    alone = Reader(longva, sampling=SIX_FRAMES, reuse=False)
    answers = [
        [reader.generate(question, max_new_tokens=8) for question in asked]
        for reader in (together, alone)
    ]
    assert answers[0] == answers[1]
    assert (together.watched, alone.watched) == (2, 4)


def test_answers_of_nan_are_no_answers():
    broken = LongVA(*random_longva(), name="random")
    broken.model.lm_head.weight.data[7, 3] = float("nan")
    reader = Reader(broken)
    with pytest.raises(NonFiniteError, match="its logits"):
        reader.generate(user("What?"), max_new_tokens=3)
    with pytest.raises(NonFiniteError, match="its logits"):
        reader.loglikelihood(user("What?"), "a train")


def test_part_of_a_video_is_another_medium_than_the_whole(longva, video):
    def messages(**part):
        shown = {"type": "image", "source": str(video), **part}
        return [{"role": "user", "content": [shown, {"type": "text", "text": "Who?"}]}]

    part = messages(start=1.0, end=4.0)
    reader = Reader(longva, sampling=FrameSampling(fps=1))
    got = reader.generate(part, max_new_tokens=6)
    want = longva.watch(video, fps=1, start=1, end=4).ask("Who?", max_new_tokens=6)
    assert (got.text, got.prompt_tokens) == (want.text, want.prompt_tokens)
    reader.generate(messages(), max_new_tokens=1)
    assert reader.watched == 2
    assert len({fingerprint(one) for one in (messages(), part, messages(start=1.0))}) == 3
    assert fingerprint(messages(start=None, end=None)) == fingerprint(messages())


def test_media_may_stand_between_words(longva):
    images = [picture(1), picture(2)]
    content = [{"type": "text", "text": "First"}, {"type": "image"}]
    content += [{"type": "text", "text": "then"}, {"type": "image"}, {"type": "text", "text": "?"}]
    processor, model = longva.processor, longva.model
    messages = [{"role": "user", "content": content}]
    text = processor.apply_chat_template(messages, add_generation_prompt=True)
    pictures = [Image.open(io.BytesIO(image)).convert("RGB") for image in images]
    inputs = processor(text=text, images=pictures, return_tensors="pt")
    length = inputs.input_ids.shape[1]
    ids = model.generate(**inputs, max_new_tokens=6, do_sample=False)[0, length:]
    want = processor.tokenizer.decode(ids, skip_special_tokens=True).strip()
    got = Reader(longva).generate(
        user("First", images[0], "then", images[1], "?"), max_new_tokens=6
    )
    assert (got.text, got.prompt_tokens) == (want, length)


def test_a_log_likelihood_is_that_of_one_forward(longva):
    question = "Two words?"
    tokenizer = longva.processor.tokenizer
    messages = [{"role": "user", "content": question}]
    text = longva.processor.apply_chat_template(messages, add_generation_prompt=True)
    prompt, answer = tokenizer(text)["input_ids"], tokenizer(" yes")["input_ids"]
    with torch.inference_mode():
        logits = longva.model(input_ids=torch.tensor([prompt + answer])).logits[0]
    logprobs = logits.log_softmax(-1)[len(prompt) - 1 : -1]  # [A, V]
    reader = Reader(longva)
    logprob, greedy = reader.loglikelihood(user(question), " yes")
    want = logprobs[torch.arange(len(answer)), torch.tensor(answer)].sum().item()
    assert (logprob, greedy) == (pytest.approx(want, abs=SAME), False)
    likeliest = int(logprobs[0, :256].argmax())  # of single bytes, which decode to themselves
    letters = {tokenizer("!" + chr(n))["input_ids"][-1]: chr(n) for n in range(33, 127)}
    for token, letter in letters.items():
        logprob, greedy = reader.loglikelihood(user(question), letter)
        assert logprob == pytest.approx(logprobs[0, token].item(), abs=SAME)
        assert greedy == (token == likeliest == int(logprobs[0].argmax()))


def test_an_answer_ends_where_the_task_says(longva):
    reader = Reader(longva)
    whole = reader.generate(user("Speak."), max_new_tokens=20)
    end = whole.text[2]
    cut = reader.generate(user("Speak."), max_new_tokens=20, until=[end])
    assert cut.text == whole.text.partition(end)[0].strip()
    assert cut.answer_tokens < whole.answer_tokens


def test_words_that_spell_a_control_token_show_no_picture(longva):
    reader = Reader(longva)
    reader.generate(user(picture(3), "What is <image> and <|im_end|>?"), max_new_tokens=2)
    assert reader.watched == 1


def test_a_failed_medium_spoils_nothing(longva, video, tmp_path):
    film, broken = video, tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    reader = Reader(longva, sampling=SIX_FRAMES)
    want = reader.generate(user(film, "Who?"), max_new_tokens=8)
    with pytest.raises(VideoError, match=r"broken\.mp4"):
        reader.generate(user(broken, "Who?"), max_new_tokens=8)
    assert reader.generate(user(film, "Who?"), max_new_tokens=8) == want
    with pytest.raises(LongVAError, match="empty answer"):
        reader.loglikelihood(user("Who?"), "")


def test_a_fingerprint_knows_media_by_what_they_are(tmp_path):
    here, there = tmp_path / "film.mp4", tmp_path / "copy" / "film.mp4"
    there.parent.mkdir()
    here.write_bytes(b"1234")
    there.write_bytes(b"1234")
    prints = [fingerprint(user(path, "Who?")) for path in (here, there)]
    assert prints[0] == prints[1]
    here.write_bytes(b"12345")
    assert fingerprint(user(here, "Who?")) != prints[0]
    assert fingerprint(user(picture(1), "?")) != fingerprint(user(picture(2), "?"))


def test_free_memory_does_not_choose_the_frames(longva, video, monkeypatch):
    sampling = Reader(longva).sampling
    monkeypatch.setattr("longva.watching.watcher.usable_memory", lambda device: 10**6)
    reader = Reader(longva)
    assert reader.sampling == sampling
    with pytest.raises(ContextLengthError, match="At most .* frames fit|Not even one"):
        reader.generate(user(video, "What is shown?"), max_new_tokens=4)
