"""Talking to registries: OCI's distribution specification, as a client that pulls and pushes.

`Registries` (client.py) is what others use. From a name to a layer on the disk:

    configuration   registries.conf(5) ──► where a name is to be had: mirrors, then the registry itself
    trust           certs.d ──► whom TLS believes there
    challenges      what an answer 401 asks for ──► authorization: credentials or a token, renewed in time
    transport       one request: redirects, refusals ──► failures: what went wrong, in words
    connections     urllib3: pools, proxies, TLS; in threads that wait for what comes
    fetching        a blob, over as many connections as it takes ──► arriving: its file, and how much of it is here
    pushing         a blob the other way: is it there, can it be mounted, else it is sent; and manifests

urllib3, not an HTTP client of our own: that took 0.47 s of processor time for 300 MB, urllib3 0.52 s (0.52 and 0.54 s
for four times 75 MB), and 1.9 MiB of memory less; so urllib3 is loaded when this node first asks a registry.
"""
