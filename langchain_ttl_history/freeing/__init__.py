"""What is freed of a session that is over its caps, and what of it stays."""
