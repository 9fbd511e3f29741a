"""What a soak says of memory, and of its outcome."""

import pytest

from tailbound_lab.bench.replica.soak import growth, summary


def samples(*sizes: float) -> list[dict[str, float]]:
    return [{"total": size} for size in sizes]


def test_memory_that_stays_flat_after_a_start_has_not_grown():
    assert growth(samples(50, 90, *[100.0] * 8), "total") == 0


def test_growth_is_of_the_end_against_the_time_after_the_start():
    assert growth(samples(1, 1, *[100.0] * 4, 110, 120, 130, 130), "total") == pytest.approx(0.3)


def test_one_high_sample_is_no_growth():
    assert growth(samples(*[100.0] * 19, 900), "total") == 0


def test_too_few_samples_say_nothing():
    assert growth(samples(1, 2, 3, 4), "total") is None


def test_the_summary_counts_what_was_not_answered_and_what_was_refused():
    said = summary(
        {
            "machine": "2 cores",
            "date": "2026-11-25",
            "workload": "accelerator",
            "rate": 2100.0,
            "minutes": 30.0,
            "killed": 179,
            "sent": 1000,
            "unanswered": 2,
            "statuses": {"200": 990, "503": 8, "timeout": 2},
            "attainment": 0.985,
            "memory": [{"watchdog": 20.0, "total": 50.0}, {"watchdog": 21.0, "total": 51.0}],
            "growth": {"watchdog": 0.05, "total": None},
        }
    )
    assert (
        "179 workers killed: 1,000 requests, 2 unanswered, 10 with another status than 200, 98.50% in time"
        in said
    )
    assert "20.0 MB at first, 21.0 MB at the end (+5.0% from" in said
