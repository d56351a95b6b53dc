"""Serves a page to a headless Chromium and prints what the page says; see tests/sdk/clients/program.py.

    run.py CHROMIUM SDK

SDK is the browser build of ali-oss. The page's origin is this program's, so that everything the page asks of the server
is asked by another site.
"""
import base64
import datetime
import hashlib
import hmac
import http.server
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "..", ".."))

from harness import signing  # noqa: E402  pylint: disable=wrong-import-position
from harness.wire import Wire, content_md5, xml_escape  # noqa: E402  pylint: disable=wrong-import-position

DEADLINE_S = 300
SERVER = urllib.parse.urlsplit(os.environ["GRANARY_ENDPOINT"])
DOMAIN = os.environ["GRANARY_DOMAIN"]
CRED = signing.Credentials(os.environ["GRANARY_KEY_ID"], os.environ["GRANARY_KEY_SECRET"], os.environ["GRANARY_REGION"])


class Application:
    """What the page's own server does for it."""

    def __init__(self, origin):
        self.origin, self.wire = origin, Wire(SERVER.hostname, SERVER.port, CRED)
        self.buckets, self.made, self.done = [], 0, threading.Event()

    def settings(self, _):
        """Where the server is, and who the page is to it."""
        return {"endpoint": f"http://{DOMAIN}:{SERVER.port}", "region": CRED.region, "keyId": CRED.key_id, "secret": CRED.secret, "callback": os.environ["GRANARY_CALLBACK"]}

    def bucket(self, asked):
        """A new bucket with rules; ORIGIN is the page's."""
        self.made += 1
        name = f"{os.environ['GRANARY_RUN']}-{self.made}"
        self.wire.must("PUT", name, headers={"x-oss-acl": asked["acl"]})
        self.buckets.append(name)
        rules = "".join(self._rule(rule) for rule in asked["rules"])
        if rules:
            body = f"<CORSConfiguration>{rules}</CORSConfiguration>".encode()
            self.wire.must("PUT", name, query=["cors"], body=body, headers={"Content-MD5": content_md5(body)})
        return {"bucket": name}

    def _rule(self, rule):
        parts = [("AllowedOrigin", [self.origin if o == "ORIGIN" else o for o in rule["origins"]]), ("AllowedMethod", rule["methods"]),
                 ("AllowedHeader", rule["headers"]), ("ExposeHeader", rule["expose"]), ("MaxAgeSeconds", [rule["age"]])]
        return "<CORSRule>" + "".join(f"<{name}>{xml_escape(str(value))}</{name}>" for name, values in parts for value in values) + "</CORSRule>"

    def keys(self, asked):
        """What is in a bucket."""
        return self.wire.must("GET", asked["bucket"]).texts("Contents/Key")

    def put(self, asked):
        """An object that the page did not write."""
        self.wire.put(asked["bucket"], asked["key"], asked["content"].encode())
        return {}

    @staticmethod
    def policy(asked):
        """The signed fields of a form."""
        now = datetime.datetime.now(datetime.timezone.utc)
        conditions = [{"bucket": asked["bucket"]}, *asked["conditions"]]
        fields = {}
        if asked["version"] == "v4":
            stamp = now.strftime("%Y%m%dT%H%M%SZ")
            fields = {"x-oss-signature-version": "OSS4-HMAC-SHA256", "x-oss-credential": f"{CRED.key_id}/{stamp[:8]}/{CRED.region}/oss/aliyun_v4_request", "x-oss-date": stamp}
            conditions += [{name: value} for name, value in fields.items()]
        expires = (now + datetime.timedelta(minutes=5)).strftime("%Y-%m-%dT%H:%M:%S.000Z")
        policy = base64.b64encode(json.dumps({"expiration": expires, "conditions": conditions}).encode())
        if asked["version"] == "v4":
            key = ("aliyun_v4" + CRED.secret).encode()
            for part in (stamp[:8], CRED.region, "oss", "aliyun_v4_request"):
                key = hmac.new(key, part.encode(), hashlib.sha256).digest()
            fields["x-oss-signature"] = hmac.new(key, policy, hashlib.sha256).hexdigest()
        else:
            fields = {"OSSAccessKeyId": CRED.key_id, "Signature": base64.b64encode(hmac.new(CRED.secret.encode(), policy, hashlib.sha1).digest()).decode()}
        return {**fields, "policy": policy.decode()}

    def line(self, said):
        """The result of a case, or the end."""
        print(json.dumps(said), flush=True)
        for bucket in self.buckets:
            self._empty(bucket)
        self.buckets.clear()
        if "cases" in said:
            self.done.set()
        return {}

    def _empty(self, bucket):
        versions = self.wire.must("GET", bucket, query=["versions", ("max-keys", "1000")]).xml
        for found in [*versions.findall("Version"), *versions.findall("DeleteMarker")]:
            self.wire.must("DELETE", bucket, found.findtext("Key"), query=[("versionId", found.findtext("VersionId"))])
        self.wire.delete_bucket_with_contents(bucket)


def handler(application, files):
    """Serves the page and answers what it asks."""

    class Handler(http.server.BaseHTTPRequestHandler):
        """One request."""

        protocol_version = "HTTP/1.1"
        lock = threading.Lock()

        def _send(self, status, kind, body):
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_GET(self):  # pylint: disable=invalid-name
            """A file."""
            path = self.path.partition("?")[0]
            if path in files:
                with open(files[path], "rb") as file:
                    self._send(200, "text/html" if path == "/" else "text/javascript; charset=utf-8", file.read())
            else:
                self._send(200 if path == "/done" else 404, "text/plain", b"")

        def do_POST(self):  # pylint: disable=invalid-name
            """Something that the application does."""
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            try:
                with self.lock:
                    answer = getattr(application, self.path[1:])(asked)
                self._send(200, "application/json", json.dumps(answer).encode())
            except Exception as error:  # pylint: disable=broad-except
                self._send(500, "text/plain", repr(error).encode())

        def log_message(self, *_):  # pylint: disable=arguments-differ
            """Says nothing."""

    return Handler


def main():
    """Runs the browser until the page is done."""
    chromium, sdk = sys.argv[1:3]
    files = {"/": os.path.join(HERE, "page.html"), "/cases.js": os.path.join(HERE, "cases.js"), "/sdk.js": sdk}
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), None)
    origin = f"http://127.0.0.1:{server.server_address[1]}"
    application = Application(origin)
    server.RequestHandlerClass = handler(application, files)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    profile = tempfile.mkdtemp(prefix="granary-chromium-")
    browser = subprocess.Popen(
        [chromium, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--disable-extensions", "--disable-background-networking",
         "--disable-sync", "--disable-component-update", "--no-default-browser-check", "--no-proxy-server", "--enable-logging=stderr", f"--user-data-dir={profile}",
         f"--host-resolver-rules=MAP {DOMAIN} {SERVER.hostname}, MAP *.{DOMAIN} {SERVER.hostname}", origin + "/"],
        stdin=subprocess.DEVNULL, stdout=sys.stderr, stderr=sys.stderr)
    try:
        end = time.monotonic() + DEADLINE_S
        while not application.done.wait(0.2):
            if browser.poll() is not None:
                print(f"the browser ended with {browser.returncode}", file=sys.stderr)
                return 1
            if time.monotonic() > end:
                print(f"the page was not done in {DEADLINE_S} s", file=sys.stderr)
                return 1
        return 0
    finally:
        browser.terminate()
        try:
            browser.wait(10)
        except subprocess.TimeoutExpired:
            browser.kill()
            browser.wait()
        shutil.rmtree(profile, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
