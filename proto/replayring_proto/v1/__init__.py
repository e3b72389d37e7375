"""Generated code of the wire package replayring.v1, with the .proto files it comes from."""
