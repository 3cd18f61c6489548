//! Leases on a running member.
//!
//! ```text
//! services/lease ── grant, revoke ──► core::propose ──► apply/lease ──► Leases (what there is)
//!        │                                                               ▲
//!        └─ keep alive, time to live ──► renew ──► here, if this member  │ when it runs out
//!                                          │       leads ────────────────┤
//!                                          └─► peers: the leader         │
//! expiry_loop (on the leader) ── what ran out ──► core::propose(LeaseExpire)
//! ```
//!
//! What there is is replicated and the same everywhere; when it runs out is known to the leader
//! alone, by its monotonic clock. A renewal is therefore no log entry. A new leader gives every
//! lease its TTL anew, or what was left at its last checkpoint, and one election timeout more.
//!
//! Never early: a leader manages leases only after it has applied everything of the terms before
//! ([`expiry_loop`]); it verifies with a quorum that it still leads before each renewal and each
//! round of expiries; and what it proposes by its clock counts in its own term only
//! (`apply/lease`).

pub mod expiry_loop;
mod leases;
mod peers;
mod renew;

pub use leases::{Leases, Renewal, TimeToLive};
pub(crate) use peers::channel as peer_channel;
pub use peers::{LessorService, Peers};
pub use renew::{renew, time_to_live};
