"""Several servers as one: mixing, writers, parameters, and shards that die."""
