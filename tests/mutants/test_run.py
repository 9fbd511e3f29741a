import pytest

from mutants.run import mutants


@pytest.mark.parametrize(
    ("text", "changed"),
    [
        ("a < b <= c", ["(a <= b <= c)", "(a < b < c)"]),
        ("a and b", ["(a or b)"]),
        ("not a", ["(a)"]),
        ("b if a else c", ["b if (not a) else c"]),
        ("a * b", ["(a / b)"]),
        ("min(a, b)", ["(max(a, b))"]),
        ("17", ["(18)"]),
        ("f'{a + 1}'", []),
        ("True", []),
    ],
)
def test_expression_has_each_mutant_once(text, changed):
    found = [mutant.text for mutant in mutants("é.py", f"é = {text}\n")]
    assert found == [f"é = {new}\n" for new in changed]


def test_statement_of_a_function_goes_and_its_docstring_stays():
    text = 'def f(a: int = 0) -> int:\n    """Text."""\n    a.b = a\n    return a\n'
    assert [(mutant.line, mutant.old, mutant.new) for mutant in mutants("a.py", text)] == [
        (1, "0", "1"),
        (3, "a.b = a", "pass"),
        (4, "return a", "return None"),
    ]
