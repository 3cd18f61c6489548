//! Views of the store at a revision.
