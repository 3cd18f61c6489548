//! Foreign clients against kvd: see `tests/`.
