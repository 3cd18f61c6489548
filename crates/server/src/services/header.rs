//! Completes the headers of responses.
//!
//! Apply and the read path know the revision a response belongs to; the member that answers adds
//! the cluster's ID, its own ID and its term.
//!
//! Source: etcd `server/etcdserver/api/v3rpc/header.go`.

use kvd_api::pb::etcdserverpb::ResponseHeader;

use crate::core::Core;

/// Completes `header`, which carries at most a revision. Without one it gets the current one.
pub fn fill(header: &mut Option<ResponseHeader>, core: &Core) {
    let revision = match header {
        Some(ResponseHeader { revision, .. }) if *revision != 0 => *revision,
        _ => core.store().current_revision(),
    };
    *header = Some(core.header(revision));
}
