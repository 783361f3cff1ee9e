# What a cluster must hold before a node may use it: the stream EDGE_LOG, the bucket EDGE with the number of shards. It
# owns nothing. It makes what is missing, and must never change what is there: a difference is told, in one line.

import contextlib
import json
import os
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, quote, unquote

from broker.base import TAIL_BATCHES, Misfit
from broker.nats_link import Link, Lost, NoResponders
from broker.subjects import BUCKET, LOG_ALL, OUT_ALL, SHARDS, STREAM

API_S = 5.0
MAX_AGE_S = 3 * 24 * 3600
NS = 1_000_000_000
FORM = "nats://[USER:PASSWORD@]HOST:PORT[,HOST:PORT...][?shards=N&replicas=N&max_age=SECONDS]"

NO_STREAM = 10059
NO_MESSAGE = 10037
WRONG_LAST = 10071
NAME_TAKEN = 10058
NO_JETSTREAM = (10076, 10039)


@dataclass(frozen=True, slots=True)
class Options:
    """What the url and the environment say."""

    servers: list[str]
    credentials: dict[str, str] = field(default_factory=dict, repr=False)
    shards: int = SHARDS
    replicas: int = 1
    max_age_s: int = MAX_AGE_S


def parse(url: str) -> Options:
    """ValueError says what is wrong. What the url does not say of user, password and token is taken from NATS_USER,
    NATS_PASSWORD and NATS_TOKEN, which belong to no file and no list of processes."""
    rest, _, query = url.removeprefix("nats://").partition("?")
    login, _, hosts = rest.rpartition("@")
    servers = [f"nats://{_host(part)}" for part in hosts.split(",")]
    given: dict[str, int] = {}
    for name, text in parse_qsl(query, keep_blank_values=True):
        low, high = {"shards": (1, 65536), "replicas": (1, 5), "max_age": (10, 10**9)}.get(name, (0, 0))
        if not high:
            raise ValueError(f"broker url: unknown option {name!r}; write {FORM}")
        if not text.isascii() or not text.isdigit() or not low <= int(text) <= high:
            raise ValueError(f"broker url: {name} is a number from {low} to {high}, not {text!r}")
        given[name] = int(text)
    return Options(
        servers,
        _credentials(login),
        given.get("shards", SHARDS),
        given.get("replicas", 1),
        given.get("max_age", MAX_AGE_S),
    )


def _host(text: str) -> str:
    host, _, port = text.rpartition(":")
    if not host or quote(host, safe=".:[]-_") != host or not port.isascii() or not port.isdigit():
        raise ValueError(f"broker url: {text!r} is no HOST:PORT; write {FORM}")
    if not 0 < int(port) < 65536:
        raise ValueError(f"broker url: {port} is no port")
    return text


def _credentials(login: str) -> dict[str, str]:
    if login:
        user, colon, password = login.partition(":")
        return {"user": unquote(user), "password": unquote(password)} if colon else {"token": unquote(user)}
    named = {"user": "NATS_USER", "password": "NATS_PASSWORD", "token": "NATS_TOKEN"}
    return {key: os.environ[name] for key, name in named.items() if os.environ.get(name)}


def stream_config(options: Options) -> dict[str, Any]:
    return {
        "name": STREAM,
        "description": "the logs of edge's rooms",
        "subjects": [LOG_ALL],
        "retention": "limits",
        "storage": "file",
        "discard": "old",
        "max_msgs_per_subject": TAIL_BATCHES,
        "max_age": options.max_age_s * NS,
        "num_replicas": options.replicas,
        # Nothing is asked of a replica: it may not have what the leader has acknowledged.
        "allow_direct": False,
        "republish": {"src": LOG_ALL, "dest": OUT_ALL},
    }


def bucket_config(options: Options) -> dict[str, Any]:
    """As `nats kv` makes a bucket, so that it can be read with that."""
    return {
        "name": f"KV_{BUCKET}",
        "description": "what all nodes of edge agree on",
        "subjects": [f"$KV.{BUCKET}.>"],
        "retention": "limits",
        "storage": "file",
        "discard": "new",
        "max_msgs_per_subject": 1,
        "num_replicas": options.replicas,
        "allow_rollup_hdrs": True,
        "deny_delete": True,
        "allow_direct": True,
    }


async def ensure(link: Link, options: Options) -> None:
    """Misfit where the cluster can't be used as it is. Lost, Down, NoResponders: it could not be seen; try again."""
    await _check_jetstream(link)
    await _ensure_bucket(link, options)
    await _ensure_stream(link, options)


