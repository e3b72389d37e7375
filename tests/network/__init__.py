"""Two hosts on one machine, with a cable between them that can fail."""
