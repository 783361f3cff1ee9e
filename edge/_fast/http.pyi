# What Python may call of the head parser: wrappers for tests. None: more is needed; int: the status it is refused with.
from typing import Any

def parse_head_at(address: int, length: int) -> dict[str, Any] | int | None: ...
def parse_head(data: bytes) -> dict[str, Any] | int | None: ...
def refusal_at(
    address: int,
    cap: int,
    status: int,
    error: bytes | None = None,
    message: bytes | None = None,
    retry_after: int = 0,
    origin: bytes = b"*",
) -> int: ...
def bench_parse(data: bytes, rounds: int) -> float: ...
