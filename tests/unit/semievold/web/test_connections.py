"""Which connection goes when another comes: the one that waits longest, of those who showed no token."""

from __future__ import annotations

import pytest

from semievold.config.fronts import ServerConfig
from semievold.web.connections import GRACE_S, SPARE, Connections, address_of


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Client:
    def __init__(self, name: str, address: str = "10.0.0.1") -> None:
        self.name, self.address, self.since, self.gone = name, address, 0.0, False

    def cut(self) -> None:
        self.gone = True

    def overdue(self, now: float) -> bool:
        return False


def made(most: int = 40, of_one: int = 20, descriptors: int = 100_000) -> tuple[Connections, Clock]:
    clock = Clock()
    config = ServerConfig(port=0, max_connections=most, max_connections_per_address=of_one)
    return Connections(config, clock, descriptors), clock


def come(connections: Connections, clock: Clock, count: int, address: str = "10.0.0.1") -> list[Client]:
    """One client after the other, each with its time to speak."""
    clients = [Client(str(number), address) for number in range(count)]
    for client in clients:
        clock.now += 2 * GRACE_S
        connections.enter(client)
    return clients


def test_the_longest_waiting_of_the_same_address_goes_for_a_newcomer() -> None:
    connections, clock = made()
    clients = come(connections, clock, 23)
    assert [client.gone for client in clients] == [True] * 3 + [False] * 20


def test_of_many_addresses_the_one_with_most_connections_loses_one() -> None:
    connections, clock = made()
    others = [client for number in range(12) for client in come(connections, clock, 2, f"10.0.1.{number}")]
    crowd = come(connections, clock, 20, "10.0.0.9")
    assert len(connections) == 40
    assert not any(client.gone for client in others)
    assert sum(client.gone for client in crowd) == 4


def test_who_showed_the_token_stays_until_the_answer_has_gone() -> None:
    connections, clock = made()
    known = come(connections, clock, 1)[0]
    assert connections.hold(known)
    come(connections, clock, 60)
    assert not known.gone
    connections.release(known)
    clock.now += 2 * GRACE_S
    strangers = come(connections, clock, 60)
    assert known.gone
    assert not strangers[-1].gone


def test_a_newcomer_gets_in_while_clients_take_all_places() -> None:
    connections, clock = made(of_one=40)
    clients = []
    for number in range(40 - SPARE):
        client = come(connections, clock, 1, f"10.0.0.{number}")[0]
        assert connections.hold(client)
        clients.append(client)
    late = come(connections, clock, 1)[0]
    assert not connections.hold(late)
    assert come(connections, clock, SPARE + 10)[-1].gone is False
    assert not any(client.gone for client in clients)
    connections.release(clients[0])
    connections.leave(clients[0])
    assert connections.hold(come(connections, clock, 1)[0])


def test_a_burst_is_let_speak_and_is_bounded_all_the_same() -> None:
    connections, clock = made()
    burst = [Client(str(number), f"10.0.{number}.1") for number in range(100)]
    for client in burst:
        connections.enter(client)
    assert len(connections) == 80
    assert sum(client.gone for client in burst) == 20
    clock.now += 2 * GRACE_S
    late = [Client("late", f"10.9.{number}.9") for number in range(3)]
    for client in late:
        connections.enter(client)
    assert not any(client.gone for client in late)
    assert len(connections) == 80
    connections.look()
    assert len(connections) == 40
    assert not any(client.gone for client in late)


def test_counts_come_out_even_however_connections_end() -> None:
    connections, clock = made()
    clients = come(connections, clock, 30)
    for client in clients[10:20]:
        connections.hold(client)
        connections.hold(client)
    for client in clients:
        connections.leave(client)
        connections.leave(client)
        connections.release(client)
        connections.wait(client)
    assert len(connections) == 0
    held = [come(connections, clock, 1, f"10.0.0.{number}")[0] for number in range(40 - SPARE)]
    assert all(connections.hold(client) for client in held)


@pytest.mark.parametrize(("descriptors", "most"), [(256, 32), (1024, 224), (1 << 20, 1024)])
def test_connections_leave_descriptors_for_the_rest_of_the_process(descriptors: int, most: int) -> None:
    connections = Connections(ServerConfig(port=0), Clock(), descriptors)
    assert connections.most == most
    assert connections.most_of_one <= most // 2


@pytest.mark.parametrize(
    ("peer", "address"),
    [
        (("10.1.2.3", 80), "10.1.2.3"),
        (("2001:db8:1:2:3:4:5:6", 80, 0, 0), "2001:db8:1:2::/64"),
        (("2001:db8:1:2:ffff::1", 80, 0, 0), "2001:db8:1:2::/64"),
        (("fe80::1%eth0", 80, 0, 2), "fe80::/64"),
        (("::ffff:10.1.2.3", 80, 0, 0), "10.1.2.3"),
        (None, ""),
        ("", ""),
    ],
)
def test_an_address_counts_as_whoever_it_belongs_to(peer: object, address: str) -> None:
    assert address_of(peer) == address
