//! Flags and environment variables.
//!
//! [`table`] holds one row a flag; [`value`] checks a value's text by its kind; [`parse`] reads
//! the command line; [`mod@env`] the environment; [`help`] prints.
//!
//! The parser is written by hand rather than taken from clap, because etcd's command line follows
//! Go's `flag` package and scripts lean on that: `-name` and `--name` are the same flag, a boolean
//! is bare or `=true` and never takes the next argument, parsing stops at the first word that is
//! not a flag, the last of two wins, numbers may be hexadecimal, and each kind of mistake has its
//! own text and exit code. A `Kind` and a status for each of some 150 names would have to be told
//! to clap in pieces; here they are one table that the documentation is made from as well.

pub mod docs;
pub mod env;
pub mod help;
mod legacy;
pub mod parse;
mod rows;
pub mod table;
pub mod value;
