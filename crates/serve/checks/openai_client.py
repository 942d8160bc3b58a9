"""Drives a running server with OpenAI's own client, and asserts on every answer.

    pip install openai pillow
    python crates/serve/checks/openai_client.py --url http://127.0.0.1:8000 [--key KEY] [--model NAME]
        [--video clip.mp4] [--image picture.png] [--no-media] [--scripted]

With `--scripted` the server is `cargo run -p savi-serve --example scripted`, whose answers are known; without it,
any model: then shapes, sums and ends are looked at, and the words are not. Ends with status 0 where all held.
"""

import argparse
import base64
import io
import json
import threading
import time
import urllib.request

import openai

# A clip of nothing but the box that says what it is: only a back end without a model takes it.
BARE_CLIP = b"\x00\x00\x00\x18ftypisom\x00\x00\x02\x00isomiso2"

CHECKS = []


def check(function):
    CHECKS.append(function)
    return function


class Server:
    def __init__(self, arguments):
        self.arguments = arguments
        self.scripted = arguments.scripted
        self.url = arguments.url.rstrip("/")
        self.client = openai.OpenAI(
            base_url=self.url + "/v1", api_key=arguments.key or "none", max_retries=0, timeout=arguments.timeout
        )
        self.model = arguments.model or self.client.models.list().data[0].id

    def chat(self, words, **fields):
        messages = [{"role": "user", "content": words}]
        fields.setdefault("max_tokens", 16)
        return self.client.chat.completions.create(model=self.model, messages=messages, **fields)

    def complete(self, prompt, **fields):
        fields.setdefault("max_tokens", 16)
        return self.client.completions.create(model=self.model, prompt=prompt, **fields)

    def metric(self, name):
        request = urllib.request.Request(self.url + "/metrics")
        if self.arguments.key:
            request.add_header("Authorization", "Bearer " + self.arguments.key)
        text = urllib.request.urlopen(request, timeout=30).read().decode()
        return next(float(line.split()[-1]) for line in text.splitlines() if line.startswith(name + " "))


def refused(kind, call, param=None, code=None):
    try:
        call()
    except kind as error:
        body = error.body
        assert isinstance(body, dict) and body["message"], body
        assert param is None or body["param"] == param, body
        assert code is None or body["code"] == code, body
        return error
    raise AssertionError(f"not refused as {kind.__name__}")


@check
def models(server):
    names = [model.id for model in server.client.models.list()]
    assert server.model in names, names
    assert server.client.models.retrieve(server.model).object == "model"
    refused(openai.NotFoundError, lambda: server.client.models.retrieve("no/such"), "model", "model_not_found")


@check
def chat(server):
    answer = server.chat("Say a few words.", temperature=0)
    assert answer.object == "chat.completion" and answer.id.startswith("chatcmpl-")
    (choice,) = answer.choices
    assert choice.message.role == "assistant" and choice.finish_reason in ("stop", "length")
    usage = answer.usage
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert 0 < usage.completion_tokens <= 16 and usage.prompt_tokens > 0
    assert usage.prompt_tokens_details.cached_tokens <= usage.prompt_tokens
    again = server.chat("Say a few words.", temperature=0)
    assert again.choices[0].message.content == choice.message.content
    if server.scripted:
        assert choice.message.content == "Say a few words."


@check
def roles(server):
    messages = [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": [{"type": "text", "text": "words 3"}]},
        {"role": "assistant", "content": "Well"},
        {"role": "user", "content": "words 3"},
    ]
    answer = server.client.chat.completions.create(model=server.model, messages=messages, max_tokens=8)
    # What a server answered may be sent back as it is.
    messages += [answer.choices[0].message, {"role": "user", "content": "words 3"}]
    server.client.chat.completions.create(model=server.model, messages=messages, max_tokens=8)


@check
def completion(server):
    answer = server.complete("words 30", temperature=0)
    assert answer.object == "text_completion" and answer.id.startswith("cmpl-")
    assert answer.usage.completion_tokens <= 16
    several = server.complete(["words 30", "words 2"], temperature=0, n=2)
    assert [choice.index for choice in several.choices] == [0, 1, 2, 3]
    assert several.choices[0].text == several.choices[1].text == answer.choices[0].text
    tokens = server.complete([[1, 2, 3], [4]], temperature=0)
    assert len(tokens.choices) == 2


@check
def stream(server):
    fields = {"temperature": 0, "max_tokens": 24}
    whole = server.chat("words 20", **fields)
    chunks = list(server.chat("words 20", stream=True, stream_options={"include_usage": True}, **fields))
    assert chunks[0].choices[0].delta.role == "assistant"
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content, (text, whole)
    ends = [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices and chunk.choices[0].finish_reason]
    assert ends == [whole.choices[0].finish_reason]
    assert chunks[-1].choices == [] and chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    texts = list(server.complete("words 20", stream=True, temperature=0))
    assert "".join(chunk.choices[0].text for chunk in texts) == server.complete("words 20", temperature=0).choices[0].text


