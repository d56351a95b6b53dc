"""Callbacks of uploads: an application server of the test's own, asked for by oss2 and by forms."""
import base64
import http.server
import json
import subprocess
import threading
import time
import urllib.parse
import xml.etree.ElementTree as ElementTree

import oss2
import pytest
import requests

from harness import digest
from harness.sdk import ApiError, make
from .test_bucket import fresh_name
from .test_post_object import signed_v1, signed_v4

OK = {"Status": "OK", "中": [1, 2]}
PUBLIC_KEY_URL = "http://keys.granary.test/callback.pem"


class App:
    """An HTTP server that remembers what it got and answers as it is told."""

    def __init__(self):
        app = self
        self.seen, self.answer = [], None

        class Handler(http.server.BaseHTTPRequestHandler):
            """One request."""

            def do_POST(self):
                """Remembers and answers."""
                body = self.rfile.read(int(self.headers["Content-Length"]))
                app.seen.append((self.path, {k.lower(): v for k, v in self.headers.items()}, body))
                app.answer(self)

            def log_message(self, *args):
                """Says nothing."""

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.says(200, json.dumps(OK).encode())

    @property
    def url(self):
        """Where it is called."""
        return f"http://127.0.0.1:{self.port}/call%20back?a=%20b"

    def says(self, status, body, length=None, pause=0, **headers):
        """Sets the answer."""
        def answer(handler):
            time.sleep(pause)
            handler.send_response(status)
            for name, value in headers.items():
                handler.send_header(name, value)
            handler.send_header("Content-Length", str(len(body) if length is None else length))
            handler.end_headers()
            handler.wfile.write(body)
        self.answer = answer

    def fields(self):
        """The last body, read as a form."""
        return dict(urllib.parse.parse_qsl(self.seen[-1][2].decode(), keep_blank_values=True))


@pytest.fixture
def app():
    """An application server."""
    made = App()
    yield made
    made.server.shutdown()
    made.server.server_close()


@pytest.fixture(scope="module")
def key(tmp_path_factory):
    """An RSA key and its public half, as an operator makes them."""
    place = tmp_path_factory.mktemp("callback-key")
    private, public = place / "private.pem", place / "public.pem"
    subprocess.run(["openssl", "genrsa", "-out", private, "2048"], check=True, capture_output=True)
    subprocess.run(["openssl", "rsa", "-in", private, "-pubout", "-out", public], check=True, capture_output=True)
    return private, public


@pytest.fixture(scope="module")
def calling_server(make_server, key, tmp_path_factory):
    """A server that may call this machine, and signs."""
    config = tmp_path_factory.mktemp("callback-config") / "granary.toml"
    config.write_text('[gateway]\ncallback_hosts = ["127.0.0.0/8"]\n'
                      f'callback_key_file = "{key[0]}"\ncallback_public_key_url = "{PUBLIC_KEY_URL}"\n')
    return make_server("callback", flags=["--config", str(config)])


@pytest.fixture
def server(calling_server):
    """The server of this module; fails the test that makes it log an alarm."""
    calling_server.new_alarms()
    yield calling_server
    alarms = calling_server.new_alarms([])
    assert not alarms, alarms[:10]


BODY = "bucket=${bucket}&object=${object}&etag=${etag}&size=${size}&mimeType=${mimeType}&height=${imageInfo.height}" \
       "&crc=${crc64}&md5=${contentMd5}&ip=${clientIp}&id=${reqId}&operation=${operation}&vpc=${vpcId}&var=${x:var}"


def encoded(value):
    """Base64 of JSON, as callbacks are carried."""
    return base64.b64encode(json.dumps(value).encode()).decode()


def asking(app, variables=True, **more):
    """The headers of an upload that asks for a callback."""
    headers = {"x-oss-callback": encoded({"callbackUrl": app.url, "callbackBody": BODY, **more})}
    if variables:
        headers["x-oss-callback-var"] = encoded({"x:var": "a&b=ü"})
    return headers


def raw_bucket(server, bucket, auth):
    """oss2's bucket, whose results keep the body."""
    cred = server.credentials
    return oss2.Bucket(oss2.make_auth(cred.key_id, cred.secret, auth), server.endpoint, bucket, region=cred.region)


