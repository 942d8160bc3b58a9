"""Writes events.bin with TensorBoard's own writer: pip install tensorboard==2.20.0; python make.py"""

import io
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter


def scalars(**values):
    return Summary(value=[Summary.Value(tag=t.replace("__", "/"), simple_value=v) for t, v in values.items()])


out = io.BytesIO()
writer = RecordWriter(out)
for event in (
    Event(wall_time=1_700_000_000.25, file_version="brain.Event:2"),
    Event(wall_time=1_700_000_001.5, step=7, summary=scalars(loss=0.6931472, rewards__margins=-1.25)),
    Event(wall_time=1_700_000_002.0, step=300, summary=scalars(grad_norm=12.5)),
):
    writer.write(event.SerializeToString(deterministic=True))
Path(__file__).with_name("events.bin").write_bytes(out.getvalue())
