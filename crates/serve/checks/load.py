"""Many clients at once: long, short, streamed, malformed, impatient ones.

    python crates/serve/checks/load.py --url http://127.0.0.1:8000 --pid PID [--key KEY] [--clients 200] [--seconds 60]

Every answer has to be whole, or a refusal with a status and a reason; a stream has to end with [DONE]. With `--pid`,
the server's resident memory is read every second, and the second half of the run may not need more than the first by
more than `--growth` MiB. Needs nothing but Python. Ends with status 0 where all held.
"""

import argparse
import asyncio
import collections
import json
import random
import time
import urllib.parse

PROBLEMS = []
COUNTS = collections.Counter()


class Client:
    """HTTP/1.1 by hand, so that it can misbehave."""

    def __init__(self, arguments, number):
        self.arguments = arguments
        self.random = random.Random(number)
        self.number = number
        parts = urllib.parse.urlsplit(arguments.url)
        self.host, self.port = parts.hostname, parts.port or 80

    async def send(self, path, body, headers="", cut=None):
        reader, writer = await asyncio.open_connection(self.host, self.port, limit=1 << 24)
        key = f"Authorization: Bearer {self.arguments.key}\r\n" if self.arguments.key else ""
        head = (
            f"POST {path} HTTP/1.1\r\nHost: {self.host}\r\nConnection: close\r\n{key}{headers}"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        whole = head.encode() + body
        writer.write(whole[:cut] if cut else whole)
        await writer.drain()
        return reader, writer

    async def ask(self, path, body, **fields):
        """Status, body, and whether the body came whole."""
        body = body if isinstance(body, bytes) else json.dumps(body).encode()
        reader, writer = await self.send(path, body, **fields)
        try:
            return await asyncio.wait_for(answer(reader), self.arguments.timeout)
        finally:
            writer.close()

    def chat(self, words, **fields):
        return {"messages": [{"role": "user", "content": words}], "max_tokens": 16, **fields}

    async def short(self):
        await self.whole("/v1/chat/completions", self.chat(f"client {self.number} says hello"))

    async def several(self):
        await self.whole("/v1/completions", {"prompt": ["words 3", "words 9"], "n": 2, "max_tokens": 8}, 4)

    async def long(self):
        await self.whole("/v1/chat/completions", self.chat("word " * self.random.randint(10, 60)))

    async def whole(self, path, body, choices=1):
        status, text, came = await self.ask(path, body)
        if status == 200:
            value = json.loads(text)
            if not came or len(value["choices"]) != choices:
                problem("an accepted request was answered in part", text)
            if any(choice["finish_reason"] not in ("stop", "length") for choice in value["choices"]):
                problem("a choice has no end", text)
            COUNTS["accepted"] += 1
        else:
            reason(status, text, (429, 503))

    async def streamed(self):
        status, text, came = await self.ask("/v1/chat/completions", self.chat("words 12", stream=True))
        if status == 200:
            if not came or not text.endswith("data: [DONE]\n\n"):
                problem("a stream did not come to its end", text[-200:])
            if '"error"' in text:
                problem("a stream failed", text[-500:])
            COUNTS["streams"] += 1
        else:
            reason(status, text, (429, 503))

    async def malformed(self):
        bodies = [
            (b"{", 400),
            (b"", 400),
            (b"\xff\xfe\x00", 400),
            (b"[" * 5000, 400),
            (json.dumps(self.chat("a", temperature="hot")).encode(), 400),
            (json.dumps(self.chat("a", zebra=1)).encode(), 400),
            (json.dumps(self.chat("a", model="no/such")).encode(), 404),
            (json.dumps({"messages": []}).encode(), 400),
            (json.dumps(self.chat([{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}])).encode(), 400),
        ]
        body, expected = self.random.choice(bodies)
        status, text, _ = await self.ask("/v1/chat/completions", body)
        reason(status, text, (expected, 429))

    async def nowhere(self):
        status, text, _ = await self.ask("/v1/nowhere", b"{}")
        reason(status, text, (404,))

    async def leaves(self):
        """Goes away in the middle of a stream, or before the answer."""
        stream = self.random.random() < 0.5
        body = json.dumps(self.chat("words 200\npause 5", stream=stream, max_tokens=200)).encode()
        _, writer = await self.send("/v1/chat/completions", body)
        await asyncio.sleep(self.random.random())
        writer.transport.abort()
        COUNTS["left"] += 1

    async def breaks_off(self):
        """Says that more is to come, and goes."""
        _, writer = await self.send("/v1/completions", b'{"prompt": "a"}', cut=-5)
        await asyncio.sleep(0.2 * self.random.random())
        writer.close()
        COUNTS["broken off"] += 1

    async def garbage(self):
        """No HTTP at all."""
        reader, writer = await asyncio.open_connection(self.host, self.port)
        writer.write(self.random.randbytes(200))
        writer.write(b"\r\n\r\n")
        try:
            await asyncio.wait_for(reader.read(), self.arguments.timeout)
        except ConnectionError:
            pass
        writer.close()
        COUNTS["garbage"] += 1

    async def go_on(self, end):
        ways = [self.short] * 4 + [self.streamed] * 4 + [self.several, self.long, self.malformed, self.malformed]
        ways += [self.leaves, self.breaks_off, self.nowhere, self.garbage]
        while time.monotonic() < end:
            way = self.random.choice(ways)
            try:
                await way()
            except (asyncio.TimeoutError, asyncio.IncompleteReadError) as error:
                problem(f"{way.__name__}: no answer", repr(error))
            except ConnectionError as error:
                problem(f"{way.__name__}: the connection broke", repr(error))
            await asyncio.sleep(self.random.random() * self.arguments.pause)


def problem(what, detail):
    PROBLEMS.append(f"{what}: {detail}")


def reason(status, text, expected):
    """A refusal has one of these statuses and says why."""
    COUNTS[f"status {status}"] += 1
    try:
        error = json.loads(text)["error"]
        said = bool(error["message"]) and bool(error["code"]) and bool(error["type"])
    except (ValueError, KeyError, TypeError):
        said = False
    if status not in expected or not said:
        problem(f"status {status} where {expected} was expected", text[:300])


async def answer(reader):
    status = int((await reader.readline()).split()[1])
    headers = {}
    while line := (await reader.readline()).decode().strip():
        name, value = line.split(": ", 1)
        headers[name.lower()] = value
    if headers.get("transfer-encoding") != "chunked":
        return status, (await reader.readexactly(int(headers.get("content-length", 0)))).decode(), True
    pieces = []
    while True:
        line = await reader.readline()
        if not line:
            return status, b"".join(pieces).decode(), False
        length = int(line, 16)
        piece = await reader.readexactly(length + 2)
        if length == 0:
            return status, b"".join(pieces).decode(), True
        pieces.append(piece[:-2])


def resident(pid):
    for line in open(f"/proc/{pid}/status"):
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise SystemExit(f"no process {pid}")


async def watch(arguments, end, seen):
    while arguments.pid and time.monotonic() < end:
        seen.append(resident(arguments.pid))
        await asyncio.sleep(1)


async def run(arguments):
    begun = time.monotonic()
    end = begun + arguments.seconds
    clients = [Client(arguments, number) for number in range(arguments.clients)]
    seen = []
    await asyncio.gather(watch(arguments, end, seen), *(client.go_on(end) for client in clients))
    # Whatever comes now is answered: the server is whole, and what was left is let go of.
    while time.monotonic() < end + arguments.timeout:
        status, text, came = await clients[0].ask("/v1/chat/completions", clients[0].chat("the last words"))
        if status != 429:
            break
        await asyncio.sleep(0.5)
    if status != 200 or not came:
        problem("the server does not answer after the run", f"{status} {text[:300]}")
    return seen


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--key")
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--pause", type=float, default=0.2, help="longest pause of a client between requests")
    parser.add_argument("--timeout", type=float, default=120.0)
    parser.add_argument("--pid", type=int)
    parser.add_argument("--growth", type=float, default=16.0, help="MiB")
    arguments = parser.parse_args()
    seen = asyncio.run(run(arguments))
    for name, count in sorted(COUNTS.items()):
        print(f"{count:>8}  {name}")
    if seen:
        # The start of a run fills pools and pages; it is part of the first half.
        half = len(seen) // 2
        first, second = max(seen[:half] or [0]), max(seen[half:])
        print(f"{first:>8.1f}  MiB at most in the first half, {second:.1f} in the second")
        if second > first + arguments.growth:
            problem("memory grows", f"{first:.1f} MiB, then {second:.1f}")
    for line in PROBLEMS[:20]:
        print("PROBLEM ", line)
    print(f"{len(PROBLEMS)} problems")
    raise SystemExit(1 if PROBLEMS or not COUNTS["accepted"] else 0)


if __name__ == "__main__":
    main()
