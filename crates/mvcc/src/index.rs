//! All keys in order, with their heads.
