//! Removal of what no reader may see any more, paced.
