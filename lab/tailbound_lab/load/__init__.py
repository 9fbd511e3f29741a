"""One open-loop traffic source for demo, bench and tests.

Its modules, from the shape of the traffic to what came of it. Those marked [P] are pure: no I/O, no clock, no
randomness of their own.

- ``arrivals`` [P]: rates over time.
- ``generator``: compiles openload.c on first use, writes its input, runs it for ``bench``.
- ``openloop``: runs it beside other work, for ``demo`` and tests, and as a command.
- ``streams``: offers requests that are answered piece by piece, for ``bench``.
- ``records`` [P]: what was answered, and what that means.
"""
