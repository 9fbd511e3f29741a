"""Tests of the handler: run ``pytest`` in this folder. They also run when the image is built."""

from types import SimpleNamespace

import handler
import pytest
import torch

torch.set_num_threads(1)  # threads wait for each other where others use the cores
CONTEXT = SimpleNamespace(model=handler.load(), hostname="test")


def started(*prompts: str) -> list:
    return handler.start(prompts, CONTEXT)


def written(*prompts: str) -> list[str]:
    """The answers to prompts that start together."""
    answers = dict.fromkeys(range(len(prompts)), "")
    running = dict(enumerate(started(*prompts)))
    while running:
        results = handler.step(list(running.values()), CONTEXT)
        for place, (piece, done) in zip(list(running), results, strict=True):
            answers[place] += piece["text"] if piece else ""
            if done:
                del running[place]
    return list(answers.values())


def test_answer_has_a_length_that_the_model_draws():
    lengths = [len(answer) for answer in written(*(f"prompt {number}" for number in range(5)))]
    assert all(handler.SHORTEST <= length <= handler.LONGEST for length in lengths)
    assert len(set(lengths)) > 1


def test_stream_is_the_same_alone_and_beside_others():
    assert written("one") == written("one", "another that is longer")[:1]


def test_stream_that_joins_later_changes_no_other():
    (first,) = started("one")
    pieces = [handler.step([first], CONTEXT)[0] for _ in range(3)]
    (second,) = started("two")
    pieces += [handler.step([first, second], CONTEXT)[0] for _ in range(3)]
    assert "".join(piece["text"] for piece, _ in pieces) == written("one")[0][:6]


@pytest.mark.parametrize("prompt", ["", "x" * (handler.LONGEST_PROMPT + 1)])
def test_prompt_without_or_with_too_many_characters_is_refused(prompt):
    with pytest.raises(ValueError, match="1 to 256 characters"):
        handler.parse(SimpleNamespace(body=prompt.encode()))


def test_example_is_a_prompt():
    assert handler.parse(SimpleNamespace(body=handler.example()))
