"""What is promised of a replica, with and without an example() of its handler."""

from dataclasses import replace

from tailbound_lab.bench.replica.promise import draw, promise


def test_example_shows_large_batches_that_little_traffic_does_not():
    steady = replace(draw(3002), noise=0.0, before=1.0)
    shown, unknown = (promise(steady, 1.0, example=example) for example in (True, False))
    assert shown > 2.0 * unknown > 0.0
