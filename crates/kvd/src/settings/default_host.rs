//! The address of this host that others most likely reach.

use std::net::{IpAddr, UdpSocket};

/// The source address of the default route; `None` without one.
///
/// Connecting a UDP socket sends nothing: the kernel only chooses a route. The target is from the
/// range kept for documentation, so that it never is a neighbour.
/// Source: etcd `pkg/netutil`, `GetDefaultHost`, which asks the routing table.
pub(super) fn default_host() -> Option<IpAddr> {
    let socket = UdpSocket::bind(("0.0.0.0", 0)).ok()?;
    socket.connect(("192.0.2.1", 9)).ok()?;
    let address = socket.local_addr().ok()?.ip();
    (!address.is_unspecified() && !address.is_loopback()).then_some(address)
}
