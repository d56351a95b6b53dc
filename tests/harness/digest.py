"""The digests OSS computes, computed independently of the server."""
import hashlib

import crcmod

_ecma = crcmod.mkCrcFun(0x142F0E1EBA9EA3693, initCrc=0, xorOut=0xFFFFFFFFFFFFFFFF, rev=True)


def crc64(body, so_far=0):
    """CRC-64/ECMA of `body`, continuing from `so_far`, as the integer clients print in decimal."""
    return _ecma(body, so_far)


def etag(body):
    """The ETag of a simple object, without quotes."""
    return hashlib.md5(body).hexdigest().upper()


def multipart_etag(part_etags):
    """The ETag of a multipart object from the unquoted ETags of its parts."""
    return f"{hashlib.md5(''.join(part_etags).encode()).hexdigest().upper()}-{len(part_etags)}"
