from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mobifarm.simulator.adbd import packets
from mobifarm.simulator.adbd.packets import Packet, PacketReader, ProtocolError

WORDS = st.integers(0, 0xFFFFFFFF)
PACKETS = st.builds(Packet, st.sampled_from(sorted(packets.COMMANDS)), WORDS, WORDS, st.binary(max_size=3000))


def read_all(reader: PacketReader, data: bytes, sizes: list[int]) -> list[Packet]:
    """Feed ``data`` in pieces of at most the given sizes (the last one repeated)."""
    found: list[Packet] = []
    position, turn = 0, 0
    while position < len(data):
        place = reader.buffer()
        size = min(len(place), sizes[min(turn, len(sizes) - 1)], len(data) - position)
        place[:size] = data[position : position + size]
        place.release()
        packet = reader.advance(size)
        if packet is not None:
            found.append(packet)
        position, turn = position + size, turn + 1
    return found


@given(st.lists(PACKETS, max_size=5), st.lists(st.integers(1, 5000), min_size=1, max_size=20), st.booleans())
def test_packets_survive_the_wire_in_any_pieces(
    sent: list[Packet], sizes: list[int], with_checksum: bool
) -> None:
    reader = PacketReader()
    reader.verify_checksums = with_checksum
    wire = b"".join(packets.encode(packet, with_checksum=with_checksum) for packet in sent)
    assert read_all(reader, wire, sizes) == sent


@given(st.binary(max_size=4000))
def test_checksum_is_the_sum_of_the_bytes(data: bytes) -> None:
    assert packets.checksum(data) == sum(data)


def test_checksum_of_a_full_packet() -> None:
    assert packets.checksum(b"\xff" * packets.MAX_PAYLOAD) == 0xFF * packets.MAX_PAYLOAD


@given(st.binary(min_size=24, max_size=24))
def test_a_header_is_decoded_or_refused(data: bytes) -> None:
    try:
        header = packets.decode_header(data)
    except ProtocolError:
        return
    assert header.command in packets.COMMANDS


def test_wrong_checksum_is_refused_where_asked_for() -> None:
    wire = packets.encode(Packet(packets.WRTE, 1, 2, b"abc"), with_checksum=False)
    assert read_all(PacketReader(), wire, [100]) == [Packet(packets.WRTE, 1, 2, b"abc")]
    strict = PacketReader()
    strict.verify_checksums = True
    with pytest.raises(ProtocolError, match="checksum"):
        read_all(strict, wire, [100])


def test_over_long_payload_is_refused_at_its_header() -> None:
    header = packets.encode_header(packets.WRTE, 1, 2, b"", with_checksum=False)
    forged = header[:12] + (packets.MAX_PAYLOAD + 1).to_bytes(4, "little") + header[16:]
    with pytest.raises(ProtocolError, match="longer than"):
        packets.decode_header(forged)
