"""What a route reads of an address, without a server."""

import pytest
from aiohttp.test_utils import make_mocked_request

from edge.api.moderation import LIMIT, LIMIT_MOST, _limit
from edge.errors import EdgeError


@pytest.mark.parametrize(
    "query, limit", [("", LIMIT), ("?limit=1", 1), ("?limit=007", 7), (f"?limit={LIMIT_MOST}", 500)]
)
def test_a_limit(query: str, limit: int) -> None:
    assert _limit(make_mocked_request("GET", f"/v1/audit{query}")) == limit


def test_a_limit_of_any_length_is_refused_by_name() -> None:
    with pytest.raises(EdgeError, match="bad_request"):
        _limit(make_mocked_request("GET", f"/v1/audit?limit={'9' * 5000}"))
