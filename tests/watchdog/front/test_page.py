"""The page that a browser gets."""

from hypothesis import given
from hypothesis import strategies as st

from batching_watchdog.front.page import page


@given(
    name=st.text(),
    example=st.none() | st.binary() | st.text(alphabet="<>&'\"ax", max_size=40).map(str.encode),
)
def test_page_of_any_function_has_no_markup_of_the_functions_own(name, example):
    text = page(name, example).decode()
    tags = {part.partition(">")[0].split()[0] for part in text.split("<")[1:]}
    assert tags == {"!doctype", "title", "/title", "link", "p", "pre", "/pre"}


def test_page_shows_how_to_send_the_example():
    text = page("my-model", b'{"x": [1, 2]}').decode()
    assert "my-model" in text
    assert "curl --data &#x27;{&quot;x&quot;: [1, 2]}&#x27;" in text
