//! A member that acts by itself (`--initial-cluster-state auto`): what `kvd-autopilot` decides is
//! seen and done here.
//!
//! ```text
//!   prober, records, log ─▶ watcher ─▶ a View ─▶ plan ─▶ leader: one change at a time
//!   DesiredSource ────────▶ desired ──┘     └─▶ admit ◀─ admission: who asks to be added
//!                                     └─▶ leave: this member, when it stops for good
//!                                     └─▶ report: GET /v1/autopilot
//! ```
//!
//! Every member watches; only the leader acts. A change is made only on the membership that the
//! decision was made on, after a quorum has confirmed the leader.

mod admission;
mod desired;
mod leader;
mod leave;
mod report;
mod state;

pub use admission::{identity, join};
pub use desired::{Desired, DesiredSource, Reading};
pub(crate) use leader::run;
pub use leave::leave;
pub use report::report;
pub use state::{Autopilot, Settings};
