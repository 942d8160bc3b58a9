"""What the two-process benches share: one process asks for work line by line, the other does it and answers in JSON."""

import json
import subprocess
import sys
import time


class Worker:
    """A process that does work when it is asked."""

    def __init__(self, command):
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.peak = 0
        self.about = self.read()
        if not self.about.get("ready"):
            raise RuntimeError(f"{' '.join(command)} does not start")

    def read(self):
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError("a worker ended early")
        return json.loads(line)

    def ask(self, work):
        self.process.stdin.write(f"{work}\n")
        self.process.stdin.flush()
        answer = self.read()
        self.peak = answer["peak_kib"] or 0
        return answer

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def ours(worker, *settings):
    """Our worker's command, with what the program sets for itself and `settings`, what its command does."""
    return ["env", "CANDLE_NUM_THREADS=1", *settings, worker]


def peak_kib():
    for line in open("/proc/self/status"):
        if line.startswith("VmHWM:"):
            return int(line.split()[1])
    return None


def serve(work, **about):
    """Does `work` for every line of standard input and tells how long it took beside what it returns."""
    print(json.dumps({"ready": True, **about}), flush=True)
    for line in sys.stdin:
        begin = time.perf_counter()
        told = work(line.strip())
        seconds = time.perf_counter() - begin
        print(json.dumps({"seconds": seconds, "peak_kib": peak_kib(), **told}), flush=True)
