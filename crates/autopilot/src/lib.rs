//! What members decide by themselves, as plain functions over what was seen: nothing here opens a
//! socket, writes a file or reads a clock.
//!
//! # The life of a member in auto mode
//!
//! ```text
//! empty disk ── discovery ──▶ bootstrap::decide, round after round
//!     │                          ├─ Promise  write it down, go on
//!     │                          ├─ Start    all founders have promised the same: the cluster begins
//!     │                          ├─ Join     a cluster is there: ask its leader
//!     │                          └─ Wait     and say why
//!     ▼
//! member ── the leader, every half second ──▶ plan::plan: promote, or remove who is gone for good
//!        ── a request to join ──────────────▶ plan::admit: add, replace, wait, refuse
//! ```
//!
//! [`bootstrap`] begins a cluster exactly once; the proof stands there and its model is in
//! `bootstrap/tests.rs`. [`plan`] is the leader's judgement. [`status`] is what both tell the
//! outside, as JSON. [`discovery`] and [`name`] read what was given.
//!
//! Times are lengths that the caller measured with a monotonic clock: a clock that jumps changes no
//! decision.

pub mod bootstrap;
pub mod discovery;
pub mod name;
pub mod plan;
pub mod status;
