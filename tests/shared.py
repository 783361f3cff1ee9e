"""Fixtures: one server for the tests that need no settings of their own, and a room for each test."""

import secrets
from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio

from tests.server import Server, no_complaints
from tests.viewers import Publisher, publisher


@pytest.fixture(scope="session")
def shared() -> Iterator[Server]:
    with Server() as server:
        yield server
        server.await_empty()


@pytest.fixture
def server(shared: Server) -> Iterator[Server]:
    with no_complaints(shared):
        yield shared


@pytest.fixture
def room() -> str:
    return "r" + secrets.token_hex(6)


@pytest_asyncio.fixture
async def say(server: Server, room: str) -> AsyncIterator[Publisher]:
    async with publisher(server, room) as made:
        yield made
