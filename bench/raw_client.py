"""One kept connection that sends requests as they are given and reads whole answers, at little cost: for times of single requests."""
import socket

PIECE_BYTES = 1 << 18


class Connection:
    """Belongs to one thread."""

    def __init__(self, port, timeout_s=300):
        self.host = f"127.0.0.1:{port}"
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=timeout_s)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.left = b""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def ask(self, method, path, body=b"", headers=""):
        """One exchange; returns (status, head, body). `headers` are whole lines."""
        length = f"Content-Length: {len(body)}\r\n" if body or method in ("PUT", "POST") else ""
        self.socket.sendall(f"{method} {path} HTTP/1.1\r\nHost: {self.host}\r\n{length}{headers}\r\n".encode() + body)
        return self.answer()

    def must(self, method, path, body=b"", headers=""):
        """The body of an answer that has to be good."""
        status, _, content = self.ask(method, path, body, headers)
        if status // 100 != 2:
            raise RuntimeError(f"{method} {path.partition('?')[0]}: {status} {content[:300]!r}")
        return content

    def answer(self):
        """Reads the answer to what was sent."""
        status, head = self.head()
        length = field(head, b"content-length")
        if field(head, b"transfer-encoding") == b"chunked":
            pieces = []
            while size := int(self.until(b"\r\n"), 16):
                pieces.append(self.exactly(size + 2)[:-2])
            self.until(b"\r\n")
            return status, head, b"".join(pieces)
        return status, head, self.exactly(int(length or 0))

    def head(self):
        """Reads status and head of an answer alone; its body is up to the caller."""
        head = self.until(b"\r\n\r\n")
        return int(head[9:12]), head

    def more(self):
        """Whatever comes next, some of it at least."""
        piece = self.socket.recv(PIECE_BYTES)
        if not piece:
            raise ConnectionError("the server has closed the connection")
        return piece

    def until(self, end):
        """What comes up to `end`."""
        while (at := self.left.find(end)) < 0:
            self.left += self.more()
        found, self.left = self.left[:at], self.left[at + len(end):]
        return found

    def exactly(self, size):
        """So many bytes."""
        pieces, have = [self.left], len(self.left)
        while have < size:
            pieces.append(self.more())
            have += len(pieces[-1])
        whole = b"".join(pieces)
        self.left = whole[size:]
        return whole[:size]


def field(head, name):
    """The value of a header in lower case, None without one."""
    for line in head.split(b"\r\n")[1:]:
        found, _, value = line.partition(b":")
        if found.lower() == name:
            return value.strip().lower()
    return None
