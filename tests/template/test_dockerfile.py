import re
import subprocess
from pathlib import Path

import pytest

from template.dockerfile import exec_form, parse

TEMPLATE = Path(__file__).parents[2] / "template/python3-inference"
DOCKERFILE = parse((TEMPLATE / "Dockerfile").read_text())
STAGES = DOCKERFILE.stages
SHIP = STAGES["ship"]


def test_it_has_four_stages_and_the_last_one_ships():
    assert list(STAGES) == ["base", "build", "test", "ship"]


def test_it_starts_from_a_slim_python_whose_version_is_an_argument_and_which_can_be_pinned_by_digest():
    assert DOCKERFILE.arguments == {
        "PYTHON_VERSION": "3.12",
        "PYTHON_IMAGE": "python:${PYTHON_VERSION}-slim",
    }
    assert STAGES["base"].base == "${PYTHON_IMAGE}"


def test_what_ships_starts_clean_of_build_tools_and_tests():
    assert SHIP.base == "base"
    assert not SHIP.texts("RUN")


def test_what_ships_comes_out_of_the_test_stage_so_failing_tests_stop_every_builder():
    assert any(text.startswith("--from=test ") for text in SHIP.texts("COPY"))


def test_additional_debian_packages_are_an_argument_that_may_be_empty():
    base = STAGES["base"]
    assert 'ADDITIONAL_PACKAGE=""' in base.texts("ARG")
    (install,) = [text for text in base.texts("RUN") if "apt-get" in text]
    assert install.startswith('if [ -n "${ADDITIONAL_PACKAGE}" ]')


def test_compilers_go_into_the_build_stage_from_which_only_what_they_made_ships():
    build = STAGES["build"]
    assert 'BUILD_PACKAGE=""' in build.texts("ARG")
    install, _ = [text for text in build.texts("RUN") if "apt-get" in text]
    assert install.startswith('if [ -n "${BUILD_PACKAGE}" ]')
    assert [text.split()[1] for text in SHIP.texts("COPY")] == ["/opt/venv", "/home/app/function"]


def test_a_compiler_that_can_not_be_had_does_not_stop_the_build():
    build = STAGES["build"]
    assert "SPEEDUPS=true" in build.texts("ARG")
    _, install = [text for text in build.texts("RUN") if "apt-get" in text]
    for speedups in ("true", "false"):
        # There is no apt-get on this path, as if Debian's mirror were away.
        done = subprocess.run(
            ["/bin/sh", "-c", install.replace("rm -rf", ": ")],
            env={"PATH": "/nowhere", "SPEEDUPS": speedups},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0
        assert ("built without its compiled part" in done.stderr) == (speedups == "true")


def test_its_labels_name_the_base_for_scanners():
    (labels,) = SHIP.texts("LABEL")
    assert 'org.opencontainers.image.base.name="${PYTHON_IMAGE}"' in labels


def test_the_watchdog_is_a_layer_below_the_function_and_its_requirements():
    texts = [step.text for step in STAGES["build"].steps]
    order = [
        "batching-watchdog/ batching-watchdog/",
        "python -m pip install ./batching-watchdog",
        "function/requirements.txt function/requirements.txt",
        "python -m pip install -r function/requirements.txt",
        "function/ function/",
    ]
    assert [text for text in texts if text in order] == order


def test_it_never_copies_the_whole_context():
    copied = [text for stage in STAGES.values() for text in stage.texts("COPY")]
    assert not [text for text in copied if re.search(r"(^| )\.?/? ", text)]


def test_the_user_is_app_by_number_so_kubernetes_can_tell_that_it_is_not_root():
    (user,) = SHIP.texts("USER")
    uid, gid = user.split(":")
    assert int(uid) > 0
    (add,) = [text for text in STAGES["base"].texts("RUN") if "useradd" in text]
    assert f"useradd --uid {uid} " in add
    assert f"groupadd --gid {gid} app" in add
    assert add.endswith(" app")


def test_all_it_writes_to_is_the_volume_tmp():
    assert SHIP.texts("VOLUME") == ["/tmp"]
    assert any("HOME=/tmp" in text for text in SHIP.texts("ENV"))


def test_the_health_check_looks_for_the_lock_file():
    (check,) = SHIP.texts("HEALTHCHECK")
    assert check.endswith("CMD [ -e /tmp/.lock ] || exit 1")


def test_it_exposes_the_function_and_its_metrics():
    assert SHIP.texts("EXPOSE") == ["8080 8081"]


def test_it_starts_the_watchdog_and_sets_no_fprocess():
    assert [exec_form(text) for text in SHIP.texts("CMD")] == [["batching-watchdog"]]
    assert "fprocess" not in (TEMPLATE / "Dockerfile").read_text()


@pytest.mark.parametrize("variable", ["PYTHONUNBUFFERED=1", "PYTHONDONTWRITEBYTECODE=1"])
def test_python_in_it_logs_at_once_and_writes_no_bytecode(variable):
    assert any(variable in text.split() for text in STAGES["base"].texts("ENV"))
