"""From a request's fields to the question that is put to the engine."""

import secrets

from longva.media.sampling import FrameSampling
from longva.prompts.decoding import Sampling
from longva.serve import schema
from longva.serve.conversation import Conversation, read_conversation
from longva.serve.errors import ApiError
from longva.serve.limits import Limits
from longva.serve.media.check import FrameList
from longva.serve.media.fetch import is_frame_list
from longva.watching.engine import Question
from longva.watching.features import FrameSettings
from longva.watching.store import Watching


def question_of(body: schema.ChatRequest, limits: Limits) -> tuple[Question, Conversation]:
    """Check what can be checked before anything is fetched; return the question and its media.

    Raises:
        ApiError: beyond a limit.
        LongVAError: a chat that the session cannot answer.
    """
    characters = sum(len(message.text()) for message in body.messages)
    if isinstance(body, schema.CompletionRequest):
        characters = len(body.text)
    if characters > limits.prompt_characters:
        raise ApiError(
            f"the messages have {characters:,} characters, {limits.prompt_characters:,} are "
            "allowed.",
            code="context_length_exceeded",
            param="messages",
        )
    if isinstance(body, schema.CompletionRequest):
        conversation = Conversation(media=(), history=(), question=body.text)
    else:
        goes_on = bool(body.continue_final_message)
        in_place = body.longva.media == "in_place"
        conversation = read_conversation(body.messages, goes_on=goes_on, in_place=in_place)
    if len(conversation.media) > limits.media:
        raise ApiError(
            f"a conversation may have {limits.media} media, got {len(conversation.media)}.",
            code="too_many_media",
            param="messages",
        )
    tokens = [t for t in (body.max_completion_tokens, body.max_tokens) if t is not None]
    most = min([*tokens[:1], limits.new_tokens])
    if (body.min_tokens or 0) > most:
        message = f"min_tokens is {body.min_tokens}, but the answer may have {most} tokens."
        raise ApiError(message, param="min_tokens")
    temperature = body.temperature or 0.0
    question = Question(
        text=conversation.question,
        history=conversation.history,
        sampling=Sampling(
            temperature=0.0 if temperature < 1e-3 else temperature,
            top_p=1.0 if body.top_p is None else max(body.top_p, 1e-6),
            top_k=max(0, body.top_k or 0),
            min_p=body.min_p or 0.0,
            repetition_penalty=body.repetition_penalty or 1.0,
            min_tokens=body.min_tokens or 0,
            stop_token_ids=tuple(body.stop_token_ids or ()),
            ignore_eos=bool(body.ignore_eos),
            constraint=body.constraint(),
            logprobs=_logprobs(body),
            seed=secrets.randbits(63) if body.seed is None else body.seed % 2**63,
        ),
        max_new_tokens=most,
        evidence=body.longva.evidence,
        stop=tuple(body.stops()),
        begins=conversation.begins,
        raw=isinstance(body, schema.CompletionRequest),
        count=body.n or 1,
    )
    return question, conversation


def _logprobs(body: schema.ChatRequest) -> int | None:
    if isinstance(body, schema.CompletionRequest):
        return body.logprobs
    if body.top_logprobs and not body.logprobs:
        raise ApiError("top_logprobs needs logprobs: true.", param="top_logprobs")
    return (body.top_logprobs or 0) if body.logprobs else None


def watching_of(body: schema.ChatRequest, conversation: Conversation) -> Watching:
    """Say how media are watched; their digests are not known yet.

    Args:
        body: the request.
        conversation: what is said in it.

    Raises:
        ApiError: numbers of frames are given, and no list of frames.
    """
    how, read = body.longva, body.media_io_kwargs.video
    frames, fps = how.frames, how.fps
    listed = [is_frame_list(url) for message in body.messages for url in message.videos()]
    if read.frames_indices and not any(listed):
        raise ApiError(
            "frames_indices says which frames a video that is sent as a list of frames has; no "
            "video here is one: leave it out, and choose frames by longva.fps or longva.frames.",
            param="media_io_kwargs",
        )
    lists = bool(listed) and all(listed)
    if frames is None and fps is None and not lists:  # of a list, they say what it is
        frames, fps = read.num_frames, read.fps
    rule = FrameSampling(
        num_frames=frames, fps=fps, max_frames=how.max_frames, start=how.start, end=how.end
    )
    # Media are their content, so they have no names.
    settings = FrameSettings(fit=how.fit, named=False, opening=conversation.opening)
    return Watching(sampling=rule, settings=settings)


def frame_list_of(body: schema.ChatRequest) -> FrameList:
    """Say how the pictures of a video are watched that is given as a list of them."""
    read, how = body.media_io_kwargs.video, body.longva
    indices, chosen = tuple(read.frames_indices or ()), how.frames is None and how.fps is None
    return FrameList(fps=read.fps, indices=indices, chosen=chosen)
