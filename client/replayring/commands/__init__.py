"""What the client's commands share; each command is a module of its own elsewhere."""
