"""One open-loop traffic source for demo, bench and tests.

Its modules, from the shape of the traffic to what came of it. Those marked [P] are pure: no I/O, no clock, no
randomness of their own.

- ``arrivals`` [P]: rates over time, and when each request is due.
- ``openloop``: sends them, in Python; ``sender``: the same in a process of its own, for ``live``.
- ``generator``: compiles and runs ``openload.c``, which offers far higher rates, for ``bench``.
- ``records`` [P]: what was answered, and what that means.
"""
