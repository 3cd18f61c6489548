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
//! A [`Watch`] resumes where it stood when its connection is lost; [`Session`], [`Mutex`] and
//! [`Election`] are built on leases and watches as in etcd's own client.
//!
//! Connections are secured as [`TlsOptions`] say; a client with a user authenticates once and again
//! when its token is refused.
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod auth;
mod channel;
mod client;
mod cluster;
mod concurrency;
mod dial;
mod endpoint;
mod error;
mod kv;
mod lease;
mod maintenance;
mod page;
mod retry;
mod tls;
mod txn;
mod watch;

pub use client::{Builder, Client};
pub use concurrency::{Election, Mutex, Observer, Session};
pub use dial::connect_http1;
pub use endpoint::Endpoint;
pub use error::{Attempt, Error, Result, code_name};
pub use kv::{DeleteOptions, GetOptions, GetResponse, PutOptions, Span, prefix_end};
pub use kvd_api::pb::authpb::{Permission, permission::Type as PermissionType};
pub use kvd_api::pb::etcdserverpb as pb;
pub use kvd_api::pb::mvccpb::event::EventType;
pub use kvd_api::pb::mvccpb::{Event, KeyValue};
pub use kvd_api::wire::RangeResponse;
pub use lease::KeepAlive;
pub use maintenance::Snapshot;
pub use pb::downgrade_request::DowngradeAction;
pub use pb::range_request::{SortOrder, SortTarget};
pub use retry::Rule;
pub use tls::TlsOptions;
pub use txn::{Compare, CompareBuilder, Op, Txn};
pub use watch::{Watch, WatchOptions, WatchResponse, WatchStream};
