"""Text to SQL: questions with gold queries and a database → a dataset, and queries executed."""
