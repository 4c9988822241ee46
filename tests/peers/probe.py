"""The probe of a measurement: what every handler appends when it starts, see tests/src/bench/probe.rs."""

import os
import struct
import time

_FILE = os.open(os.environ["PEER_PROBE"], os.O_WRONLY | os.O_APPEND)


def starts(sent_ns: int) -> None:
    os.write(_FILE, struct.pack("<QQ", sent_ns, time.time_ns()))
