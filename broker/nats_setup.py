# What a cluster must hold before a node may use it: the streams of logs and offers, the buckets of leases and of what
# nodes keep, and the bucket EDGE with what all agree on. It owns nothing. It makes what is missing, and must never
# change what is there: a difference is told, in one line.

import contextlib
import json
from base64 import b64decode
from typing import Any

from broker.base import BATCH_BYTES, OFFER_BYTES, TAIL_BATCHES, VALUE_BYTES, Misfit
from broker.nats_link import Link, Lost, NoResponders
from broker.nats_options import Options as Options
from broker.nats_options import parse as parse
from broker.subjects import BUCKET, LEASES, LOG_ALL, OUT_ALL, STATE, kv

API_S = 1.0
"""A stream without a leader answers nothing, and has one again after some seconds: asked again, it answers at once."""
MAKE_S = 5.0
NS = 1_000_000_000
NO_STREAM = 10059
NO_MESSAGE = 10037
WRONG_LAST = 10071
NAME_TAKEN = 10058
PAYLOAD_BYTES = OFFER_BYTES + BATCH_BYTES
"""The largest message, with room for what is around it."""
KEPT_BYTES = VALUE_BYTES + 1024
"""The largest message of what is kept: headers count."""
WATCHES = 10_000
"""Consumers of what is kept: some of each worker of each box."""
NO_JETSTREAM = (10076, 10039)


def log_config(options: Options, group: int) -> dict[str, Any]:
    return {
        "name": options.streams.log(group),
        "description": "the logs of edge's rooms",
        "subjects": options.streams.log_subjects(group, options.shards),
        "retention": "limits",
        "storage": "file",
        "discard": "old",
        "max_msgs_per_subject": TAIL_BATCHES,
        "max_consumers": _consumers(options),
        "max_age": options.max_age_s * NS,
        "num_replicas": options.replicas,
        # Nothing is asked of a replica: it may not have what the leader has acknowledged.
        "allow_direct": False,
        "republish": {"src": LOG_ALL, "dest": OUT_ALL},
    }


def _consumers(options: Options) -> int:
    """One for each shard, and as many again while shards move; the server's own limit is 1,000, however many there
    are."""
    return max(1000, 4 * options.shards)


def offers_config(options: Options, group: int) -> dict[str, Any]:
    return {
        "name": options.streams.offers(group),
        "description": "what was offered to edge's shards and is in no log yet",
        "subjects": options.streams.offer_subjects(group, options.shards),
        "retention": "limits",
        "storage": "file",
        "discard": "new",  # where an operator has set a bound: who offers is told, and nothing stored is dropped
        "max_consumers": _consumers(options),
        "max_age": options.in_age_s * NS,
        "duplicate_window": NS,  # offers bear no ids, so there is nothing to remember
        "num_replicas": options.replicas,
        "allow_direct": False,
    }


def bucket_config(options: Options, bucket: str) -> dict[str, Any]:
    """As `nats kv` makes a bucket, so that it can be read with that."""
    abouts = {
        LEASES: "who writes edge's shards",
        STATE: "what edge's nodes keep: modes, bans, lists",
        BUCKET: "what all nodes of edge agree on",
    }
    own = {"allow_msg_ttl": True, "max_msg_size": KEPT_BYTES, "max_consumers": WATCHES} if bucket == STATE else {}
    return {
        "name": f"KV_{bucket}",
        "description": abouts[bucket],
        "subjects": [kv(bucket, ">")],
        "retention": "limits",
        "storage": "file",
        "discard": "new",
        "max_msgs_per_subject": 1,
        "max_age": options.lease_ttl_s * NS if bucket == LEASES else 0,
        "num_replicas": options.replicas,
        "allow_rollup_hdrs": True,
        "deny_delete": True,
        "allow_direct": True,
        **own,
    }


async def ensure(link: Link, options: Options) -> None:
    """Misfit where the cluster can't be used as it is. Lost, Down, NoResponders: it could not be seen; try again."""
    if 0 < link.max_payload < PAYLOAD_BYTES:
        raise Misfit(f"NATS: max_payload is {link.max_payload}, and edge sends up to {PAYLOAD_BYTES}: set it to more")
    await _check_jetstream(link)
    await _ensure_bucket(link, options, BUCKET)
    await _agree(link, options)
    await _ensure_bucket(link, options, LEASES)
    await _ensure_bucket(link, options, STATE)
    for group in range(options.groups):
        await _ensure_log(link, options, group)
        await _ensure_offers(link, options, group)


async def api(link: Link, verb: str, body: dict[str, Any] | None = None, timeout_s: float = API_S) -> dict[str, Any]:
    """The answer of JetStream, an error among them."""
    msg = await link.request(f"{link.api}.{verb}", json.dumps(body).encode() if body else b"", timeout_s)
    found: dict[str, Any] = json.loads(msg.data)
    return found


def error_of(answer: dict[str, Any]) -> int:
    """The code of its error, 0 where it is none."""
    error = answer.get("error")
    return int(error.get("err_code") or error.get("code") or 1) if error else 0


async def _check_jetstream(link: Link) -> None:
    domain = link.options.domain
    missing = Misfit("NATS: JetStream is not enabled for this account; set jetstream in the server's configuration")
    try:
        if error_of(await api(link, "INFO")) in NO_JETSTREAM:
            raise missing
    except NoResponders:
        if domain:  # a leaf node may not have its way to it yet
            raise Lost(f"nobody answers for the JetStream domain {domain}") from None
        raise missing from None


