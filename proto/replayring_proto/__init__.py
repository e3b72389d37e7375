"""What replayring's client and server agree on: wire messages, packs, specs, files and errors.

Importing this package pulls in numpy alone; grpc is imported by `status` only, and protobuf by the
modules that handle messages.
"""
