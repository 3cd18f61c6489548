//! The command line: every flag defined once, for parsing, environment, help and completions.
//!
//! `globals` flags of every command · `tree` the commands; `kv`, `cluster`, `auth`, `tools` their
//! flags · `parse` from words to commands, with cobra's messages · `environment` `KVCTL_*` and
//! `ETCDCTL_*` · `help` usage texts.

mod auth;
mod cluster;
mod environment;
mod globals;
pub(crate) mod help;
mod kv;
mod parse;
mod tools;
mod tree;

pub(crate) use auth::{
    AuthCommand, GrantPermissionArgs, RevokePermissionArgs, RoleCommand, UserAddArgs, UserCommand,
    UserGetArgs, UserPasswdArgs,
};
pub(crate) use cluster::{
    AlarmCommand, AutopilotCommand, DefragArgs, DowngradeCommand, EndpointArgs, EndpointCommand,
    HashKvArgs, MemberAddArgs, MemberCommand, MemberListArgs, MemberUpdateArgs, SnapshotCommand,
};
pub(crate) use environment::{Environment, variable};
pub(crate) use globals::{Files, Globals};
pub(crate) use kv::{
    CompactionArgs, DelArgs, ElectArgs, GetArgs, LeaseCommand, LineOp, LockArgs, PutArgs, TxnArgs,
    WatchArgs,
};
pub(crate) use parse::{Parsed, line_op, parse, watch_line};
pub(crate) use tools::{CheckCommand, DatascaleArgs, MirrorArgs, PerfArgs};
pub(crate) use tree::{Command, command};

#[cfg(test)]
mod tests;
