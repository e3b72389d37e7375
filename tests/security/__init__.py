"""Who gets in: TLS, tokens, addresses, and connections that are none."""
