"""Filters, failures, frames, events: the small words of Docker's API."""

import grpc
import pytest

from flota.gateway.failures import failure_of
from flota.gateway.filters import Filters
from flota.gateway.streams import STDERR, frame
from flota.gateway.translation.events import event_of, events_of
from flota.gateway.translation.words import parse_time
from flota.rpc.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound, OutOfSequence, Unavailable
from flota.v1.containers_pb2 import ContainerEvent
from flota.v1.control_pb2 import WatchMessage
from flota.v1.store_pb2 import StoreAction

LABELS = {"tier": "front", "empty": ""}


@pytest.mark.parametrize("text", ['{"label":["tier=front"]}', '{"label":{"tier=front":true,"x":false}}'])
def test_filters_come_in_two_forms(text: str) -> None:
    wanted = Filters(text, ["label"])
    assert wanted.labels("label", LABELS)
    assert not wanted.labels("label", {"tier": "back"})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "JSON object"),
        ('["a"]', "JSON object"),
        ('{"label": "a"}', "list of strings"),
        ('{"colour": ["red"]}', "one of label, name"),
    ],
)
def test_filters_that_make_no_sense_are_refused(text: str, words: str) -> None:
    with pytest.raises(InvalidArgument, match=words):
        Filters(text, ["label", "name"])


def test_filters_match_as_docker_has_them() -> None:
    wanted = Filters('{"name": ["we", "x"], "label": ["tier", "empty="], "up": ["true"]}', ["name", "label", "up"])
    assert wanted.starts("name", "web")
    assert not wanted.starts("name", "db")
    assert wanted.labels("label", LABELS)
    assert not wanted.labels("label", {"tier": "front"})
    assert wanted.flag("up") is True
    assert wanted.flag("other") is None


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (NotFound("service web not found"), 404, "service web not found"),
        (AlreadyExists("name taken"), 409, "name taken"),
        (InvalidArgument("bad"), 400, "bad"),
        (Unavailable("no leader"), 503, "no leader"),
        (FailedPrecondition("in use"), 400, "in use"),
        (OutOfSequence("update out of sequence: service web is at 3"), 500, "desc = update out of sequence"),
        (FailedPrecondition('This node is not a swarm manager. Use "flota swarm init"'), 503, '"docker swarm init"'),
    ],
)
def test_failures_are_what_docker_answers(error: Exception, status: int, words: str) -> None:
    failure = failure_of(error)  # type: ignore[arg-type]
    assert failure.status == status
    assert words in str(failure)


def test_every_status_has_a_code() -> None:
    class Failed(grpc.RpcError):
        def __init__(self, code: grpc.StatusCode) -> None:
            self._code = code

        def code(self) -> grpc.StatusCode:
            return self._code

        def details(self) -> str:
            return "x"

    for code in grpc.StatusCode:
        assert 400 <= failure_of(Failed(code)).status <= 599


def test_a_frame_is_its_stream_its_length_its_data() -> None:
    assert frame(STDERR, b"hello") == b"\x02\0\0\0\0\0\0\x05hello"


@pytest.mark.parametrize(
    ("text", "seconds", "nanos"),
    [
        ("1700000000", 1_700_000_000, 0),
        ("1700000000.5", 1_700_000_000, 500_000_000),
        ("2023-11-14T22:13:20Z", 1_700_000_000, 0),
        ("2023-11-14T23:13:20.000000001+01:00", 1_700_000_000, 1),
    ],
)
def test_times_are_read(text: str, seconds: int, nanos: int) -> None:
    moment = parse_time(text)
    assert (moment.seconds, moment.nanos) == (seconds, nanos)


def _changed(kind: "StoreAction.Kind.ValueType") -> WatchMessage:
    message = WatchMessage(kind=kind)
    message.object.service.id = "s1"
    message.object.service.spec.annotations.name = "web"
    return message


def test_a_services_changes_are_told_with_what_changed() -> None:
    message = _changed(StoreAction.KIND_UPDATE)
    message.old.CopyFrom(message.object)
    message.old.service.spec.replicated.replicas = 2
    message.object.service.spec.replicated.replicas = 3
    (event,) = events_of(message)
    assert event.shape(1_500_000_000) == {
        "Type": "service",
        "Action": "update",
        "Actor": {"ID": "s1", "Attributes": {"name": "web", "replicas.old": "2", "replicas.new": "3"}},
        "scope": "swarm",
        "time": 1,
        "timeNano": 1_500_000_000,
    }


def test_what_users_did_not_change_is_not_told() -> None:
    message = _changed(StoreAction.KIND_UPDATE)
    message.old.CopyFrom(message.object)
    message.object.service.endpoint.virtual_ips.add(network_id="n", address="10.0.0.2/24")
    assert list(events_of(message)) == []


def test_creation_and_removal_are_told() -> None:
    assert [event.action for event in events_of(_changed(StoreAction.KIND_CREATE))] == ["create"]
    assert [event.action for event in events_of(_changed(StoreAction.KIND_REMOVE))] == ["remove"]


def test_networks_of_a_container_are_told_in_docker_s_form() -> None:
    told = ContainerEvent(action="connect")
    told.container.task.id = "c1" * 32
    told.network.id = "n1"
    told.network.spec.annotations.name, told.network.spec.driver.name = "lan", "bridge"
    assert event_of(told).shape(2_000_000_001) == {
        "Type": "network",
        "Action": "connect",
        "Actor": {"ID": "n1", "Attributes": {"container": "c1" * 32, "name": "lan", "type": "bridge"}},
        "scope": "local",
        "time": 2,
        "timeNano": 2_000_000_001,
    }
