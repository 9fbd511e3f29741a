"""The cluster that tests write to."""

import pytest

from support.cluster import access
from support.kube_server import write_kubeconfig

SERVER = {"server": "https://192.0.2.1"}


@pytest.mark.parametrize(
    ("variable", "selected"), [("KUBECONFIG", None), ("TEST_KUBECONFIG", SERVER), ("", None)]
)
def test_tests_select_a_cluster_only_if_a_variable_of_their_own_names_it(tmp_path, variable, selected):
    named = access({variable: write_kubeconfig(tmp_path, SERVER, {})})
    assert (named and named.cluster) == selected
