//! Hashes of the store's content.
