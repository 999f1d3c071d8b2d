"""What the checkpointer does with a session: reads, puts, pending writes, whole threads. All of it as flows."""
