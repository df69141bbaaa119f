"""The drawn world: seeded scene records, their pictures, captions and exact truth."""
