"""Any message of a kind, field by field from its descriptor: who adds a field to a spec and forgets its translation
is told so by the property that uses these."""

from collections.abc import Callable, Mapping
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from hypothesis import strategies as st

TEXTS = st.text("abcXYZ019-_.:/= é", min_size=1, max_size=8)
_NUMBERS = {
    FieldDescriptor.TYPE_UINT32: st.integers(0, 65535),
    FieldDescriptor.TYPE_INT32: st.integers(-1000, 1000),
    FieldDescriptor.TYPE_UINT64: st.integers(0, 2**64 - 1),
    FieldDescriptor.TYPE_INT64: st.integers(-(2**63), 2**63 - 1),
    FieldDescriptor.TYPE_FLOAT: st.integers(0, 1000).map(lambda thousandths: thousandths / 1000),
    FieldDescriptor.TYPE_BOOL: st.booleans(),
    FieldDescriptor.TYPE_STRING: TEXTS,
    FieldDescriptor.TYPE_BYTES: st.binary(max_size=20),
}

# What a kind of message needs besides, by its name: it may change what was made.
Rules = Mapping[str, Callable[[st.DrawFn, Any], None]]


@st.composite
def messages(draw: st.DrawFn, kind: type[Message], rules: Rules) -> Any:
    """A message with any of its fields set. Parts that would be empty are left out."""
    message = kind()
    _fill(draw, message, rules)
    return message


def _fill(draw: st.DrawFn, message: Message, rules: Rules) -> None:
    name = message.DESCRIPTOR.name
    if name == "Duration":
        message.seconds, message.nanos = draw(st.integers(0, 10**6)), draw(st.integers(1, 999_999_999))  # type: ignore[attr-defined]
        return
    for field in message.DESCRIPTOR.fields:
        if field.containing_oneof is not None and not field.has_presence:
            continue
        if draw(st.booleans()):
            _set(draw, message, field, rules)
    if name in rules:
        rules[name](draw, message)


def _set(draw: st.DrawFn, message: Message, field: FieldDescriptor, rules: Rules) -> None:
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        getattr(message, field.name).update(draw(st.dictionaries(TEXTS, TEXTS, max_size=2)))
    elif field.is_repeated:
        for _ in range(draw(st.integers(1, 2))):
            if field.message_type is not None:
                _fill(draw, getattr(message, field.name).add(), rules)
            else:
                getattr(message, field.name).append(_one(draw, field))
    elif field.message_type is not None:
        part = getattr(message, field.name)
        _fill(draw, part, rules)
        if part.ByteSize():
            part.SetInParent()
        else:
            message.ClearField(field.name)
    else:
        setattr(message, field.name, _one(draw, field))


def _one(draw: st.DrawFn, field: FieldDescriptor) -> Any:
    if field.enum_type is not None:
        return draw(st.sampled_from([value.number for value in field.enum_type.values]))
    return draw(_NUMBERS[field.type])
