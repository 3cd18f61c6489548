//! Member to member: openraft's messages over gRPC, on the peer port.
//!
//! Four connections lead from a member to each peer, so that nothing waits behind something large
//! or slow: appends, control (heartbeats, votes, leadership transfer), snapshots, and forwarded
//! requests (proposals and read indexes). Each is a [`mod@line`]: made when it is first needed and made
//! again when it breaks, or when the peer is another process by now; the peer's name is resolved at
//! every attempt ([`Dialer`]).
//!
//! Appends and heartbeats travel on a stream that stays open ([`append`]): requests are numbered,
//! many may be under way, replies come back in the same order. `Peer` in `proto/peer.proto` is the
//! whole protocol; [`codec`] translates it, [`client`] speaks it, [`server`] answers it. Every
//! request names the cluster, the sender and the receiver ([`identity`]), so that a member with a
//! wrong configuration is refused, not believed.

/// Largest message taken from a peer, or sent to one. A larger entry could never be replicated, and
/// nothing after it: the server bounds commands well below this.
pub(crate) const MESSAGE_BYTES_MAX: usize = 576 << 20;

pub(crate) mod append;
pub(crate) mod client;
pub(crate) mod codec;
pub(crate) mod contact;
pub(crate) mod identity;
pub(crate) mod line;
pub(crate) mod resolve;
pub(crate) mod server;
pub(crate) mod transfers;

pub use client::{PeerHandle, was_not_sent};
pub use resolve::{Connection, Dialer, Dialing, PlainDialer};
pub use server::PeerService;
