from __future__ import annotations

import sys

import pytest

from mobifarm.simulator.tcp_port import user_of

TABLE = """\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:15B3 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 7001
   1: 0100007F:15B3 0100007F:9C40 01 00000000:00000000 00:00000000 00000000  1000        0 7002
   2: 0100007F:9C40 0100007F:15B3 01 00000000:00000000 00:00000000 00000000  1001        0 7003
   3: 0100007F:9C41 0100007F:15B3 05 00000000:00000000 00:00000000 00000000     0        0 0
"""


@pytest.mark.skipif(sys.byteorder == "big", reason="the table is that of a little-endian computer")
@pytest.mark.parametrize(
    ("port", "user"),
    [(40000, 1001), (40001, None), (40002, None)],
    ids=["another user's", "closed by its owner", "unknown"],
)
def test_the_user_at_the_other_end_of_a_connection(port: int, user: int | None) -> None:
    assert user_of(TABLE, ("127.0.0.1", port), ("127.0.0.1", 5555)) == user
