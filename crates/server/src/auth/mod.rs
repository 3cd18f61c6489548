//! Users, roles, permissions and tokens.
//!
//! ```text
//! a call ──► services/admission: Credentials ─► Auth::identify ─► Caller     who is it
//!                  │                 Rule::check(View, Caller)               may it call at all
//!                  ▼
//!            services/*: View::read, put, txn, ...                           may it with these keys
//!                  │
//!            core::propose_for(Caller, ...) ─► the log ─► apply/auth: View   may it still
//!                                                            │
//!            users, roles ─► apply/auth: the tables of mvcc, a new View ─► Auth::publish
//! ```
//!
//! [`Auth`] holds the current [`View`], which never changes, and the tokens. A change of users or
//! roles makes a new view; only apply does. While auth is off, a request pays for one load of a
//! flag. What is asked before a request is replicated keeps the log free of what would be refused;
//! what counts is asked while applying it, at its place in the log.
//!
//! What is stored, in etcd's encoding, so that a backup holds it as etcd's does:
//!
//! | table | key | value |
//! |---|---|---|
//! | [`kvd_mvcc::Table::Auth`] | `authEnabled` | one byte, 1 or 0 |
//! | | `authRevision` | 8 bytes, big endian |
//! | [`kvd_mvcc::Table::AuthUsers`] | name | encoded `authpb.User` |
//! | [`kvd_mvcc::Table::AuthRoles`] | name | encoded `authpb.Role` |
//!
//! [`passwords`](password) are hashed by the member that is asked, never while applying.

mod caller;
mod held;
mod jwt;
pub mod password;
mod permissions;
mod rules;
mod signing;
pub mod simple;
mod store;
mod view;

pub use caller::{Caller, Credentials};
pub use held::{Held, Reading};
pub use jwt::JwtSettings;
pub use permissions::{Access, is_valid_range};
pub use rules::{RULES, Rule};
pub use store::{Auth, Settings, TokenKind, Unidentified};
pub use view::{LeaseKeys, ROOT_ROLE, ROOT_USER, User, Verdict, View};

#[cfg(test)]
mod tests;