@check
def logprobs(server):
    fields = {"temperature": 0, "max_tokens": 6, "logprobs": True, "top_logprobs": 3}
    answer = server.chat("words 6", **fields)
    content = answer.choices[0].logprobs.content
    assert len(content) == answer.usage.completion_tokens
    for token in content:
        assert token.logprob <= 0 and len(token.top_logprobs) == 3
        assert bytes(token.bytes).decode("utf-8", "replace") == token.token
        tops = [top.logprob for top in token.top_logprobs]
        assert tops == sorted(tops, reverse=True)
        # Greedy: what was drawn is the likeliest.
        assert abs(tops[0] - token.logprob) < 1e-4
    streamed = [
        token.token
        for chunk in server.chat("words 6", stream=True, **fields)
        if chunk.choices and chunk.choices[0].logprobs
        for token in chunk.choices[0].logprobs.content
    ]
    assert streamed == [token.token for token in content]
    text = server.complete("words 6", temperature=0, max_tokens=6, logprobs=2).choices[0].logprobs
    assert len(text.tokens) == len(text.token_logprobs) == len(text.top_logprobs) == len(text.text_offset)


@check
def choices_and_seeds(server):
    fields = {"temperature": 1, "n": 4, "seed": 11, "max_tokens": 12}
    one, two = (server.chat("draw", **fields) for _ in range(2))
    texts = [choice.message.content for choice in one.choices]
    assert texts == [choice.message.content for choice in two.choices]
    assert len(set(texts)) > 1, texts
    fewer = server.chat("draw", **{**fields, "n": 2})
    assert [choice.message.content for choice in fewer.choices] == texts[:2]
    other = server.chat("draw", **{**fields, "seed": 12})
    assert [choice.message.content for choice in other.choices] != texts
    indices = {chunk.choices[0].index for chunk in server.chat("draw", stream=True, **fields) if chunk.choices}
    assert indices == {0, 1, 2, 3}


@check
def stops(server):
    text = server.chat("words 12", temperature=0).choices[0].message.content
    cut = server.chat("words 12", temperature=0, max_tokens=1)
    assert cut.choices[0].finish_reason == "length" and cut.usage.completion_tokens == 1
    if len(text) > 4:
        stop = text[3:5]
        stopped = server.chat("words 12", temperature=0, stop=[stop]).choices[0]
        assert stopped.finish_reason == "stop"
        assert stopped.message.content == text[: text.index(stop)], (stopped, text)


@check
def forms(server):
    schema = {
        "type": "object",
        "properties": {"name": {"type": "string", "maxLength": 8}, "age": {"type": "integer", "minimum": 0, "maximum": 99}},
        "required": ["name", "age"],
        "additionalProperties": False,
    }
    named = {"type": "json_schema", "json_schema": {"name": "person", "schema": schema, "strict": True}}
    answer = server.chat("Who is it?", response_format=named, max_tokens=100, temperature=0)
    if answer.choices[0].finish_reason == "stop":
        value = json.loads(answer.choices[0].message.content)
        assert isinstance(value["name"], str) and isinstance(value["age"], int), value
    chosen = server.chat("Left or right?", extra_body={"guided_choice": ["left", "right"]})
    assert chosen.choices[0].message.content in ("left", "right")
    held = server.chat("A number.", extra_body={"structured_outputs": {"regex": "[0-9]{2}|held"}})
    content = held.choices[0].message.content
    assert content == "held" or (len(content) == 2 and content.isdigit()), content
    server.chat("An object.", response_format={"type": "json_object"}, max_tokens=4)
    server.chat("Words.", response_format={"type": "text"}, max_tokens=4)


@check
def extensions(server):
    body = {"top_k": 20, "min_p": 0.05, "typical_p": 0.9, "repetition_penalty": 1.1, "min_tokens": 2, "stop_token_ids": [5]}
    server.chat("words 3", extra_body=body, presence_penalty=0.5, frequency_penalty=0.5, logit_bias={"7": -100})