@pytest.mark.parametrize("auth", ["v1", "v4"])
def test_put_object(server, wire, bucket, app, key, tmp_path, auth):
    headers = {**asking(app, callbackHost="app.example"), "Content-Type": "text/plain"}
    result = raw_bucket(server, bucket, auth).put_object("dir/ü x", b"hello", headers=headers)
    assert (result.status, json.loads(result.resp.response.content)) == (200, OK)
    assert result.headers["Content-Type"] == "application/json"
    assert result.etag == digest.etag(b"hello")
    assert app.fields() == {
        "bucket": bucket, "object": "dir/ü x", "etag": digest.etag(b"hello"), "size": "5", "mimeType": "text/plain", "height": "",
        "crc": str(digest.crc64(b"hello")), "md5": "XUFAKrxLKna5cZ2REBfFkg==", "ip": "127.0.0.1", "id": result.request_id,
        "operation": "PutObject", "vpc": "", "var": "a&b=ü"}
    path, got, body = app.seen[-1]
    assert (path, got["host"]) == ("/call%20back?a=%20b", "app.example")
    # As an application server verifies it, with the public key that the URL leads to.
    assert base64.b64decode(got["x-oss-pub-key-url"]).decode() == PUBLIC_KEY_URL
    (tmp_path / "signature").write_bytes(base64.b64decode(got["authorization"]))
    (tmp_path / "signed").write_bytes(b"/call back?a=%20b\n" + body)
    verified = subprocess.run(["openssl", "dgst", "-md5", "-verify", key[1], "-signature", tmp_path / "signature", tmp_path / "signed"],
                              capture_output=True, text=True)
    assert verified.stdout.strip() == "Verified OK", verified.stdout + verified.stderr
    assert wire.get(bucket, "dir/ü x").body == b"hello"


def test_complete_multipart_upload(server, wire, bucket, app):
    target = raw_bucket(server, bucket, "v4")
    upload = target.init_multipart_upload("big", headers={**asking(app), "Content-Type": "a/b"}).upload_id
    part = target.upload_part("big", upload, 1, b"x" * 200_000)
    result = target.complete_multipart_upload("big", upload, [oss2.models.PartInfo(1, part.etag)], headers=asking(app))
    assert json.loads(result.resp.response.content) == OK
    told = app.fields()
    assert len(app.seen) == 1, "the completion calls, and nothing before it"
    assert (told["object"], told["size"], told["mimeType"]) == ("big", "200000", "a/b")
    assert told["operation"] == "CompleteMultipartUpload"
    assert told["etag"].endswith("-1")
    assert wire.get(bucket, "big").body == b"x" * 200_000


def test_a_directory_that_an_upload_makes(server, wire, app):
    """It is told with the digests that the uploader gets."""
    tree = fresh_name("hns-")
    wire.must("PUT", tree, headers={"x-oss-hns-status": "enabled"})
    result = raw_bucket(server, tree, "v4").put_object("dir/", b"", headers=asking(app))
    told = app.fields()
    assert (told["object"], told["etag"], told["crc"], told["size"]) == ("dir/", result.etag, result.headers["x-oss-hash-crc64ecma"], "0")
    assert (told["etag"], told["md5"]) == (digest.etag(b""), result.headers["Content-MD5"])
    wire.must("DELETE", tree, "dir/")
    wire.must("DELETE", tree)


def test_json_bodies(server, bucket, app):
    body = '{"object": ${object}, "size": ${size}, "quoted": "<${x:var}>", "width": ${imageInfo.width}}'
    headers = asking(app, callbackBody=body, callbackBodyType="application/json")
    raw_bucket(server, bucket, "v4").put_object('a"b\\c', b"hello", headers=headers)
    _, got, sent = app.seen[-1]
    assert got["content-type"] == "application/json"
    assert json.loads(sent) == {"object": 'a"b\\c', "size": 5, "quoted": "<a&b=ü>", "width": ""}


@pytest.mark.parametrize("auth", ["v1", "v4"])
def test_presigned_urls(server, wire, bucket, app, auth):
    callback = encoded({"callbackUrl": app.url, "callbackBody": BODY})
    url = raw_bucket(server, bucket, auth).sign_url("PUT", "k", 60, params={"callback": callback, "callback-var": encoded({"x:var": "1"})},
                                                    slash_safe=True)
    answer = requests.put(url, data=b"x", timeout=60)
    assert (answer.status_code, answer.json()) == (200, OK)
    assert app.fields()["var"] == "1"
    both = requests.put(url, data=b"y", headers={"x-oss-callback": callback}, timeout=60)
    assert both.status_code in (400, 403), "one way only, or not what was signed"
    assert wire.get(bucket, "k").body == b"x"


