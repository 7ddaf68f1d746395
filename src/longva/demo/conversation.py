"""The conversation as HTML. Questions and answers are escaped: they are text, never markup."""

from collections.abc import Sequence
from html import escape

from longva.demo.timeline import place
from longva.demo.visitor import Turn
from longva.watching.session import Evidence

STAGES = {"watch": "Watching", "prefill": "Reading the frames"}
WAITS = {
    "waiting": "Waiting for the model",
    "watching": "Opening the file",
    "answering": "Reading the question",
}

_THUMB = (
    '<svg viewBox="0 0 24 24" aria-hidden="true"><path d="M7 10v10H4V10zm3 10V9.5L13.5 3c1.4 0 2.2 '
    '1.1 1.9 2.4L14.5 9H19a2 2 0 0 1 2 2.4l-1.4 7A2 2 0 0 1 17.6 20z"/></svg>'
)


def conversation(turns: Sequence[Turn]) -> str:
    """Draw every turn, oldest first."""
    return "".join(
        f'<article class="lv-turn lv-{turn.state}">'
        f'<p class="lv-question">{escape(turn.question.text)}</p>{_reply(number, turn)}</article>'
        for number, turn in enumerate(turns)
    )


def _reply(number: int, turn: Turn) -> str:
    watched = f'<p class="lv-watched">{escape(turn.watched)}</p>' if turn.watched else ""
    words = escape(turn.text)
    if turn.busy and not turn.text:
        return f"{watched}{_progress(turn)}"
    if turn.state == "answering":
        return f'{watched}<p class="lv-answer">{words}<i class="lv-cursor"></i></p>'
    if turn.state == "failed":
        return f'{watched}<p class="lv-problem" role="alert">{words}</p>'
    if turn.state == "stopped":
        return f'{watched}<p class="lv-answer">{words}</p><p class="lv-facts">Stopped.</p>'
    words = words or "<em>The model ended its answer without a word.</em>"
    return f'{watched}<p class="lv-answer">{words}</p>{_evidence(turn)}{_facts(number, turn)}'


def _progress(turn: Turn) -> str:
    if turn.progress is None:
        words = WAITS[turn.state]
        return f'<p class="lv-progress" role="status">{words}<i class="lv-cursor"></i></p>'
    stage, done, total = turn.progress
    unit = "frames" if stage == "watch" else "tokens"
    return (
        f'<p class="lv-progress" role="status">{STAGES[stage]}: {done:,} of {total:,} {unit}'
        f'<progress max="{total}" value="{done}"></progress></p>'
    )


def _evidence(turn: Turn) -> str:
    items = turn.answer.shown_evidence if turn.answer else []
    if not items:
        return ""
    return f'<p class="lv-evidence">Looked most at {" ".join(_chip(item) for item in items)}</p>'


def _chip(item: Evidence) -> str:
    name, jump = place(item.frame, item.seconds)
    return (
        f'<button type="button" class="lv-chip" {jump} '
        f'title="{100 * item.weight:.1f} % of the attention">{name}</button>'
    )


def _facts(number: int, turn: Turn) -> str:
    answer = turn.answer
    if answer is None:
        return ""
    facts = [f"{answer.prompt_tokens:,} tokens", f"{answer.timings['answer']:.1f} s"]
    if not turn.watched:
        facts.insert(0, "nothing watched again")
    if answer.finish_reason == "length":
        facts.append(f"cut at {answer.answer_tokens} tokens")
    facts += [escape(note) for note in answer.notes]
    return (
        f'<p class="lv-facts"><span>{" · ".join(facts)}</span>'
        f"{_vote(number, True, turn.liked)}{_vote(number, False, turn.liked)}</p>"
    )


def _vote(number: int, like: bool, liked: bool | None) -> str:
    name = "Good answer" if like else "Bad answer"
    pressed = str(liked is like).lower()
    classes = "lv-vote" if like else "lv-vote lv-down"
    return (
        f'<button type="button" class="{classes}" data-turn="{number}" data-like="{like}" '
        f'aria-label="{name}" title="{name}" aria-pressed="{pressed}">{_THUMB}</button>'
    )
