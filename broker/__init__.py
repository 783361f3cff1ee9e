"""What joins the workers of a box, and boxes. `open(url)` gives a Broker; broker.base is the contract."""

from broker.access import NO_ACCESS, Access
from broker.base import Broker

KNOWN = "memory:, local:PATH and nats://HOST:PORT"


def open(url: str, access: Access = NO_ACCESS, data: str = "") -> Broker:  # noqa: A001 - it is called as broker.open
    """The broker that `url` names: `memory:` (this process alone), `local:PATH` (a unix socket of this box),
    `nats://HOST:PORT[,HOST:PORT...]` or `tls://...` (any number of boxes; docs/broker.md has its options). `access` has
    the files that NATS may ask for; the others need none. `data` is the folder where `memory:` has what it keeps, which
    else goes with the process; the others have it where they are.

    Nothing is connected yet and nothing is read from the disk; a bad url is a ValueError that says what is wrong, but
    for what may be a password in it."""
    scheme, colon, rest = url.partition(":")
    if scheme == "memory" and colon and not rest:
        from broker.memory import MemoryBroker

        return MemoryBroker(data=data, shards=1)  # there is nobody to share them with
    if scheme == "local" and colon:
        from broker.local import LocalBroker

        return LocalBroker(rest)
    if scheme in ("nats", "tls") and colon:
        from broker.nats import NatsBroker

        return NatsBroker(url, access=access)
    shown = "" if "@" in url else f" {url!r}"
    if scheme in ("memory", "local", "nats", "tls"):
        raise ValueError(f"broker url{shown}: write {KNOWN}")
    unknown = "" if "@" in url else f" {scheme!r}"
    raise ValueError(f"broker url{shown}: unknown scheme{unknown}; known are {KNOWN}")
