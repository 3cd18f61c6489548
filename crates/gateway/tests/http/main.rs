//! The gateway's routers as HTTP clients see them.

mod endpoints;
mod fake;
mod v1;
mod v3;
