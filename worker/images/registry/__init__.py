"""Talking to registries: OCI's distribution specification, as a client that pulls.

`Registries` (client.py) is what others use. From a name to a layer on the disk:

    configuration   registries.conf(5) ──► where a name is to be had: mirrors, then the registry itself
    trust           certs.d ──► whom TLS believes there
    challenges      what an answer 401 asks for ──► authorization: credentials or a token, renewed in time
    transport       one request: redirects, refusals ──► failures: what went wrong, in words
    connections     proxies, TLS, and threads that wait for what comes
    fetching        a blob, over as many connections as it takes ──► arriving: its file, and how much of it is here

Pushing and trying credentials is skopeo's (../skopeo.py).
"""
