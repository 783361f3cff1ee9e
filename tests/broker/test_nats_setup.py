# How a node gets to NATS and what it must find there: urls, ways to log in, TLS, domains, groups of shards, settings
# that differ. Against real nats-server processes, but for what those never do at will.

import asyncio
import contextlib
import json
import traceback
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import nats as nats_py
import pytest
from nats.js.api import StreamConfig
from nats.js.errors import NotFoundError

import broker
from broker.access import NO_ACCESS, Access
from broker.base import CHAT, MUST, Kind, Misfit, Unavailable
from broker.nats import NatsBroker
from broker.nats_options import Options, parse
from broker.subjects import Streams, put, room_of, shard_of, token
from tests.broker.boxes import Viewer, empty, fill, until
from tests.broker.gate import gate_to
from tests.broker.nats_keys import Operator, certificates, tls_settings
from tests.broker.nats_server import NatsServer, free_port, nats_server

PASSWORD = "hunter2"


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return certificates(tmp_path_factory.mktemp("keys"))


@contextlib.asynccontextmanager
async def broker_at(where: str | Options, access: Access = NO_ACCESS, wait_s: float = 5.0) -> AsyncIterator[NatsBroker]:
    made = NatsBroker(where, wait_s, access)
    try:
        yield made
    finally:
        async with asyncio.timeout(5):
            await made.close()


async def refusal(url: str, access: Access = NO_ACCESS) -> str:
    """The one line that every call ends with, within a second or two."""
    async with broker_at(url, access, 30.0) as worker, asyncio.timeout(10):
        found = set()
        for call in (worker.head("r", MUST), worker.append("r", CHAT, b"", 0), worker.subscribe("r", Viewer())):
            with pytest.raises(Misfit) as refused:
                await call
            found.add(str(refused.value))
        assert not worker.connected
    (line,) = found
    assert "\n" not in line
    assert PASSWORD not in line
    return line


async def works(url: str, access: Access = NO_ACCESS, rooms: tuple[str, ...] = ("r",)) -> None:
    async with broker_at(url, access) as one, broker_at(url, access) as other:
        for room in rooms:
            viewer = Viewer()
            await viewer.join(other, room)
            before = viewer.heads[CHAT]
            await fill(one, room, CHAT, [b"a", b"b"])
            await until(lambda viewer=viewer, before=before: viewer.heads[CHAT] == before + 2)  # type: ignore[misc]


@contextlib.asynccontextmanager
async def client_of(url: str) -> AsyncIterator[Any]:
    client = await nats_py.connect(url, allow_reconnect=False)
    try:
        yield client
    finally:
        await client.close()


def test_a_room_can_be_read_from_its_token() -> None:
    for room in ("match-7_a", "a.b *>=ü", "*", "=2E", "\r\n"):
        assert room_of(token(room)) == room
    for bad in ("a.b", "=2e", "=41", "=FF", "a b", "*", "ü"):
        with pytest.raises(ValueError, match=r"token|decode"):
            room_of(bad)
    assert put("score", "*") == "edge.put.score.=2A"
    assert put("score") == "edge.put.score.*"


def test_each_shard_is_in_one_stream() -> None:
    assert (Streams(1).logs(), Streams(1).all_offers()) == (["EDGE_LOG"], ["EDGE_IN"])
    assert (Streams(1).log_subjects(0, 8), Streams(1).offer_subjects(0, 8)) == (["edge.log.>"], ["edge.in.*"])
    four = Streams(4)
    assert four.logs() == ["EDGE_LOG_0", "EDGE_LOG_1", "EDGE_LOG_2", "EDGE_LOG_3"]
    for group in range(4):
        assert four.log_subjects(group, 9) == [f"edge.log.{it}.>" for it in range(9) if four.log(it)[-1] == str(group)]
        assert four.offer_subjects(group, 9) == [
            f"edge.in.{it}" for it in range(9) if four.offers(it)[-1] == str(group)
        ]


