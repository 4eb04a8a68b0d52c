"""Reads the files that Weights & Biases writes offline, before they are synced."""

import json
import struct

from wandb.proto.wandb_internal_pb2 import Record

_BLOCK = 1 << 15
_FULL, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4


def records(path):
    """The records of a .wandb file: LevelDB's log format behind a header of 7 bytes."""
    data, position, parts = path.read_bytes(), 7, []
    while position + 7 <= len(data):
        left = _BLOCK - position % _BLOCK
        if left < 7:
            position += left
            continue
        _, length, kind = struct.unpack("<IHB", data[position : position + 7])
        if not kind:
            return
        parts.append(data[position + 7 : position + 7 + length])
        position += 7 + length
        if kind in (_FULL, _LAST):
            record = Record()
            record.ParseFromString(b"".join(parts))
            parts = []
            yield record


def attempts(workdir):
    """Yields (id, config, rows) of each start of a run, oldest first. The last must have ended."""
    paths = sorted(workdir.glob("wandb/offline-run-*/run-*.wandb"))
    assert any(record.HasField("exit") for record in records(paths[-1])), paths
    for path in paths:
        run_id, config, rows = None, {}, []
        for record in records(path):
            if record.HasField("run"):
                run_id = record.run.run_id
            for item in [*record.run.config.update, *record.config.update]:
                config[item.key or ".".join(item.nested_key)] = json.loads(item.value_json)
            if record.HasField("history"):
                rows.append(
                    {
                        item.key or ".".join(item.nested_key): json.loads(item.value_json)
                        for item in record.history.item
                    }
                )
        yield run_id, config, rows
