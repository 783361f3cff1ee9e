"""What joins the workers of a box, and later boxes. `open(url)` gives a Broker; broker.base is the contract."""

from broker.base import Broker

KNOWN = "memory:, local:PATH and nats://HOST:PORT"


def open(url: str) -> Broker:  # noqa: A001 - it is called as broker.open
    """The broker that `url` names: `memory:` (this process alone), `local:PATH` (a unix socket of this box) or
    `nats://HOST:PORT[,HOST:PORT...]` (any number of boxes; docs/broker.md has its options).

    Nothing is connected yet and nothing is read from the disk; a bad url is a ValueError that says what is wrong."""
    scheme, colon, rest = url.partition(":")
    if scheme == "memory" and colon and not rest:
        from broker.memory import MemoryBroker

        return MemoryBroker()
    if scheme == "local" and colon:
        from broker.local import LocalBroker

        return LocalBroker(rest)
    if scheme == "nats" and colon:
        from broker.nats import NatsBroker

        return NatsBroker(url)
    if scheme in ("memory", "local", "nats"):
        raise ValueError(f"broker url {url!r}: write {KNOWN}")
    raise ValueError(f"broker url {url!r}: unknown scheme {scheme!r}; known are {KNOWN}")
