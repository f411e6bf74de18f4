"""What a sweep came to: a page with its figures, tables as files, the answer in a terminal."""
