"""What pack.proto and replay.proto promise in prose, checked on their descriptors."""

from __future__ import annotations

from google.protobuf.descriptor import Descriptor, FieldDescriptor

from replayring_proto.v1 import buffer_pb2, pack_pb2, replay_pb2, server_status_pb2


def carries_packs(message: Descriptor) -> bool:
    return any(
        field.message_type is not None and field.message_type.name == "PackHeader"
        for field in message.fields
    )


MESSAGES = replay_pb2.DESCRIPTOR.message_types_by_name
CARRIERS = {name for name, message in MESSAGES.items() if carries_packs(message)}


def test_seven_messages_carry_packs() -> None:
    """Framing tests name them one by one; an eighth belongs there too."""
    names = {
        "AddEpisodesRequest",
        "GetItemResponse",
        "SampleBatchResponse",
        "ReadColumnResponse",
        "PublishParametersRequest",
        "WatchParametersResponse",
        "WholeEpisode",
    }
    assert names == CARRIERS


def test_in_each_of_them_pack_is_field_1_and_data_is_field_2() -> None:
    for name in CARRIERS:
        fields = MESSAGES[name].fields_by_number
        assert (fields[1].name, fields[1].message_type.name) == ("pack", "PackHeader")
        assert (fields[2].name, fields[2].type) == ("data", FieldDescriptor.TYPE_BYTES)


def test_no_other_message_has_raw_bytes() -> None:
    """One way to send arrays: the chunk codec."""
    for module in (buffer_pb2, pack_pb2, replay_pb2, server_status_pb2):
        for name, message in module.DESCRIPTOR.message_types_by_name.items():
            has_bytes = any(field.type == FieldDescriptor.TYPE_BYTES for field in message.fields)
            assert has_bytes == (name in CARRIERS)


def test_every_rpc_has_a_request_and_a_response_of_its_own() -> None:
    service = replay_pb2.DESCRIPTOR.services_by_name["ReplayService"]
    assert service.full_name == "replayring.v1.ReplayService"
    for method in service.methods:
        assert method.input_type.name == f"{method.name}Request"
        assert method.output_type.name == f"{method.name}Response"


def test_the_rpcs_stream_as_documented() -> None:
    service = replay_pb2.DESCRIPTOR.services_by_name["ReplayService"]
    assert {m.name: (m.client_streaming, m.server_streaming) for m in service.methods} == {
        "CreateBuffer": (False, False),
        "GetBuffer": (False, False),
        "ListBuffers": (False, False),
        "DeleteBuffer": (False, False),
        "AddEpisodes": (True, True),
        "GetItem": (True, True),
        "SampleBatch": (True, True),
        "ReadColumn": (False, True),
        "PublishParameters": (True, False),
        "WatchParameters": (False, True),
        "GetServerStatus": (False, False),
    }
