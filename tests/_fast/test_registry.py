"""Users and their sockets against a dictionary, through growth and deletions of the table."""

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from edge._fast.registry import RegistryProbe
from tests._fast.engine import bounded, nothing_kept

__all__ = ["nothing_kept"]

NAMES = [b"u%d" % i for i in range(20)]


class RegistryMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.registry = RegistryProbe(11)
        self.idents: dict[int, tuple[bytes, int, bytes]] = {}
        self.slot = 0

    @rule(name=st.sampled_from(NAMES), claims=st.binary(max_size=40))
    def add(self, name: bytes, claims: bytes) -> None:
        self.slot += 1
        ident = self.registry.add(self.slot, name, claims)
        assert ident not in self.idents
        self.idents[ident] = (name, self.slot, claims)

    @rule(data=st.data(), claims=st.binary(max_size=40))
    def renew(self, data: st.DataObject, claims: bytes) -> None:
        if self.idents:
            ident = data.draw(st.sampled_from(sorted(self.idents)))
            assert self.registry.renew(ident, claims) == 0
            self.idents[ident] = (*self.idents[ident][:2], claims)

    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        if self.idents:
            ident = data.draw(st.sampled_from(sorted(self.idents)))
            self.registry.remove(ident)
            del self.idents[ident]

    @rule()
    def look(self) -> None:
        assert self.registry.users() == len({name for name, _, _ in self.idents.values()})
        for name in NAMES:
            assert set(self.registry.slots_of(name)) == {slot for user, slot, _ in self.idents.values() if user == name}
        for ident, (_, _, claims) in self.idents.items():
            assert self.registry.claims(ident) == claims

    def teardown(self) -> None:
        for ident in self.idents:
            self.registry.remove(ident)
        del self.registry


TestRegistry = RegistryMachine.TestCase
TestRegistry.settings = bounded(60, steps=40)


def test_many_users() -> None:
    registry = RegistryProbe(5)
    idents = [registry.add(i, b"user-%d" % i, b"claims") for i in range(3000)]
    assert registry.users() == 3000
    for i in range(0, 3000, 2):
        registry.remove(idents[i])
    assert all(registry.slots_of(b"user-%d" % i) == ([i] if i % 2 else []) for i in range(3000))
    for i in range(1, 3000, 2):
        registry.remove(idents[i])
    assert registry.users() == 0
    # The table keeps its size: a room's evening is followed by another.
    assert registry.slots_of(b"user-1") == []
