//! Opening, restoring and sharing the store.
