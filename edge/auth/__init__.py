# Who is speaking: tokens (JWT), the keys that they are verified with, and the identities that they become.
from edge.auth.identity import SCOPES, Identity, check_name, dev, spoken_for
from edge.auth.tokens import LEEWAY_S, KeyComing, Tokens

__all__ = ["LEEWAY_S", "SCOPES", "Identity", "KeyComing", "Tokens", "check_name", "dev", "spoken_for"]
