# Every test of the broker runs on asyncio's own loop and on the workers' one: transports differ in what they buffer. A
# slow test on the workers' one alone.

import asyncio
from collections.abc import Callable, Iterator, Mapping

import pytest
import uvloop

from tests.broker.nats_server import NatsServer, nats_server


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    if item.get_closest_marker("slow"):
        return {"uvloop": uvloop.new_event_loop}
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


@pytest.fixture(scope="session")
def nats(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    """One for all tests that neither stop it nor mind what others have left: each empties it first."""
    with nats_server(tmp_path_factory.mktemp("nats")) as server:
        yield server
