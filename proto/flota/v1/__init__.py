"""flota.v1: the data model. Messages generated from the .proto files beside this one, and the rules that belong to them."""
