"""flota.v1: the data model: messages generated from the .proto files beside this one, and rules that belong to them."""
