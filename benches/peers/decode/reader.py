"""Reads frames of one clip with one peer and prints CPU seconds (user and system, all threads, from
opening the file to the last resized frame) and the peak memory of the process.

    reader.py torchcodec|decord|pyav-seek|pyav-pass FILE WIDTH HEIGHT INDEX,INDEX,..
"""

import json
import resource
import sys


def cpu():
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def status(field):
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith(field))


def torchcodec(path, width, height, indices):
    from torchcodec.decoders import VideoDecoder
    from torchcodec.transforms import Resize

    def read():
        decoder = VideoDecoder(path, transforms=[Resize((height, width))])
        return decoder.get_frames_at(indices).data

    return read


def decord(path, width, height, indices):
    from decord import VideoReader, cpu as device

    def read():
        reader = VideoReader(path, ctx=device(0), width=width, height=height)
        return reader.get_batch(indices).asnumpy()

    return read


def picture(frame, width, height):
    return frame.to_ndarray(width=width, height=height, format="rgb24", interpolation="BICUBIC")


def pyav_pass(path, width, height, indices):
    import av

    def read():
        wanted, frames = set(indices), []
        with av.open(path) as container:
            for number, frame in enumerate(container.decode(video=0)):
                if number in wanted:
                    frames.append(picture(frame, width, height))
                if number == indices[-1]:
                    return frames

    return read


def pyav_seek(path, width, height, indices):
    import av

    def read():
        frames = []
        with av.open(path) as container:
            stream = container.streams.video[0]
            ticks = 1 / (stream.average_rate * stream.time_base)
            start = stream.start_time or 0
            for index in indices:
                target = start + round(index * ticks)
                container.seek(target, stream=stream, backward=True)
                for frame in container.decode(stream):
                    if frame.pts >= target:
                        frames.append(picture(frame, width, height))
                        break
        return frames

    return read


def main():
    name, path, width, height, indices = sys.argv[1:]
    indices = [int(i) for i in indices.split(",")]
    makers = {"torchcodec": torchcodec, "decord": decord}
    makers |= {"pyav-seek": pyav_seek, "pyav-pass": pyav_pass}
    read = makers[name](path, int(width), int(height), indices)
    base, before = status("VmRSS"), cpu()
    frames = read()
    spent = cpu() - before
    assert len(frames) == len(indices)
    print(json.dumps({"cpu": spent, "base_kib": base, "peak_kib": status("VmHWM")}))


main()