@pytest.mark.parametrize(
    "url, words",
    [
        ("nats://a:1?groups=65", "groups is a number from 1 to 64, not '65'"),
        ("nats://a:1?groups=4&shards=2", "4 groups of 2 shards"),
        ("nats://a:1?lease=0", "lease is a number from 1 to 3600"),
        ("nats://a:1?in_age=" + "9" * 5000, "in_age is a number"),
        ("nats://a:1?domain=a.b", "domain is letters, digits, - and _, not 'a.b'"),
        ("tls://a", "'a' is no HOST:PORT"),
        ("nats://a:1,ftp://b:2", "write nats://"),
        ("nats:a:1", "write nats://"),
        ("nats://a:1?in_aeg=7", "unknown option 'in_aeg'; known are shards"),
    ],
)
def test_a_bad_url_is_told(url: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        broker.open(url)


@pytest.mark.parametrize(
    "url",
    [
        f"nats://me:{PASSWORD}@host",
        f"nats://me:{PASSWORD}?@host:1",
        f"nats://me:@/{PASSWORD}?x@host:1",
        f"nats://{PASSWORD}@host:0",
        f"nats://me:{PASSWORD}@a:1,nats://me:{PASSWORD}@b:1",
        f"nats://me:x@y@a:1,{PASSWORD}",
        f"nats://me@a:1?domain={PASSWORD}.x",
        f"nats://me:a?shards={PASSWORD}@a:1",
        f"nats://me@a:1?{PASSWORD}=1",
        f"nats://me@a:1?shards={PASSWORD}",
        f"nats:/me:{PASSWORD}@a:1",
        f"ntas://me:{PASSWORD}@a:1",
        f"{PASSWORD}:me@a:1",
        f"memory:me:{PASSWORD}@a:1",
    ],
)
def test_no_refusal_shows_a_password(url: str) -> None:
    with pytest.raises(ValueError, match="broker") as refused:
        broker.open(url)
    assert PASSWORD not in "".join(traceback.format_exception(refused.value, chain=True)).replace(url, "")


def test_a_url_and_the_settings_together(monkeypatch: pytest.MonkeyPatch) -> None:
    found = parse(f"tls://me:{PASSWORD}@a:1,b:2?shards=8&groups=2&lease=3&in_age=60&domain=hub")
    assert (found.servers, found.tls) == (["tls://a:1", "tls://b:2"], True)
    assert (found.shards, found.groups, found.lease_ttl_s, found.in_age_s, found.domain) == (8, 2, 3, 60, "hub")
    assert parse("nats://a:1,tls://b:2").servers == ["tls://a:1", "tls://b:2"]
    assert [parse(url).tls for url in ("nats://a:1", "nats://a:1,tls://b:2")] == [False, True]
    assert parse("nats://a:1", Access(tls_ca="ca")).tls
    access = Access(creds="/etc/me.creds", tls_cert="cert", tls_key="/etc/me.key")
    assert "/etc/me" not in repr(access)
    monkeypatch.setenv("NATS_PASSWORD", PASSWORD)
    assert parse("nats://a:1", access).credentials == {}
    assert PASSWORD not in repr(parse("nats://a:1"))
    assert PASSWORD not in repr(found)
    with pytest.raises(ValueError, match=r"a login in the url and a \.creds file"):
        parse("nats://me:x@a:1", access)
    with pytest.raises(ValueError, match="a TLS certificate and its key are given together"):
        broker.open("nats://a:1", Access(tls_cert="cert"))


async def test_user_password_and_token(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    users = 'authorization { users: [ { user: "edge", password: "right" } ] }'
    with nats_server(tmp_path, "users", settings=users) as server:
        await works(f"nats://edge:right@{server.address}")
        line = await refusal(f"nats://edge:{PASSWORD}@{server.address}")
        assert line == f"NATS at {server.address}: Authorization Violation; check user and password, or the token"
        assert await refusal(server.url) == line
    with nats_server(tmp_path, "token", settings='authorization { token: "right" }') as server:
        await works(f"nats://right@{server.address}")
        assert "check user and password, or the token" in await refusal(f"nats://{PASSWORD}@{server.address}")
    assert PASSWORD not in caplog.text
    assert len(caplog.records) == 3, "one line for each refusal"


async def test_a_creds_file(tmp_path: Path) -> None:
    pytest.importorskip("nkeys", reason="a .creds file takes the package nkeys")
    operator = Operator()
    with nats_server(tmp_path, settings=operator.settings) as server:
        own = operator.creds(tmp_path / "own.creds")
        await works(server.url, Access(creds=str(own)))
        stranger = Operator().creds(tmp_path / "stranger.creds")
        line = await refusal(server.url, Access(creds=str(stranger)))
        assert line == f"NATS at {server.address}: Authorization Violation; check the .creds file"
        nowhere = tmp_path / "nowhere.creds"
        line = await refusal(server.url, Access(creds=str(nowhere)))
        assert line == f"NATS: credentials file {nowhere}: No such file or directory"
        assert "Is a directory" in await refusal(server.url, Access(creds=str(tmp_path)))
        text = own.read_text()
        seed = text.split("SEED-----\n")[1].split("\n")[0]
        for wrong in ("", text.replace("USER JWT", "x"), text.replace(seed, seed[:20]), text.replace(seed, "SU" * 29)):
            bad = tmp_path / "bad.creds"
            bad.write_text(wrong)
            line = await refusal(server.url, Access(creds=str(bad)))
            assert line == f"NATS: credentials file {bad} holds no user's JWT and seed"


async def test_creds_are_read_again_for_each_connection(tmp_path: Path) -> None:
    pytest.importorskip("nkeys", reason="a .creds file takes the package nkeys")
    operator = Operator()
    with nats_server(tmp_path, settings=operator.settings) as server:
        path = operator.creds(tmp_path / "own.creds")
        async with gate_to(server.port) as gate, broker_at(gate.url, Access(creds=str(path))) as worker:
            await worker.head("r", CHAT)
            path.unlink()
            await gate.cut()
            await gate.open()
            await until(lambda: "No such file" in worker.way.reads.trouble)
            with pytest.raises(Unavailable, match="No such file"):
                await NatsBroker.head(_impatient(worker), "r", CHAT)
            operator.creds(path)
            await until(lambda: worker.connected)
            assert await worker.head("r", CHAT) == 0


def _impatient(worker: NatsBroker) -> NatsBroker:
    worker.way.wait_s = 0.1
    return worker


async def test_tls(tmp_path: Path, keys: Path) -> None:
    def files(**named: str) -> Access:
        return Access(**{name: str(keys / path) for name, path in named.items()})

    own = files(tls_ca="ca.pem")
    with nats_server(tmp_path, "tls", settings=tls_settings(keys)) as server:
        await works(server.url, own)
        await works(f"tls://{server.address}", own)
        for url, access in ((server.url, NO_ACCESS), (f"tls://{server.address}", files(tls_ca="stranger.pem"))):
            line = await refusal(url, access)
            assert line.startswith(
                f"NATS at {server.address}: unable to get local issuer certificate; check the TLS CA"
            )
        assert await refusal(server.url, files(tls_ca="no.pem")) == (
            f"NATS: TLS CA file {keys}/no.pem: No such file or directory"
        )
        assert "ca.key holds no certificate in PEM" in await refusal(server.url, files(tls_ca="ca.key"))
        mixed = files(tls_ca="ca.pem", tls_cert="client.pem", tls_key="server.key")
        assert "client.pem and its key do not go together" in await refusal(server.url, mixed)
    with nats_server(tmp_path, "both", settings=tls_settings(keys, "verify: true")) as server:
        await works(server.url, files(tls_ca="ca.pem", tls_cert="client.pem", tls_key="client.key"))
        assert "check the TLS certificate and its key" in await refusal(server.url, own)
        stranger = files(tls_ca="ca.pem", tls_cert="stranger.pem", tls_key="stranger.key")
        assert "check the TLS certificate and its key" in await refusal(server.url, stranger)


async def test_tls_is_used_where_it_is_asked_for(tmp_path: Path, keys: Path) -> None:
    own = Access(tls_ca=str(keys / "ca.pem"))
    monitor = free_port()
    settings = f"{tls_settings(keys)}allow_non_tls: true\nhttp: {monitor}"
    with nats_server(tmp_path, settings=settings) as server:
        async with broker_at(server.url) as plain, broker_at(f"tls://{server.address}", own) as safe:
            await plain.head("r", CHAT)
            await safe.head("r", CHAT)
            _, found = await _get(monitor, "/connz")
            versions = [it.get("tls_version", "") for it in json.loads(found)["connections"]]
        assert sorted(bool(it) for it in versions) == [False] * 3 + [True] * 3


async def _get(port: int, path: str) -> tuple[bytes, bytes]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET {path} HTTP/1.0\r\n\r\n".encode())
    head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    return head, body


@contextlib.asynccontextmanager
async def pretender(talk: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Any], info: str) -> AsyncIterator[int]:
    """A server that says INFO and leaves the rest to `talk`, which returns when it has ended the connection."""

    async def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(f"INFO {info}\r\n".encode())
        with contextlib.suppress(OSError):
            await talk(reader, writer)
        writer.close()

    server = await asyncio.start_server(accepted, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def test_no_password_is_sent_in_the_clear_where_tls_was_asked_for() -> None:
    heard = b""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal heard
        heard += await reader.read(65536)

    async with pretender(talk, '{"max_payload": 1048576, "auth_required": true}') as port:
        line = await refusal(f"tls://me:{PASSWORD}@127.0.0.1:{port}")
        assert line == f"NATS at 127.0.0.1:{port}: the server offers no TLS, and this node is set to it"
    assert heard == b""


async def test_a_refusal_that_is_lost_to_a_reset_is_asked_for_again() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        login = json.loads((await reader.readline()).removeprefix(b"CONNECT "))
        if login["verbose"]:
            assert not reader._buffer  # type: ignore[attr-defined]
            writer.write(b"-ERR 'Authorization Violation'\r\n")
            await writer.drain()
        else:
            writer.transport.abort()

    async with pretender(talk, '{"max_payload": 1048576, "auth_required": true}') as port:
        async with asyncio.timeout(3):
            line = await refusal(f"nats://me:{PASSWORD}@127.0.0.1:{port}")
        assert line.startswith(f"NATS at 127.0.0.1:{port}: Authorization Violation")


async def test_a_break_at_the_login_is_no_refusal(nats: NatsServer) -> None:
    async with gate_to(nats.port) as gate:
        gate.up.clear()
        async with broker_at(gate.url, wait_s=8.0) as worker:
            call = asyncio.ensure_future(worker.head("r", CHAT))
            for _ in range(3):
                await until(lambda: len(gate._writers) >= 6)
                await gate.cut()
                await gate.open()
            gate.up.set()
            await call
            assert all(not link._client.options["verbose"] for link in worker.way.links if link._client)


async def test_what_is_made(nats: NatsServer) -> None:
    await empty(nats.url)
    async with client_of(nats.url) as client:
        for url, logs, offers in (
            (f"{nats.url}?lease=3&in_age=60", ["EDGE_LOG"], ["EDGE_IN"]),
            (f"{nats.url}?groups=4&shards=8", Streams(4).logs(), Streams(4).all_offers()),
        ):
            await empty(nats.url)
            await asyncio.gather(*(works(url, rooms=(room,)) for room in ("a", "b", "c")))
            found = {it.config.name: it.config for it in await client.jetstream().streams_info()}
            assert sorted(found) == sorted([*logs, *offers, "KV_EDGE", "KV_EDGE_LEASES", "KV_EDGE_STATE"])
            for name in offers:
                config = found[name]
                assert (config.discard, config.storage, config.retention) == ("new", "file", "limits")
                assert (config.max_age, config.duplicate_window) == (60 if "in_age" in url else 3600, 1)
                assert (config.republish, config.allow_direct) == (None, False)
            for name in logs:
                assert found[name].republish is not None
            assert (found["KV_EDGE_LEASES"].max_age, found["KV_EDGE_LEASES"].max_msgs_per_subject) == (
                3 if "lease" in url else 15,
                1,
            )
        bucket = await client.jetstream().key_value("EDGE")
        assert [(await bucket.get(key)).value for key in ("shards", "groups")] == [b"8", b"4"]
        assert found["EDGE_LOG_1"].subjects == ["edge.log.1.>", "edge.log.5.>"]
        assert found["EDGE_IN_1"].subjects == ["edge.in.1", "edge.in.5"]
    await empty(nats.url)


async def test_groups_share_the_work(nats: NatsServer) -> None:
    await empty(nats.url)
    rooms = tuple({shard_of(f"r{i}", 256) % 4: f"r{i}" for i in range(50)}.values())
    assert len(rooms) == 4
    await works(f"{nats.url}?groups=4", rooms=rooms)
    async with client_of(nats.url) as client:
        for stream in Streams(4).logs():
            assert (await client.jetstream().stream_info(stream)).state.messages >= 3
    await empty(nats.url)


async def test_numbers_that_decide_where_a_room_is_are_agreed_on(nats: NatsServer) -> None:
    await empty(nats.url)
    await works(f"{nats.url}?groups=2&shards=8")
    assert await refusal(f"{nats.url}?shards=8") == (
        "NATS: this cluster has 2 groups, and this node is set to 1: set groups=2"
    )
    assert await refusal(f"{nats.url}?groups=2") == (
        "NATS: this cluster has 8 shards, and this node is set to 256: set shards=8"
    )
    async with client_of(nats.url) as client:
        with pytest.raises(NotFoundError):
            await client.jetstream().stream_info("EDGE_LOG")
        bucket = await client.jetstream().key_value("EDGE")
        await bucket.delete("groups")
        await bucket.purge("groups")
    await empty(nats.url)


async def test_a_cluster_from_before_there_were_groups_has_one(nats: NatsServer) -> None:
    await empty(nats.url)
    async with client_of(nats.url) as client:
        await works(nats.url)
        await client.jetstream().purge_stream("KV_EDGE", subject="$KV.EDGE.groups")
        assert await refusal(f"{nats.url}?groups=4") == (
            "NATS: this cluster has 1 groups, and this node is set to 4: set groups=1"
        )
        await works(nats.url)
    await empty(nats.url)


async def test_other_settings_are_told_and_left_as_they_are(nats: NatsServer) -> None:
    await empty(nats.url)
    await works(f"{nats.url}?groups=2&shards=4")
    url = f"{nats.url}?groups=2&shards=4"

    async with client_of(nats.url) as client:
        stream = client.jetstream()

        async def changed(name: str, **fields: Any) -> StreamConfig:
            config = (await stream.stream_info(name)).config
            before = {field: getattr(config, field) for field in fields}
            await stream.update_stream(config.evolve(**fields))
            line = await refusal(url)
            left = (await stream.stream_info(name)).config
            assert all(getattr(left, field) == value for field, value in fields.items())
            lines.append(line)
            await stream.update_stream(left.evolve(**before))
            return left

        lines: list[str] = []
        await changed("EDGE_LOG_1", max_age=600.0)
        await changed("EDGE_IN_1", max_age=60.0)
        await changed("EDGE_IN_0", subjects=["edge.in.0"])
        await changed("EDGE_IN_0", discard="old")
        await changed("EDGE_IN_0", max_msgs_per_subject=5)
        await changed("EDGE_LOG_0", max_msgs_per_subject=5)
        await changed("KV_EDGE_LEASES", max_age=60.0)
        await changed("KV_EDGE_LEASES", max_msgs_per_subject=2)
        assert lines == [
            "NATS: stream EDGE_LOG_1: max_age in seconds is 600, and this node is set to 259200",
            "NATS: stream EDGE_IN_1: in_age in seconds is 60, and this node is set to 3600",
            "NATS: stream EDGE_IN_0: subjects is edge.in.0, and this node is set to edge.in.0, edge.in.2",
            "NATS: stream EDGE_IN_0: discard is old, and this node is set to new",
            "NATS: stream EDGE_IN_0: max_msgs_per_subject is 5, and this node is set to none",
            "NATS: stream EDGE_LOG_0: max_msgs_per_subject is 5, and this node is set to 4096 or more",
            "NATS: bucket EDGE_LEASES: TTL in seconds is 60, and this node is set to 15",
            "NATS: bucket EDGE_LEASES: max_msgs_per_subject is 2, and this node is set to 1",
        ]
        assert await refusal(f"{url}&lease=3") == (
            "NATS: bucket EDGE_LEASES: TTL in seconds is 15, and this node is set to 3"
        )
        assert "replicas is 1, and this node is set to 3" in await refusal(f"{url}&replicas=3")
        await works(url)
    await empty(nats.url)


async def test_a_server_that_takes_too_little(tmp_path: Path) -> None:
    with nats_server(tmp_path, settings="max_payload: 100000") as server:
        assert await refusal(server.url) == ("NATS: max_payload is 100000, and edge sends up to 327680: set it to more")


async def test_no_jetstream(tmp_path: Path) -> None:
    with nats_server(tmp_path, jetstream=False) as server:
        assert "JetStream is not enabled for this account" in await refusal(server.url)


async def test_a_domain(tmp_path: Path) -> None:
    with nats_server(tmp_path, domain="hub") as server:
        await works(server.url)
        await works(f"{server.url}?domain=hub")
        async with broker_at(f"{server.url}?domain=other", wait_s=1.0) as worker:
            with pytest.raises(Unavailable, match="nobody answers for the JetStream domain other"):
                await worker.head("r", CHAT)


@pytest.mark.parametrize("own", ["", "leaf"], ids=["a leaf without JetStream", "a leaf with a domain of its own"])
async def test_through_a_leaf_node(tmp_path: Path, own: str) -> None:
    port = free_port()
    with nats_server(tmp_path, "hub", settings=f'leafnodes {{ listen: "127.0.0.1:{port}" }}', domain="hub") as hub:
        to_hub = f'leafnodes {{ remotes: [ {{ url: "nats://127.0.0.1:{port}" }} ] }}'
        with nats_server(tmp_path, "leaf", settings=to_hub, jetstream=bool(own), domain=own) as leaf:
            async with broker_at(f"{leaf.url}?domain=hub", wait_s=15) as far, broker_at(hub.url) as near:
                viewer = Viewer()
                async with asyncio.timeout(15):
                    await far.head("r", CHAT)
                    await viewer.join(far, "r")
                    await fill(near, "r", CHAT, [b"a"])
                    await until(lambda: viewer.heads[CHAT] == 1)
                    assert await far.append("r", CHAT, b"b", 1) == (Kind.STORED, 2, 0)
                    await until(lambda: viewer.heads[CHAT] == 2)
                    lease = await far.lease(3)
                    assert lease is not None
                    assert await lease.renew()
                    assert await near.lease(3) is None
                    await lease.release()
            async with client_of(hub.url) as client:
                assert (await client.jetstream().stream_info("EDGE_LOG")).state.messages >= 3