async def _ensure_bucket(link: Link, options: Options, bucket: str) -> None:
    wanted = bucket_config(options, bucket)
    found = await _find_or_make(link, wanted)
    what = f"bucket {bucket}"
    _compare(what, found, wanted, ("num_replicas", "subjects", "retention", "storage", "max_msgs_per_subject"))
    if found["max_age"] != wanted["max_age"]:
        raise _differs(what, "TTL in seconds", found["max_age"] / NS, wanted["max_age"] / NS)
    if bucket == STATE:  # what is removed leaves a marker for a while, which needs a server that forgets it: from 2.11
        if not found.get("allow_msg_ttl"):
            raise _differs(what, "allow_msg_ttl", "false", "true")
        if 0 < found.get("max_msg_size", -1) < KEPT_BYTES:
            raise _differs(what, "max_msg_size", found["max_msg_size"], f"{KEPT_BYTES} or more")
    _plain(what, found)


async def _agree(link: Link, options: Options) -> None:
    """The numbers that decide where a room is. The groups are written first and read last: where there are shards, the
    groups are there too."""
    shards = await _recorded(link, "shards")
    groups = await _recorded(link, "groups")
    if not groups:
        groups = await _record(link, "groups", 1 if shards else options.groups)
    if groups == str(options.groups) and not shards:
        shards = await _record(link, "shards", options.shards)
    for name, recorded, own in (("groups", groups, options.groups), ("shards", shards, options.shards)):
        if recorded and recorded != str(own):
            raise Misfit(
                f"NATS: this cluster has {recorded} {name}, and this node is set to {own}: set {name}={recorded}"
            )


async def _recorded(link: Link, key: str) -> str:
    answer = await api(link, f"STREAM.MSG.GET.KV_{BUCKET}", {"last_by_subj": kv(BUCKET, key)})
    if error_of(answer) == NO_MESSAGE:
        return ""
    if error_of(answer):
        raise _refused(f"bucket {BUCKET}", answer)
    return b64decode(answer["message"].get("data", "")).decode("utf-8", "replace")


async def _record(link: Link, key: str, own: int) -> str:
    """Two nodes may both have found nothing: one of them writes it, and both read what is there then."""
    only_first = {"Nats-Expected-Last-Subject-Sequence": "0"}
    written = await link.request(link.kv + kv(BUCKET, key), b"%d" % own, API_S, only_first)
    if error_of(refusal := json.loads(written.data)) not in (0, WRONG_LAST):
        raise _refused(f"bucket {BUCKET}", refusal)
    recorded = await _recorded(link, key)
    if not recorded:
        raise Lost()
    return recorded


async def _ensure_log(link: Link, options: Options, group: int) -> None:
    wanted = log_config(options, group)
    found = await _find_or_make(link, wanted)
    what = f"stream {wanted['name']}"
    _compare(what, found, wanted, ("retention", "storage", "discard", "num_replicas", "allow_direct", "subjects"))
    if found["max_age"] != wanted["max_age"]:
        raise _differs(what, "max_age in seconds", found["max_age"] / NS, options.max_age_s)
    if 0 < found["max_msgs_per_subject"] < TAIL_BATCHES:
        raise _differs(what, "max_msgs_per_subject", found["max_msgs_per_subject"], f"{TAIL_BATCHES} or more")
    republish = {name: value for name, value in (found.get("republish") or {}).items() if value}
    if republish != wanted["republish"]:
        raise _differs(what, "republish", republish or "none", wanted["republish"])
    _plain(what, found)


async def _ensure_offers(link: Link, options: Options, group: int) -> None:
    wanted = offers_config(options, group)
    found = await _find_or_make(link, wanted)
    what = f"stream {wanted['name']}"
    _compare(what, found, wanted, ("retention", "storage", "discard", "num_replicas", "allow_direct", "subjects"))
    if found["max_age"] != wanted["max_age"]:
        raise _differs(what, "in_age in seconds", found["max_age"] / NS, options.in_age_s)
    if found.get("max_msgs_per_subject", -1) > 0:
        raise _differs(what, "max_msgs_per_subject", found["max_msgs_per_subject"], "none")
    for name in ("republish", "deny_purge"):
        if found.get(name):
            raise _differs(what, name, found[name], "none")
    _plain(what, found)


def _compare(what: str, found: dict[str, Any], wanted: dict[str, Any], names: tuple[str, ...]) -> None:
    for name in names:
        if name == "subjects" and sorted(found.get(name) or []) == sorted(wanted[name]):
            continue
        if found.get(name) != wanted[name]:
            there, here = found.get(name), wanted[name]
            if name == "subjects":
                there, here = _few(there or []), _few(here)
            raise _differs(what, "replicas" if name == "num_replicas" else name, there, here)


def _few(subjects: list[str]) -> str:
    """Of a long list, its beginning: the refusal is one line."""
    return ", ".join(subjects[:3]) + (f" and {len(subjects) - 3} more" if len(subjects) > 3 else "")


def _plain(what: str, found: dict[str, Any]) -> None:
    """Nothing that would change what is stored, or where it comes from."""
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
        answer = await api(link, f"STREAM.CREATE.{name}", wanted, MAKE_S)
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
    there, here = (int(it) if isinstance(it, float) and it.is_integer() else it for it in (there, here))
    return Misfit(f"NATS: {what}: {name} is {there}, and this node is set to {here}")
