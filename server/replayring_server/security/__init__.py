"""Who gets in: the server's certificates, its tokens, and where it may listen without them."""
