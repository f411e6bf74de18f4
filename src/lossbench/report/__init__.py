"""Results of a sweep: a page with figures, tables as files, and the answer in a terminal."""
