"""The rows of a request, about, without parsing it."""


def weight(event):
    return event.body.count(b"[")
