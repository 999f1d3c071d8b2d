"""How the parts of a session are stored: messages, channel values, pending writes."""
