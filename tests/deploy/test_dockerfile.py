"""The controller's Dockerfile, read: what ships and what does not. test_images.py builds it."""

from pathlib import Path

from template.dockerfile import exec_form, parse

DOCKERFILE = parse((Path(__file__).resolve().parents[2] / "autoscaler/Dockerfile").read_text())
SHIP = DOCKERFILE.stages["ship"]


def test_the_base_is_an_argument_so_that_it_can_be_pinned_by_digest():
    assert DOCKERFILE.arguments["PYTHON_IMAGE"] == "python:${PYTHON_VERSION}-slim"
    assert {stage.base for stage in DOCKERFILE.stages.values()} == {"${PYTHON_IMAGE}"}


def test_what_ships_runs_no_step_so_nothing_that_builds_can_stay_in_it():
    assert not SHIP.texts("RUN")
    assert SHIP.texts("COPY") == ["--from=build /opt/venv /opt/venv"]


def test_only_what_is_named_is_copied_from_the_context():
    assert DOCKERFILE.stages["build"].texts("COPY") == [
        "pyproject.toml README.md /src/",
        "slo_autoscaler/ /src/slo_autoscaler/",
    ]


def test_its_labels_are_those_of_the_oci_that_scanners_read():
    (labels,) = SHIP.texts("LABEL")
    for name in ("title", "description", "source", "licenses", "version", "revision", "base.name"):
        assert f"org.opencontainers.image.{name}=" in labels


def test_the_user_is_a_number_so_kubernetes_can_tell_that_it_is_not_root():
    (user,) = SHIP.texts("USER")
    assert all(int(part) > 0 for part in user.split(":"))


def test_it_starts_on_the_mounted_configuration():
    assert [exec_form(text) for text in SHIP.texts("ENTRYPOINT")] == [["slo-autoscaler"]]
    assert [exec_form(text) for text in SHIP.texts("CMD")] == [
        ["--config", "/etc/slo-autoscaler/config.yaml"]
    ]
