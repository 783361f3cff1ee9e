"""What joins the workers of a box, and later boxes. `open(url)` gives a Broker; broker.base is the contract."""

from broker.base import Broker


def open(url: str) -> Broker:  # noqa: A001 - it is called as broker.open
    """The broker that `url` names: `memory:` (this process alone) or `local:PATH` (a unix socket of this box).

    Nothing is connected yet and nothing is read from the disk; a bad url is a ValueError that says what is wrong."""
    scheme, colon, rest = url.partition(":")
    if scheme == "memory" and colon and not rest:
        from broker.memory import MemoryBroker

        return MemoryBroker()
    if scheme == "local" and colon:
        from broker.local import LocalBroker

        return LocalBroker(rest)
    if scheme in ("memory", "local"):
        raise ValueError(f"broker url {url!r}: write memory: or local:PATH")
    raise ValueError(f"broker url {url!r}: unknown scheme {scheme!r}; known are memory: and local:PATH")
