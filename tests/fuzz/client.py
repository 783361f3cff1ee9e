"""The small parts of the engine's fuzz target: a script read byte by byte, and a client that notes all it has done."""

import socket
import struct

LINGER_NONE = struct.pack("ii", 1, 0)


class Script:
    """The input, read from its front; past its end everything is zero."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, size: int) -> bytes:
        self.at += size
        return self.data[self.at - size : self.at]

    def byte(self) -> int:
        taken = self.take(1)
        return taken[0] if taken else 0

    def __bool__(self) -> bool:
        return self.at < len(self.data)


class Client:
    def __init__(self, serial: int, address: tuple[str, int], tiny: bool) -> None:
        self.serial = serial
        self.sock = socket.socket()
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # else small pieces wait for 40 ms
        if tiny:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        self.sock.connect(address)
        self.sock.setblocking(False)
        self.sent = 0
        self.room = b""  # of a stream whose request is the first that was sent
        self.must_only = self.hidden = False  # either way it is to get no chat
        self.frames: bytearray | None = None  # what was sent behind the upgrade
        self.deflate = False
        self.received = b""
        self.told: list[tuple[int, bytes]] = []  # its messages, as the program above heard of them
        self.cut = False  # the program above ended it
        self.ended = self.gone = self.reset = False  # by the server; by itself, one way or both; hard

    def send(self, data: bytes) -> int:
        try:
            size = self.sock.send(data) if data else 0
        except OSError:
            return 0
        self.sent += size
        if self.frames is not None:
            self.frames += data[:size]
        return size

    def read(self) -> bool:
        """Whether there was anything."""
        if self.reset or self.ended:
            return False
        try:
            data = self.sock.recv(1 << 20)
        except BlockingIOError:
            return False
        except OSError:
            data, self.reset = b"", True
        self.received += data
        self.ended = not data
        return True

    def close(self, hard: bool) -> None:
        if hard:
            self.reset = True
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_NONE)
        self.gone = True
        self.sock.close()
