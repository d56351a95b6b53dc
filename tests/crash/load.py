"""Concurrent clients that write, read and delete, and note in the model what they were told."""
import http.client
import threading
import time

from harness import digest
from harness.wire import content_md5, delete_body

from .model import Upload, Value

PART_BYTES = 102_400
# What a client sees of a server that was killed: the outcome of the call is unknown.
LOST = (OSError, http.client.HTTPException)


class Surprise(AssertionError):
    """The store answered something it never may."""


class Worker(threading.Thread):
    """One client thread with its own keys, and a few it shares with the others."""

    def __init__(self, number, server, bucket, model, rng, stopping):
        super().__init__(daemon=True)
        self.number, self.bucket, self.model, self.rng, self.stopping = number, bucket, model, rng, stopping
        self.raw = server.wire(auth="v1" if number % 2 else "v4", timeout_s=30)
        self.own = [f"w{number}/{'deep/' * (n % 3)}k{n:02}" for n in range(18)]
        self.shared = [f"shared/{n}" for n in range(4)]
        self.done, self.surprise = 0, None

    def run(self):
        actions = [self.put, self.put, self.put, self.put, self.delete, self.delete_many, self.copy, self.multipart,
                   self.multipart, self.read, self.read, self.listing, self.put_if_absent]
        while not self.stopping.is_set() and self.surprise is None:
            try:
                self.rng.choice(actions)()
                self.done += 1
            except LOST:
                if not self.stopping.wait(0.005):
                    self.raw.close()
            except AssertionError as surprise:
                self.surprise = surprise
        self.raw.close()

    def key(self):
        """A key of one's own, or now and then a contested one."""
        return self.rng.choice(self.shared if self.rng.random() < 0.15 else self.own)

    def send(self, write, register, *request, expect=(200, 204), **more):
        """Sends a write and notes its outcome; an answer of the 5xx kind leaves it unknown."""
        answer = self.raw.request(*request, **more)
        if answer.status in expect:
            register.acknowledge(write)
        elif answer.status < 500:
            register.refuse(write)
            raise Surprise(f"{request}: {answer.status} {answer.body[:300]!r}")
        return answer

    def put(self):
        key, value = self.key(), Value.draw(self.rng)
        register = self.model.register(key)
        body = value.body()
        write = register.begin(value)
        answer = self.send(write, register, "PUT", self.bucket, key, body=body, headers={"x-oss-meta-tag": value.tag()})
        if answer.status == 200 and answer.headers["x-oss-hash-crc64ecma"] != str(digest.crc64(body)):
            raise Surprise(f"PUT {key}: CRC-64 of something else")

    def put_if_absent(self):
        key, value = self.rng.choice(self.own), Value.draw(self.rng, size=300)
        register = self.model.register(key)
        try:
            known = register.known()
        except LookupError:
            return
        write = register.begin(value)
        answer = self.raw.request("PUT", self.bucket, key, body=value.body(), headers={"x-oss-forbid-overwrite": "true", "x-oss-meta-tag": value.tag()})
        if answer.status == 200 and known is None:
            register.acknowledge(write)
        elif answer.status == 409 and known is not None:
            register.refuse(write)
        elif answer.status < 500:
            raise Surprise(f"PUT {key} if absent, when it {'was' if known else 'was not'} there: {answer.status}")

    def delete(self):
        key = self.key()
        register = self.model.register(key)
        write = register.begin(None)
        self.send(write, register, "DELETE", self.bucket, key)

    def delete_many(self):
        keys = self.rng.sample(self.own, 3)
        body = delete_body(keys, quiet=False)
        writes = [(self.model.register(key), self.model.register(key).begin(None)) for key in keys]
        answer = self.raw.request("POST", self.bucket, query=["delete"], body=body, headers={"Content-MD5": content_md5(body)})
        if answer.status == 200:
            for register, write in writes:
                register.acknowledge(write)
        elif answer.status < 500:
            raise Surprise(f"delete many: {answer.status} {answer.body[:300]!r}")

    def copy(self):
        source, target = self.rng.sample(self.own, 2)
        try:
            value = self.model.register(source).known()
        except LookupError:
            return
        if value is None:
            return
        register = self.model.register(target)
        write = register.begin(value)
        self.send(write, register, "PUT", self.bucket, target, headers={"x-oss-copy-source": f"/{self.bucket}/{source}"})

    def multipart(self):
        key = self.rng.choice(self.own)
        answer = self.raw.request("POST", self.bucket, key, query=["uploads"])
        if answer.status != 200:
            return
        upload = Upload(key, answer.text("UploadId"))
        self.model.add_upload(upload)
        count = self.rng.randint(1, 4)
        for number in range(1, count + 1):
            self.upload_part(upload, number, PART_BYTES + self.rng.randrange(3) if number < count else self.rng.randrange(1, 200_000))
        if self.rng.random() < 0.3:
            self.upload_part(upload, 1, PART_BYTES)
        fate = self.rng.random()
        if fate < 0.6:
            self.complete(upload)
        elif fate < 0.8:
            self.abort(upload)

    def upload_part(self, upload, number, size):
        piece = (self.rng.getrandbits(48), size)
        upload.perhaps.setdefault(number, []).append(piece)
        if number in upload.parts:
            # Until the answer comes, either the old part or the new one is there.
            upload.perhaps[number].append(upload.parts.pop(number))
        body = Value((piece,)).body()
        answer = self.raw.request("PUT", self.bucket, upload.key, query=[("partNumber", str(number)), ("uploadId", upload.upload_id)], body=body)
        if answer.status == 200:
            if answer.headers["etag"].strip('"') != digest.etag(body):
                raise Surprise(f"part {number} of {upload.key}: ETag of something else")
            upload.parts[number] = piece
            upload.perhaps.pop(number)
        elif answer.status < 500:
            raise Surprise(f"part {number} of {upload.key}: {answer.status} {answer.body[:300]!r}")
        else:
            raise OSError("outcome unknown")

    def complete(self, upload):
        value = upload.value()
        register = self.model.register(upload.key)
        etags = [(n, digest.etag(Value((upload.parts[n],)).body())) for n in sorted(upload.parts)]
        write = register.begin(value)
        upload.ending = "complete"
        answer = self.raw.complete(self.bucket, upload.key, upload.upload_id, etags)
        if answer.status == 200:
            register.acknowledge(write)
            upload.ended = True
        elif answer.status < 500:
            raise Surprise(f"complete {upload.key}: {answer.status} {answer.body[:300]!r}")

    def abort(self, upload):
        upload.ending = "abort"
        answer = self.raw.request("DELETE", self.bucket, upload.key, query=[("uploadId", upload.upload_id)])
        if answer.status == 204:
            upload.ended = True
        elif answer.status < 500:
            raise Surprise(f"abort {upload.key}: {answer.status} {answer.body[:300]!r}")

    def read(self):
        key = self.key()
        register = self.model.register(key)
        start = time.monotonic()
        answer = self.raw.request("GET", self.bucket, key)
        if answer.status < 500:
            check_seen(key, answer, register.legal(start, time.monotonic()))

    def listing(self):
        """Own keys are written by nobody else, so a listing must show exactly those that exist."""
        answer = self.raw.request("GET", self.bucket, query=[("prefix", f"w{self.number}/"), ("max-keys", "1000")])
        if answer.status != 200:
            return
        seen = set(answer.texts("Contents/Key"))
        for key in self.own:
            try:
                there = self.model.register(key).known() is not None
            except LookupError:
                continue
            if there != (key in seen):
                raise Surprise(f"listing {'lacks' if there else 'still shows'} {key}")


