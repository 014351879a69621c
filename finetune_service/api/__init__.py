"""The REST API: what the official OpenAI client expects of a server, and our own besides."""
