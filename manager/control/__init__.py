"""The control API: what people and tools ask of the cluster (proto/flota/v1/control.proto).

`Control` (servicer.py) answers on the leader. Each kind of object has a module with its calls; what a spec may say is
decided by pure functions (`*_rules`, `names`, `image_names`), `flota.v1.service_defaults` writes out what the user left
to us, `references` turns names into ids, `shown` withholds what is confidential.
"""
