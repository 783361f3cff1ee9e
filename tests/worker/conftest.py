from tests.shared import room, say, server, shared

__all__ = ["room", "say", "server", "shared"]
