"""``make test`` puts this folder on PYTHONPATH, so that every Python it starts, kernels too, refuses to look up a name
by ``getaddrinfo`` (what C code, ``gethostbyname`` or ``connect`` itself resolves is not seen).

A refused name is also written to the file that ``REFUSED_NAMES`` names: a library that shrugs and goes on is found there
(``tests/floors``). This machine's own names are allowed.
"""

import os
import socket

_OWN = {"", "localhost", "127.0.0.1", "::1", "0.0.0.0", "::", socket.gethostname()}
_lookup = socket.getaddrinfo


def _refuse(host, *args, **kwargs):
    name = host.decode() if isinstance(host, bytes) else host
    if name is None or name in _OWN:
        return _lookup(host, *args, **kwargs)
    if path := os.environ.get("REFUSED_NAMES"):
        with open(path, "a", encoding="utf-8") as file:
            file.write(f"{name}\n")
    raise socket.gaierror(-3, f"tests look up no names, not even {name}")


socket.getaddrinfo = _refuse