@check
def errors(server):
    bad = openai.BadRequestError
    refused(bad, lambda: server.chat("a", temperature=-1), "temperature", "invalid_value")
    refused(bad, lambda: server.chat("a", extra_body={"temprature": 1}), "temprature", "unknown_parameter")
    refused(bad, lambda: server.chat("a", n=0), "n", "invalid_value")
    tools = [{"type": "function", "function": {"name": "f"}}]
    refused(bad, lambda: server.chat("a", tools=tools), "tools", "unsupported_parameter")
    refused(bad, lambda: server.complete("a", echo=True), "echo", "unsupported_parameter")
    refused(bad, lambda: server.complete(["word " * 200_000]), code="context_length_exceeded")
    messages = [{"role": "user", "content": "a"}]
    create = server.client.chat.completions.create
    refused(openai.NotFoundError, lambda: create(model="no/such", messages=messages), "model", "model_not_found")
    if server.arguments.key:
        stranger = server.client.with_options(api_key="wrong")
        refused(openai.AuthenticationError, lambda: stranger.models.list(), code="invalid_api_key")
    if server.scripted:
        refused(bad, lambda: server.chat("too-long"), code="context_length_exceeded")
        refused(openai.InternalServerError, lambda: server.chat("fail secretly"), code="internal_error")
        chunks = []
        try:
            for chunk in server.chat("words 9\nlate-fail secretly", stream=True):
                chunks.append(chunk)
        except openai.APIError as error:
            assert "server's log" in error.message, error
        else:
            raise AssertionError("an error within a stream was not raised")
        assert chunks


@check
def cancellation(server):
    before = server.metric("savi_cancellations_total")
    endless = {"extra_body": {"ignore_eos": True}, "max_tokens": server.arguments.long}
    stream = server.chat("words 100000\npause 20", stream=True, **endless)
    for number, _ in enumerate(stream):
        if number == 3:
            break
    stream.close()
    waited(server, before + 1)
    # And one that waits for an answer that comes as one.
    impatient = server.client.with_options(timeout=1.0)
    messages = [{"role": "user", "content": "words 100000\npause 20"}]
    call = lambda: impatient.chat.completions.create(model=server.model, messages=messages, **endless)
    try:
        call()
    except openai.APITimeoutError:
        waited(server, before + 2)


def waited(server, count):
    end = time.monotonic() + 60
    while server.metric("savi_cancellations_total") < count or server.metric("savi_running") > 0:
        assert time.monotonic() < end, "what nobody waits for is still computed"
        time.sleep(0.1)


def data(kind, content):
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def picture():
    from PIL import Image

    out = io.BytesIO()
    Image.new("RGB", (64, 48), (200, 30, 30)).save(out, "PNG")
    return out.getvalue()


@check
def images(server):
    if server.arguments.no_media:
        return
    content = open(server.arguments.image, "rb").read() if server.arguments.image else picture()
    part = {"type": "image_url", "image_url": {"url": data("image/png", content)}}
    parts = [part, part, {"type": "text", "text": "look"}]
    answer = server.chat(parts, temperature=0)
    if server.scripted:
        assert answer.choices[0].message.content == " ".join([f"image:png:{len(content)}:"] * 2), answer
    alone = server.chat([part, {"type": "text", "text": "look"}], temperature=0)
    assert alone.usage.prompt_tokens <= answer.usage.prompt_tokens
    broken = {"type": "image_url", "image_url": {"url": data("image/png", b"no picture")}}
    refused(openai.BadRequestError, lambda: server.chat([broken]), code="invalid_media")


@check
def videos(server):
    if server.arguments.no_media or not (server.scripted or server.arguments.video):
        return
    content = open(server.arguments.video, "rb").read() if server.arguments.video else BARE_CLIP
    part = {"type": "video_url", "video_url": {"url": data("video/mp4", content)}}
    parts = [part, {"type": "text", "text": "look"}]
    answer = server.chat(parts, temperature=0, extra_body={"mm_processor_kwargs": {"num_frames": 2}})
    if server.scripted:
        assert answer.choices[0].message.content == f"video:mp4:{len(content)}:", answer
    else:
        more = server.chat(parts, temperature=0, extra_body={"mm_processor_kwargs": {"num_frames": 4}})
        assert more.usage.prompt_tokens > answer.usage.prompt_tokens, (more.usage, answer.usage)


@check
def many_at_once(server):
    texts = {}

    def ask(number):
        answer = server.chat(f"words {number % 7 + 1}", temperature=0)
        texts.setdefault(number % 7, set()).add(answer.choices[0].message.content)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(14)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(texts) == 7 and all(len(same) == 1 for same in texts.values()), texts


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--key")
    parser.add_argument("--model")
    parser.add_argument("--image")
    parser.add_argument("--video")
    parser.add_argument("--no-media", action="store_true", help="the model sees nothing")
    parser.add_argument("--scripted", action="store_true", help="the server is the example of the crate")
    parser.add_argument("--timeout", type=float, default=300.0)
    parser.add_argument("--long", type=int, default=400, help="tokens of an answer that takes more than a second")
    parser.add_argument("--only", action="append", help="run these checks alone")
    server = Server(parser.parse_args())
    failed = 0
    for function in CHECKS:
        if server.arguments.only and function.__name__ not in server.arguments.only:
            continue
        try:
            function(server)
            print(f"ok      {function.__name__}")
        except Exception as error:  # every check is run, whatever the others say
            failed += 1
            print(f"FAILED  {function.__name__}: {type(error).__name__}: {error}")
    raise SystemExit(1 if failed else 0)


if __name__ == "__main__":
    main()
