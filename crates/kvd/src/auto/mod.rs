//! `--initial-cluster-state auto`: from an empty disk, or one with data, to who this member is.
//!
//! ```text
//!   lookup ─▶ exchange (GET /autopilot/identity) ─▶ kvd_autopilot::bootstrap::decide
//!     ▲                                                 │
//!     └── again, a few times a second ◀── Wait ─────────┤
//!                    disk: the promise, durable ◀───────┤
//!                    exchange (POST /autopilot/join) ◀──┴─▶ Start
//! ```
//!
//! [`early`] serves the ports meanwhile: other members ask who this is, and `/v1/autopilot` says
//! what it waits for ([`board`]). [`desired`] and [`kubernetes`] read how many members are wanted.
//! [`find`] asks who is where; [`report`] is the status of a member, from its leader.

pub mod begin;
pub mod board;
pub mod desired;
pub mod disk;
pub mod early;
pub mod exchange;
pub mod find;
pub mod kubernetes;
pub mod lookup;
pub mod peer;
pub mod report;
pub mod start;
