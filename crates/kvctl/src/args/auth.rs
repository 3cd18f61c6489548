//! Flags of the commands about users and roles. Texts are etcdctl's.

use std::ffi::OsString;

use clap::{Args, Subcommand};

use super::tree::Ignored;

/// The `auth` commands.
#[derive(Subcommand, Clone, Debug)]
pub(crate) enum AuthCommand {
    /// Disables authentication
    Disable(Ignored),
    /// Enables authentication
    Enable(Ignored),
    /// Returns authentication status
    Status(Ignored),
}

/// The `user` commands.
#[derive(Subcommand, Clone, Debug)]
pub(crate) enum UserCommand {
    /// Adds a new user
    Add(UserAddArgs),
    /// Deletes a user
    #[command(override_usage = "delete <user name>")]
    Delete(Ignored),
    /// Gets detailed information of a user
    Get(UserGetArgs),
    /// Grants a role to a user
    #[command(override_usage = "grant-role <user name> <role name>")]
    GrantRole(Ignored),
    /// Lists all users
    List(Ignored),
    /// Changes password of user
    Passwd(UserPasswdArgs),
    /// Revokes a role from a user
    #[command(override_usage = "revoke-role <user name> <role name>")]
    RevokeRole(Ignored),
}

/// Flags of `user add`.
#[derive(Args, Clone, Debug)]
#[command(override_usage = "add <user name or user:password> [options]")]
pub(crate) struct UserAddArgs {
    #[arg(hide = true)]
    pub(crate) words: Vec<OsString>,
    /// Read password from stdin instead of interactive terminal
    #[arg(long, default_value = "true")]
    pub(crate) interactive: bool,
    /// Supply password from the command line flag
    #[arg(
        long,
        value_name = "string",
        default_value = "",
        hide_default_value = true
    )]
    pub(crate) new_user_password: String,
    /// Create a user without password (CN based auth only)
    #[arg(long)]
    pub(crate) no_password: bool,
}

/// Flags of `user get`.
#[derive(Args, Clone, Debug)]
#[command(override_usage = "get <user name> [options]")]
pub(crate) struct UserGetArgs {
    #[arg(hide = true)]
    pub(crate) words: Vec<OsString>,
    /// Show permissions of roles granted to the user
    #[arg(long)]
    pub(crate) detail: bool,
}

/// Flags of `user passwd`.
#[derive(Args, Clone, Debug)]
#[command(override_usage = "passwd <user name> [options]")]
pub(crate) struct UserPasswdArgs {
    #[arg(hide = true)]
    pub(crate) words: Vec<OsString>,
    /// If true, read password from stdin instead of interactive terminal
    #[arg(long, default_value = "true")]
    pub(crate) interactive: bool,
}

/// The `role` commands.
#[derive(Subcommand, Clone, Debug)]
pub(crate) enum RoleCommand {
    /// Adds a new role
    #[command(override_usage = "add <role name>")]
    Add(Ignored),
    /// Deletes a role
    #[command(override_usage = "delete <role name>")]
    Delete(Ignored),
    /// Gets detailed information of a role
    #[command(override_usage = "get <role name>")]
    Get(Ignored),
    /// Grants a key to a role
    GrantPermission(GrantPermissionArgs),
    /// Lists all roles
    List(Ignored),
    /// Revokes a key from a role
    RevokePermission(RevokePermissionArgs),
}

/// Flags of `role grant-permission`.
#[derive(Args, Clone, Debug)]
#[command(
    override_usage = "grant-permission [options] <role name> <permission type> <key> \
                            [endkey]"
)]
pub(crate) struct GrantPermissionArgs {
    #[arg(hide = true)]
    pub(crate) words: Vec<OsString>,
    /// grant a prefix permission
    #[arg(long)]
    pub(crate) prefix: bool,
    /// grant a permission of keys that are greater than or equal to the given key using byte
    /// compare
    #[arg(long)]
    pub(crate) from_key: bool,
}

/// Flags of `role revoke-permission`.
#[derive(Args, Clone, Debug)]
#[command(override_usage = "revoke-permission <role name> <key> [endkey]")]
pub(crate) struct RevokePermissionArgs {
    #[arg(hide = true)]
    pub(crate) words: Vec<OsString>,
    /// revoke a prefix permission
    #[arg(long)]
    pub(crate) prefix: bool,
    /// revoke a permission of keys that are greater than or equal to the given key using byte
    /// compare
    #[arg(long)]
    pub(crate) from_key: bool,
}
