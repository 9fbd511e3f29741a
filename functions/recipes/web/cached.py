"""Answers kept by each worker: HTTP caches do not keep answers to POST."""

from batching_watchdog import Response

MOST = 10_000
ANSWERS = {}


def parse(event):
    return Response(ANSWERS[event.body]) if event.body in ANSWERS else (event.body, event.json())


def handle_batch(requests, context):
    answers = [{"y": sum(row)} for _, row in requests]
    ANSWERS.update((body, answer) for (body, _), answer in zip(requests, answers, strict=True))
    while len(ANSWERS) > MOST:
        del ANSWERS[next(iter(ANSWERS))]  # the oldest
    return answers
