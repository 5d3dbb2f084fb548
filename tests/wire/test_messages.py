# SPDX-License-Identifier: GPL-3.0-or-later
"""Control messages survive the wire; what cannot be read is one typed error."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from krita_sd.wire import PROTOCOL
from krita_sd.wire.errors import Code, WireError
from krita_sd.wire.live import Live, LiveState, LiveStop
from krita_sd.wire.messages import (
    Ack,
    Cancel,
    Error,
    Finish,
    Have,
    Hello,
    ListModels,
    Message,
    Missing,
    Models,
    PreviewWish,
    Progress,
    Result,
    State,
    Submit,
    Welcome,
    choose_protocol,
    parse_from_client,
    parse_from_server,
)
from krita_sd.wire.queries import (
    Estimate,
    FreeMemory,
    MemoryEstimate,
    Move,
    PromptReading,
    QueueOrder,
    ReadPrompt,
)
from krita_sd.wire.recipe import Recipe

RECIPE = Recipe(prompt="a \u202e tree \n <b>", width=64, height=48)
FROM_CLIENT = [
    Hello((PROTOCOL, "ksd.9"), "test", "1.2", "session", 7, "inst"),
    Submit("job", RECIPE, 3, place="front", previews=PreviewWish("half", 100, True)),
    Cancel("job"),
    Finish("job"),
    Ack(9),
    Have(("0" * 32,)),
    ListModels(True),
    Live("live", 3, 2, Recipe(kind="img2img", width=64, height=48)),
    LiveStop("live"),
    ReadPrompt("q", "model", "(cat:1.2)", "dog"),
    Estimate("q", RECIPE),
    Move("job", "other"),
    FreeMemory(),
]
FROM_SERVER = [
    Welcome(PROTOCOL, "1", "inst", "session", 4, True, {"kind": "cpu"}, ({"id": "pocket"},), jobs=({"job": "j"},)),
    State(3, "job", "sampling", 1, 4, 5, 20, {"encoding": 1.5}),
    State(4, "job", "failed", error=WireError(Code.NAN_OUTPUT, "It broke.", "Try again.", job="job", ref="r")),
    Progress("job", "sampling", 0, 1, 2, 20, 1.5),
    Result(5, "job", 0, 1, {"id": "p", "format": "bgra8"}, RECIPE, 20, True, {"decoding": 2.0}, {}, {"prompts": 1}),
    Models(({"id": "pocket"},)),
    Missing(("f" * 32,)),
    LiveState("live", "failed", 3, "", WireError(Code.NAN_OUTPUT, "It broke.", "Try again.")),
    PromptReading("q", {"tokens": 5}, {}),
    MemoryEstimate("q", "fits", "It fits.", 5, 6),
    QueueOrder(("a", "b")),
]


@pytest.mark.parametrize("message", FROM_CLIENT, ids=lambda message: message.type)
def test_client_messages_survive(message: Message) -> None:
    assert parse_from_client(message.to_text()) == message


@pytest.mark.parametrize("message", FROM_SERVER, ids=lambda message: message.type)
def test_server_messages_survive(message: Message) -> None:
    back = parse_from_server(message.to_text())
    assert type(back) is type(message)
    assert back.to_json() == message.to_json()  # exceptions compare by identity, so not the messages themselves


def test_errors_survive_with_their_details() -> None:
    error = WireError(Code.BLOB_MISSING, "Missing.", details={"missing": ["0" * 32]}, job="j", retryable=True)
    back = parse_from_server(Error(error).to_text())
    assert isinstance(back, Error) and back.error.to_json() == error.to_json()


@pytest.mark.parametrize("data", [None, 5, "x", {}, {"code": "new_code", "message": 7}, {"details": []}])
def test_an_unreadable_error_is_still_an_error(data: object) -> None:
    error = WireError.from_json(data)
    assert error.code is Code.INTERNAL and error.message


def test_an_unknown_type_is_unsupported_and_unknown_fields_are_ignored() -> None:
    with pytest.raises(WireError) as caught:
        parse_from_client('{"type":"teleport"}')
    assert caught.value.code is Code.UNSUPPORTED
    assert parse_from_client('{"type":"cancel","job":"j","why":[1,2]}') == Cancel("j")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[]",
        "{",
        '{"type":5}',
        '{"type":"cancel"}',
        '{"type":"cancel","job":5}',
        '{"type":"cancel","job":""}',
        '{"type":"cancel","type":"cancel","job":"a"}',
        '{"type":"ack","seq":-1}',
        '{"type":"ack","seq":1e400}',
        '{"type":"have","hashes":["zz"]}',
        '{"type":"submit","job":"j","recipe":7}',
        '{"type":"submit","job":"j","recipe":{"width":64,"height":64},"count":0}',
        '{"type":"submit","job":"j","recipe":{"width":64,"height":64},"count":201}',
        '{"type":"hello","protocols":"ksd.1","session":"s"}',
        '{"a":' * 5000,
        '{"type":"cancel","job":"' + "[" * 30 + '","x":' + "[" * 30 + "]" * 30 + "}",
    ],
)
def test_malformed_messages_are_bad_requests(text: str) -> None:
    with pytest.raises(WireError) as caught:
        parse_from_client(text)
    assert caught.value.code is Code.BAD_REQUEST


def test_brackets_inside_strings_are_not_nesting() -> None:
    assert parse_from_client('{"type":"cancel","job":"' + "[" * 30 + '"}') == Cancel("[" * 30)


def test_a_bad_submit_names_its_job() -> None:
    with pytest.raises(WireError) as caught:
        parse_from_client('{"type":"submit","job":"j","recipe":{"width":-4,"height":4}}')
    assert caught.value.job == "j"


def test_no_common_protocol_names_both_versions() -> None:
    assert choose_protocol(("ksd.9", PROTOCOL), "9", "1") == PROTOCOL
    with pytest.raises(WireError) as caught:
        choose_protocol(("ksd.9",), "9.0", "1.0")
    assert caught.value.code is Code.VERSION
    assert "9.0" in caught.value.message and "1.0" in caught.value.message


@given(st.text(max_size=300) | st.binary(max_size=300))
def test_no_text_crashes_a_parser(text: str | bytes) -> None:
    for parse in (parse_from_client, parse_from_server):
        try:
            parse(text)
        except WireError:
            pass


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(st.sampled_from(FROM_CLIENT + FROM_SERVER), st.data())
def test_a_field_of_any_other_type_never_crashes_a_parser(message: Message, data: st.DataObject) -> None:
    from krita_sd.wire.values import dump

    changed = message.to_json()
    changed[data.draw(st.sampled_from(sorted(changed)))] = data.draw(json_values)
    parse = parse_from_client if message in FROM_CLIENT else parse_from_server
    try:
        parse(dump(changed))
    except WireError:
        pass
