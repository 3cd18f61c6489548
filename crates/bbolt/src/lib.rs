//! Database files of bbolt, as etcd's snapshots are: written in one pass, read with every bound
//! checked.
//!
//! ```text
//! file      page 0: meta   page 1: meta   page 2: freelist   pages of trees …
//! page      id(8) flags(2) count(2) overflow(4)  content         overflow: pages after it that
//!                                                                belong to it
//! meta      magic(4) version(4) page size(4) flags(4)
//!           root(8) sequence(8) freelist(8) pages(8) txid(8) checksum(8)
//! branch    (position(4) key length(4) page(8)) × count          keys
//! leaf      (flags(4) position(4) key length(4) value length(4)) × count   keys and values
//! bucket    root(8) sequence(8) [page]       the value of a leaf entry with flag 1; root 0 means
//!                                            that the bucket's one leaf follows at once
//! freelist  page(8) × count                  count 65535: the first number is the count
//! ```
//!
//! Integers are little endian. A position counts from the start of its own element. The meta page
//! with the higher txid that is whole counts. The root is a tree of buckets; a bucket is a tree of
//! keys and values. Source: `go.etcd.io/bbolt`, `internal/common`.
//!
//! - [`Writer`] takes buckets and keys in ascending order and writes each page once: its memory is
//!   two pages a level of the tree. What it writes has no free pages.
//! - [`Reader`] finds buckets and walks them; [`Reader::check`] looks at every page.
//!
//! Left out: changing a file, deeper buckets than one level, which etcd does not have.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod check;
mod error;
mod format;
mod reader;
mod tree;
mod writer;

pub use error::{Error, Result};
pub use format::KEY_BYTES_MAX;
pub use reader::{Cursor, Reader};
pub use writer::Writer;
