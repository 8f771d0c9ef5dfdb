"""OCI images on this node: store, unpack, import and load.

`ImageStore` (store.py) is what others use, `ImageCalls` (calls.py) its part of the Agent service. From what comes over
the wire to what is mounted:

    receiving   parts ──► a file, compressed ──► plain (compression)
    archives    OCI layout, docker save ──► images for this machine (platforms) and where their layers begin (contents)
    importing   a root file system and instructions (changes) ──► an image
    layers      what is not there yet, once ──► unpack (chunks, attributes, lowers) ──► a directory
    keeping     what there is (index ──► index.json; catalogue: by name, digest, id)
    needs       who holds what, and what goes (removal: with a name; collection: by itself)
"""
