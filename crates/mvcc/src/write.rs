//! The single writer and its transactions.