def check_seen(key, answer, legal):
    """The answer to a GET is whole and one of the legal values; returns that value."""
    if answer.status == 404:
        if None not in legal:
            raise Surprise(f"{key} is gone; legal: {describe(legal)}")
        return None
    if answer.status != 200:
        raise Surprise(f"GET {key}: {answer.status} {answer.body[:300]!r}")
    for value in legal:
        if value is not None and value.size == len(answer.body) and value.body() == answer.body:
            check_headers(key, answer, value)
            return value
    raise Surprise(f"{key} holds {len(answer.body)} bytes (tag {answer.headers.get('x-oss-meta-tag')}) of no legal value: {describe(legal)}")


def check_headers(key, answer, value):
    """Digests and metadata belong to the very bytes."""
    if answer.headers["x-oss-hash-crc64ecma"] != str(digest.crc64(answer.body)):
        raise Surprise(f"{key}: CRC-64 of something else")
    etag = answer.headers["etag"].strip('"')
    if etag not in (value.etag(), digest.etag(answer.body)):
        raise Surprise(f"{key}: ETag {etag} of something else")
    tag = answer.headers.get("x-oss-meta-tag")
    if tag is not None and tag != value.tag():
        raise Surprise(f"{key}: metadata of another write ({tag}, not {value.tag()})")


def describe(legal):
    """Values in a few words."""
    return [None if value is None else value.tag() for value in legal]
