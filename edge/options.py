# What the settings mean to the parts that a worker is put together from, in their own units. Pure, but for this
# process's descriptor limit, which it raises and reads, and the data folder, which it looks for.
import fcntl
import ipaddress
import os
import resource
import sys
from pathlib import Path

from broker.access import Access
from broker.state_file import LOCK
from edge.config import Comments, Config, Server
from edge.ingest.classifier import Classifier, Policy
from edge.ingest.limits import Rates

SPARE_DESCRIPTORS = 512  # for the broker, files, and HTTP requests that are not streams
MUST_RING = 64 * 1024
CHAT_RING = 256 * 1024
POLL_AGAIN_MS = 500
CLOSE_MS = 2000


def capacity(config: Config) -> int:
    """How many viewers this process may hold: as set, but never more than its descriptors allow."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    allowed = max(64, hard - SPARE_DESCRIPTORS)
    return min(config.limits.connections or allowed, allowed)


def engine_options(config: Config, anonymous: bool, group: bool) -> dict[str, int]:
    streams, limits = config.streams, config.limits
    return {
        "head_ms": streams.head_seconds * 1000,
        "ping_ms": streams.ping_seconds * 1000,
        "dead_ms": streams.dead_seconds * 1000,
        "blocked_ms": streams.blocked_seconds * 1000,
        "heartbeat_ms": streams.heartbeat_seconds * 1000,
        "poll_ms": streams.poll_seconds * 1000,
        "keepalive_ms": streams.keepalive_seconds * 1000,
        "close_ms": CLOSE_MS,
        "message_bytes": limits.message_bytes,
        "inflated_bytes": limits.inflated_bytes,
        "reply_bytes": limits.reply_bytes,
        "budget_bytes": limits.memory_mb << 20,
        "resume_bytes": limits.resume_bytes,
        "slice_us": streams.slice_us,
        "tick_us": streams.tick_us,
        "chat_missed": streams.chat_missed,
        "replay": streams.replay,
        "retry_ms": streams.retry_ms,
        "poll_again_ms": POLL_AGAIN_MS,
        "per_ip": limits.connections_per_ip,
        "must_ring": MUST_RING,
        "chat_ring": CHAT_RING,
        "anonymous": int(anonymous),
        "proxy": int(config.server.proxy_protocol),
        "hello": 1,
        "group": int(group),
    }


def access(config: Config) -> Access:
    found = config.broker
    return Access(found.creds, found.tls_ca, found.tls_cert, found.tls_key)


def data_folder(config: Config) -> str:
    """Where this box keeps its files, or nothing: in dev mode, where the usual place can't be had, it does without."""
    folder = config.server.data
    if not config.server.dev or folder != Server().data:
        return folder
    why = ""
    try:
        Path(folder).mkdir(mode=0o700, exist_ok=True)
        with Path(folder, LOCK).open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        why = "another server has it"
    except OSError as error:
        why = os.strerror(error.errno or 0)
    if why:
        print(f"edge: nothing is kept in the folder {folder}: {why}", file=sys.stderr, flush=True)
    return "" if why else folder


def classifier(config: Config) -> Classifier | None:
    it = config.moderation
    if not it.classifier_url:
        return None
    return Classifier(it.classifier_url, it.classifier_key, it.classifier_ms / 1000, policy=Policy(it.classifier_down))


def rates(config: Config) -> Rates:
    """What comments are measured by. In dev mode nothing is, but for what is set to something else than the default."""
    it, usual = config.comments, Comments()
    if config.server.dev:
        fields = {name: getattr(it, name) for name in it.__struct_fields__ if name != "carriers"}
        it = Comments(
            carriers=it.carriers,
            **{name: value if value != getattr(usual, name) else 0 for name, value in fields.items()},
        )
    return Rates(
        user=it.per_user,
        moderator=it.per_moderator,
        bot=it.per_bot,
        reactions=it.reactions_per_user,
        address=it.per_ip,
        carriers=it.carriers,
        room_per_s=it.per_room,
        all_per_s=it.per_box,
    )


def can_migrate() -> bool:
    """What waits at a listener that is shut goes to others of its port (net.ipv4.tcp_migrate_req), not to nowhere."""
    try:
        return Path("/proc/sys/net/ipv4/tcp_migrate_req").read_text().strip() == "1"
    except OSError:
        return False


def trusted_networks(networks: tuple[str, ...]) -> list[tuple[bytes, int]]:
    """As 16-byte addresses and prefix lengths; IPv4 is mapped into IPv6."""
    found = []
    for text in networks:
        network = ipaddress.ip_network(text, strict=False)
        if network.version == 4:
            found.append((bytes(10) + b"\xff\xff" + network.network_address.packed, network.prefixlen + 96))
        else:
            found.append((network.network_address.packed, network.prefixlen))
    return found
