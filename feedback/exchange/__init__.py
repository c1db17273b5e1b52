"""Files in and out: what they are made of, which format they have, and what a row of each says.

docs/data.md shows each format. A file here holds one of them, its reader beside its writer. A reader takes
the object of a row and knows nothing of the database. A writer takes a `Preference` and leaves to `pairs()`
what it becomes. `feedback.imports` writes what was read, `feedback.exports` reads what is written.
"""
