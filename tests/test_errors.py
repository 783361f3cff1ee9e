"""The table of errors: complete, consistent, and the only place where an error gets its words."""

import pytest

from edge.errors import CLOSES, PROBLEMS, EdgeError


def test_the_table_has_what_the_protocol_names() -> None:
    names = """bad_request unauthorized forbidden not_found method_not_allowed timeout too_large uri_too_long
        upgrade_required too_many headers_too_large overloaded unavailable bad_json bad_text bad_op bad_room
        unknown_room stale""".split()
    assert set(names) <= set(PROBLEMS)
    assert set(CLOSES) == {1000, 1001, 1002, 1003, 1007, 1008, 1009, 1011, 1012, 1013}


@pytest.mark.parametrize("problem", PROBLEMS.values(), ids=PROBLEMS)
def test_each_row_is_whole(problem) -> None:
    assert 400 <= problem.status < 600
    assert problem.close is None or problem.close in CLOSES
    assert problem.message
    assert problem.advice


def test_an_error_carries_its_row() -> None:
    error = EdgeError("too_many", retry_after=1.5)
    assert (error.name, error.status) == ("too_many", 429)
    assert error.body() == {"error": "too_many", "message": PROBLEMS["too_many"].message, "retry_after": 1.5}
    assert EdgeError("bad_json", "no x").body() == {"error": "bad_json", "message": "no x"}
    assert str(EdgeError("stale", "mode")) == "stale: mode"


def test_an_error_outside_the_table_is_a_mistake() -> None:
    with pytest.raises(KeyError):
        EdgeError("oops")