@pytest.mark.parametrize("sign", [signed_v1, signed_v4])
def test_forms(server, wire, bucket, app, sign):
    callback = encoded({"callbackUrl": app.url, "callbackBody": BODY})
    fields = {"key": "k", "callback": callback, "x:var": "from the form", **sign(server.credentials, [{"callback": callback}])}
    answer = requests.post(f"{server.endpoint}/{bucket}", data=fields, files={"file": b"x"}, timeout=60)
    assert (answer.status_code, answer.json()) == (200, OK), answer.text
    assert (app.fields()["var"], app.fields()["operation"]) == ("from the form", "PostObject")
    # The policy names another callback.
    fields = {"key": "k2", "callback": callback, **sign(server.credentials, [{"callback": "other"}])}
    answer = requests.post(f"{server.endpoint}/{bucket}", data=fields, files={"file": b"x"}, timeout=60)
    assert answer.status_code == 403
    assert wire.request("GET", bucket, "k2").status == 404


def refusing(app):
    """Closes the port."""
    app.server.shutdown()
    app.server.server_close()


@pytest.mark.parametrize("change, message", [
    (lambda app: app.says(301, b"", Location="http://127.0.0.1/"), "Error status : 301."),
    (lambda app: app.says(404, b"{}"), "Error status : 404."),
    (lambda app: app.says(500, b"{}"), "Error status : 500."),
    (lambda app: app.says(200, b"not json"), "Response body is not valid json format."),
    (lambda app: app.says(200, b'"' + b"x" * (3 << 20) + b'"'), "Error Status : 400.User server return too long content-length value."),
    (lambda app: app.says(200, b"{}", pause=6), "Cost too long time."),
    (refusing, "Error status : -1.OSS can not connect to your callbackUrl, please check it."),
])
def test_a_failure_keeps_the_object(server, wire, bucket, app, change, message):
    change(app)
    # To this SDK every 2xx is a success; the body tells.
    result = raw_bucket(server, bucket, "v4").put_object("k", b"hello", headers=asking(app))
    error = {child.tag: child.text for child in ElementTree.fromstring(result.resp.response.content)}
    assert (result.status, error["Code"], error["Message"], error["EC"]) == (203, "CallbackFailed", message, "0007-00000203")
    assert (result.etag, result.headers["x-oss-ec"]) == (digest.etag(b"hello"), "0007-00000203")
    assert wire.get(bucket, "k").body == b"hello"


def test_servers_in_their_order(server, bucket, app):
    other = App()
    other.says(500, b"{}")
    closed = App()
    refusing(closed)
    urls = [closed.url, other.url, app.url, other.url]
    raw_bucket(server, bucket, "v4").put_object("k", b"x", headers=asking(app, callbackUrl=";".join(urls)))
    assert (len(other.seen), len(app.seen)) == (1, 1)
    refusing(other)


@pytest.mark.parametrize("headers, code, message", [
    ({"x-oss-callback": "error argument"}, "InvalidArgument", "The callback configuration is not base64 encoded."),
    ({"x-oss-callback": base64.b64encode(b"error argument").decode()}, "InvalidArgument", "The callback configuration is not json format."),
    ({"x-oss-callback": encoded({"callbackUrl": "http://10.0.0.1/", "callbackBody": "x"})}, "InvalidArgument",
     "Private address is forbidden to callback."),
    ({"x-oss-callback": encoded({"callbackUrl": ";".join("abcdef"), "callbackBody": "x"})}, "InvalidArgument",
     "The number of callback url exceed max value."),
    ({"x-oss-callback": encoded({"callbackPolicy": "p"})}, "NotImplemented", None),
])
def test_what_is_wrong_stores_nothing(server, wire, bucket, headers, code, message):
    for name in ("oss2-v1", "ossv2-v4"):
        with pytest.raises(ApiError) as raised:
            make(name, server).put_object(bucket, "k", b"x", headers=headers)
        assert raised.value.code == code
        assert message in (None, raised.value.message)
        assert wire.request("GET", bucket, "k").status == 404
