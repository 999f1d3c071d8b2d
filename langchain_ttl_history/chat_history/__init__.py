"""What a chat history does with a session: which of its messages are new, where each goes, and how they are stored."""
