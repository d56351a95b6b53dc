"""A forward proxy that takes names of the test domain to the server, for clients that leave names to the system's resolver."""
import socket
import threading


class NameProxy:
    """Listens on 127.0.0.1; one request per connection."""

    def __init__(self, target):
        host, _, port = target.endpoint.partition("://")[2].partition(":")
        self._server = (host, int(port))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = "http://127.0.0.1:%d" % self._listener.getsockname()[1]

    def __enter__(self):
        threading.Thread(target=self._serve, daemon=True).start()
        return self

    def __exit__(self, *_):
        self._listener.close()

    def _serve(self):
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._one, args=(client,), daemon=True).start()

    def _one(self, client):
        with client:
            head = b""
            while b"\r\n\r\n" not in head:
                piece = client.recv(65536)
                if not piece:
                    return
                head += piece
            head, _, body = head.partition(b"\r\n\r\n")
            lines = head.split(b"\r\n")
            method, url, version = lines[0].split(b" ")
            path = b"/" + url.partition(b"://")[2].partition(b"/")[2]
            kept = [line for line in lines[1:] if not line.lower().startswith((b"connection:", b"proxy-connection:"))]
            with socket.create_connection(self._server) as server:
                server.sendall(b"\r\n".join([b" ".join([method, path, version]), *kept, b"Connection: close", b"", b""]) + body)
                threading.Thread(target=_pump, args=(client, server), daemon=True).start()
                _pump(server, client)


def _pump(source, sink):
    try:
        while piece := source.recv(65536):
            sink.sendall(piece)
    except OSError:
        pass
