//! The command line: every flag defined once, for parsing, environment, help and completions.
//!
//! `globals` flags of every command · `tree` the commands and their flags · `parse` from words to
//! commands, with cobra's messages · `environment` `KVCTL_*` and `ETCDCTL_*` · `help` usage texts.

mod environment;
mod globals;
pub(crate) mod help;
mod parse;
mod tree;

pub(crate) use environment::{Environment, variable};
pub(crate) use globals::Globals;
pub(crate) use parse::{Parsed, line_op, parse};
pub(crate) use tree::{
    AlarmCommand, CheckCommand, Command, CompactionArgs, DelArgs, EndpointArgs, EndpointCommand,
    GetArgs, HashKvArgs, LeaseCommand, LineOp, MemberCommand, MemberListArgs, PerfArgs, PutArgs,
    TxnArgs, command,
};

#[cfg(test)]
mod tests;
