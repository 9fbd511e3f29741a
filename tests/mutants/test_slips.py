from collections import Counter

from mutants.run import ROOT, read_slips


def test_each_slip_stands_once_in_its_file_and_compiles_there():
    slips = read_slips()
    assert {name for name, times in Counter(slip.name for slip in slips).items() if times > 1} == set()
    for slip in slips:
        compile(slip.applied(ROOT), slip.file, "exec")
        assert slip.tests(ROOT)
