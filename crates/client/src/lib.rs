//! A typed client of kvd, and of etcd, whose API it speaks.
//!
//! A request's way through it:
//!
//! ```text
//! Client::put ── kv      builds etcd's message from the options
//!     └ retry            one deadline, one rule: may this request be sent twice?
//!         └ channel      an endpoint that is connected, round robin; else all are dialled
//!             └ tonic    HTTP/2
//! ```
//!
//! The rule that matters: a write is sent again only when it certainly never left this process. A
//! write whose fate is unknown (the connection broke, the deadline passed) is reported, never
//! repeated. Reads are repeated while a server is unavailable, inside the deadline.
//!
//! ```no_run
//! # async fn example() -> kvd_client::Result<()> {
//! use kvd_client::{Client, Compare, GetOptions, Op, PutOptions, Txn};
//!
//! let client = Client::builder(["127.0.0.1:2379"]).build()?;
//! client.put("greeting", "hello", PutOptions::new()).await?;
//! let found = client.get("greeting", GetOptions::new()).await?;
//! assert_eq!(&found.kvs[0].value[..], b"hello");
//!
//! let create = Txn::new()
//!     .when([Compare::version("lock").equal(0)])
//!     .and_then([Op::put("lock", "mine", PutOptions::new())]);
//! let taken = client.txn(create).await?.succeeded;
//! # let _ = taken;
//! # Ok(())
//! # }
//! ```
//!
//! Left out so far: TLS, authentication, and watches. An `https://` endpoint is refused with
//! [`Error::TlsUnsupported`].
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod channel;
mod client;
mod cluster;
mod endpoint;
mod error;
mod kv;
mod lease;
mod maintenance;
mod retry;
mod txn;

pub use client::{Builder, Client};
pub use endpoint::Endpoint;
pub use error::{Attempt, Error, Result, code_name};
pub use kv::{DeleteOptions, GetOptions, GetResponse, PutOptions, Span, prefix_end};
pub use kvd_api::pb::etcdserverpb as pb;
pub use kvd_api::pb::mvccpb::KeyValue;
pub use kvd_api::wire::RangeResponse;
pub use lease::KeepAlive;
pub use pb::range_request::{SortOrder, SortTarget};
pub use retry::Rule;
pub use txn::{Compare, CompareBuilder, Op, Txn};
