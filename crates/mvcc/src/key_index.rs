//! The revisions of one key, in generations.
