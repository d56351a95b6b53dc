"""A collector that keeps what it is sent: enough of HTTP/2 to let an OTLP/gRPC client go on."""
import socket
import threading

SETTINGS, WINDOW_UPDATE, DATA, HEADERS, PING = 4, 8, 0, 1, 6
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


class Collector:
    """Listens on a local port; `received` holds the payloads of all DATA frames."""

    def __init__(self):
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._lock = threading.Lock()
        self._payload = bytearray()
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def endpoint(self):
        """What --otlp-endpoint is given."""
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def received(self):
        """All payload bytes so far; protobuf writes strings as they are."""
        with self._lock:
            return bytes(self._payload)

    def close(self):
        """Stops listening."""
        self._listener.close()

    def _accept(self):
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection):
        with connection, connection.makefile("rb") as stream:
            if stream.read(len(PREFACE)) != PREFACE:
                return
            connection.sendall(frame(SETTINGS, 0, 0))
            connection.sendall(frame(WINDOW_UPDATE, 0, 0, (1 << 30).to_bytes(4, "big")))
            while head := stream.read(9):
                length, kind, flags = int.from_bytes(head[:3], "big"), head[3], head[4]
                number, payload = int.from_bytes(head[5:], "big"), stream.read(length)
                if kind == SETTINGS and not flags & 1:
                    connection.sendall(frame(SETTINGS, 1, 0))
                elif kind == PING and not flags & 1:
                    connection.sendall(frame(PING, 1, 0, payload))
                elif kind == DATA:
                    with self._lock:
                        self._payload += payload
                    if flags & 1:
                        # `:status: 200` and `grpc-status: 0`, literally; an empty message between them.
                        status = b"\x88" + literal("content-type", "application/grpc")
                        connection.sendall(frame(HEADERS, 4, number, status))
                        connection.sendall(frame(DATA, 0, number, bytes(5)))
                        connection.sendall(frame(HEADERS, 5, number, literal("grpc-status", "0")))


def frame(kind, flags, stream, payload=b""):
    """An HTTP/2 frame (RFC 9113, section 4.1)."""
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def literal(name, value):
    """A header that is not indexed (RFC 7541, section 6.2.2)."""
    return b"\x00" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()
