"""OpenAI's chat completions (POST /v1/chat/completions), whole or streaming, so OpenAI's clients call it.

The model is that of the sample ``generate``, which writes noise: put yours in its place.
"""

import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import generate

from batching_watchdog import BadRequest, Context, Event, Response

load = generate.load


@dataclass(frozen=True)
class Question:
    """What a client asks."""

    prompt: str
    model: str
    most: int
    """Characters of the answer, at most."""
    streams: bool


@dataclass(eq=False)
class Answer:
    """The state of an answer, whose text is written character by character."""

    question: Question
    stream: generate.Stream
    id: str = field(default_factory=lambda: f"chatcmpl-{uuid.uuid4().hex}")
    created: int = field(default_factory=lambda: int(time.time()))
    text: str = ""
    new: str = ""
    """What the last step has added."""
    reason: str | None = None
    """Why it has ended."""

    def body(self, kind: str, choice: dict[str, Any]) -> dict[str, Any]:
        """Return an object of OpenAI's API."""
        choice = {"index": 0, "finish_reason": self.reason} | choice
        head = {"id": self.id, "object": kind, "created": self.created, "model": self.question.model}
        return head | {"choices": [choice]}


def example() -> bytes:
    """A typical question, with which the watchdog measures how long starts and steps take."""
    return b'{"model": "chat", "stream": true, "messages": [{"role": "user", "content": "Once upon a time"}]}'


def parse(event: Event) -> Question:
    """The question of a request. An error is the client's: 400, in the form that OpenAI's clients read."""
    try:
        return question(event.json())
    except (ArithmeticError, LookupError, TypeError, ValueError) as error:
        message = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        raise BadRequest({"error": {"message": message, "type": "invalid_request_error"}}) from error


def question(body: dict[str, Any]) -> Question:
    """The question in a body."""
    said = "\n".join(f"{message['role']}: {message['content']}" for message in body["messages"])
    most = int(body.get("max_completion_tokens") or body.get("max_tokens") or generate.LONGEST)
    if not said or most < 1:
        raise ValueError("messages must not be empty, nor max_tokens below 1")
    return Question(said[-generate.LONGEST_PROMPT :], str(body["model"]), most, body.get("stream") is True)


def start(questions: Sequence[Question], context: Context) -> list[Answer]:
    """One state per question."""
    streams = generate.start([question.prompt for question in questions], context)
    return [Answer(question, stream) for question, stream in zip(questions, streams, strict=True)]


def step(answers: Sequence[Answer], context: Context) -> list[tuple[Any, bool]]:
    """One character of each answer that has not ended, and whether its client has got all."""
    running = [answer for answer in answers if answer.reason is None]
    results = generate.step([answer.stream for answer in running], context) if running else []
    for answer, (piece, done) in zip(running, results, strict=True):
        answer.new = "" if piece is None else piece["text"]
        answer.text += answer.new
        if done or len(answer.text) == answer.question.most:
            answer.reason = "stop" if done else "length"
    return [piece_of(answer, ended=answer not in running) for answer in answers]


def piece_of(answer: Answer, *, ended: bool) -> tuple[Any, bool]:
    """The next piece of an answer, and whether it is the last one; ``ended``: before this step."""
    if not answer.question.streams:
        return whole(answer), answer.reason is not None
    return ("[DONE]", True) if ended else (chunk(answer), False)


def chunk(answer: Answer) -> dict[str, Any]:
    """The piece of an answer that streams."""
    delta = {"role": "assistant", "content": answer.new} if answer.new else {}
    return answer.body("chat.completion.chunk", {"delta": delta})


def whole(answer: Answer) -> Response | None:
    """The whole answer, once it has ended."""
    if answer.reason is None:
        return None
    message = {"role": "assistant", "content": answer.text}
    asked, written = len(answer.question.prompt), len(answer.text)
    usage = {"prompt_tokens": asked, "completion_tokens": written, "total_tokens": asked + written}
    body = answer.body("chat.completion", {"message": message}) | {"usage": usage}
    return Response(body, headers={"Content-Type": "application/json"})