async def api(link: Link, verb: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    """The answer of JetStream, an error among them."""
    msg = await link.request(f"$JS.API.{verb}", json.dumps(body).encode() if body else b"", API_S)
    found: dict[str, Any] = json.loads(msg.data)
    return found


def error_of(answer: dict[str, Any]) -> int:
    """The code of its error, 0 where it is none."""
    error = answer.get("error")
    return int(error.get("err_code") or error.get("code") or 1) if error else 0


async def _check_jetstream(link: Link) -> None:
    missing = Misfit("NATS: JetStream is not enabled for this account; set jetstream in the server's configuration")
    try:
        if error_of(await api(link, "INFO")) in NO_JETSTREAM:
            raise missing
    except NoResponders:
        raise missing from None


async def _ensure_bucket(link: Link, options: Options) -> None:
    found = await _find_or_make(link, bucket_config(options))
    if found["num_replicas"] != options.replicas:
        raise _differs(f"bucket {BUCKET}", "replicas", found["num_replicas"], options.replicas)
    for _ in range(2):
        answer = await api(link, f"STREAM.MSG.GET.KV_{BUCKET}", {"last_by_subj": f"$KV.{BUCKET}.shards"})
        if not error_of(answer):
            break
        if error_of(answer) != NO_MESSAGE:
            raise _refused(f"bucket {BUCKET}", answer)
        # Two nodes may both have found nothing: one of them writes it, and both read what is there then.
        only_first = {"Nats-Expected-Last-Subject-Sequence": "0"}
        written = await link.request(f"$KV.{BUCKET}.shards", b"%d" % options.shards, API_S, only_first)
        if error_of(refusal := json.loads(written.data)) not in (0, WRONG_LAST):
            raise _refused(f"bucket {BUCKET}", refusal)
    else:
        raise Lost()
    recorded = _decoded(answer)
    if recorded != str(options.shards):
        raise Misfit(
            f"NATS: this cluster has {recorded} shards, and this node is set to {options.shards}: set shards={recorded}"
        )


def _decoded(answer: dict[str, Any]) -> str:
    from base64 import b64decode

    return b64decode(answer["message"].get("data", "")).decode("utf-8", "replace")


async def _ensure_stream(link: Link, options: Options) -> None:
    wanted = stream_config(options)
    found = await _find_or_make(link, wanted)
    what = f"stream {STREAM}"
    for name in ("subjects", "retention", "storage", "discard", "num_replicas", "allow_direct"):
        if found.get(name) != wanted[name]:
            raise _differs(what, "replicas" if name == "num_replicas" else name, found.get(name), wanted[name])
    if found["max_age"] != wanted["max_age"]:
        raise _differs(what, "max_age in seconds", found["max_age"] / NS, options.max_age_s)
    if 0 < found["max_msgs_per_subject"] < TAIL_BATCHES:
        raise _differs(what, "max_msgs_per_subject", found["max_msgs_per_subject"], f"{TAIL_BATCHES} or more")
    republish = {name: value for name, value in (found.get("republish") or {}).items() if value}
    if republish != wanted["republish"]:
        raise _differs(what, "republish", republish or "none", wanted["republish"])
    for name in ("mirror", "sources", "sealed", "no_ack", "subject_transform"):
        if found.get(name):
            raise _differs(what, name, found[name], "none")


async def _find_or_make(link: Link, wanted: dict[str, Any]) -> dict[str, Any]:
    """The stream's settings as they are."""
    name = wanted["name"]
    for _ in range(2):
        answer = await api(link, f"STREAM.INFO.{name}")
        if not error_of(answer):
            break
        if error_of(answer) != NO_STREAM:
            raise _refused(f"stream {name}", answer)
        answer = await api(link, f"STREAM.CREATE.{name}", wanted)
        if not error_of(answer):
            break
        if error_of(answer) != NAME_TAKEN:  # by another node, just now
            raise _refused(f"stream {name}", answer)
    else:
        raise Lost()
    config: dict[str, Any] = answer["config"]
    return config


def _refused(what: str, answer: dict[str, Any]) -> Exception:
    """Some refusals pass: a cluster that has no leader yet, or not enough servers."""
    error = answer["error"]
    text = f"NATS: {what}: {error.get('description', 'refused')}"
    with contextlib.suppress(TypeError, ValueError):
        if int(error.get("code", 0)) >= 500:
            return Lost(text)
    return Misfit(text)


def _differs(what: str, name: str, there: object, here: object) -> Misfit:
    if isinstance(there, float) and there.is_integer():
        there = int(there)
    return Misfit(f"NATS: {what}: {name} is {there}, and this node is set to {here}")
