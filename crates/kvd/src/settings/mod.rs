//! What a member was told to be: every flag resolved to a type, and checked by etcd's rules.

mod auth;
mod autopilot;
mod bootstrap;
mod default_host;
mod discovery;
mod resolve;
mod security;
mod types;

pub use autopilot::{Autopilot, DesiredFrom};
pub(crate) use bootstrap::same_places;
pub use bootstrap::{Resolve, SystemResolver};
pub use discovery::{Discovery, Registry, SrvDomain};
pub use resolve::resolve;
pub use types::{
    AutoCompaction, ClusterState, LogFormat, LogLevel, LogOutput, LogSettings, Monitoring,
    Settings, StorageEngine,
};
