"""Tests of `replayring_proto`: the contract both sides agree on."""
