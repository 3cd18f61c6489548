//! auth, user and role commands.
//!
//! Source: etcd `etcdctl/ctlv3/command/{auth,user,role}_command.go`.

use bytes::Bytes;
use kvd_api::error::WireError;
use kvd_client::{Client, Error, PermissionType, prefix_end};

use super::prompt::{self, count, none};
use super::{Session, bytes};
use crate::args::{
    AuthCommand, Globals, GrantPermissionArgs, RevokePermissionArgs, RoleCommand, UserAddArgs,
    UserCommand, UserGetArgs, UserPasswdArgs,
};
use crate::failure::{Failure, Outcome};
use crate::print::{Done, Streams};

pub(super) async fn auth(
    globals: &Globals,
    command: &AuthCommand,
    to: &mut Streams<'_>,
) -> Outcome {
    match command {
        AuthCommand::Enable(args) => {
            let otherwise = "auth enable command does not accept any arguments";
            none(&args.words, otherwise)?;
            let session = Session::open(globals, to).await?;
            enable(&session.client).await?;
            writeln!(to.out, "Authentication Enabled")?;
            Ok(())
        }
        AuthCommand::Disable(args) => {
            let otherwise = "auth disable command does not accept any arguments";
            none(&args.words, otherwise)?;
            let session = Session::open(globals, to).await?;
            session.client.auth_disable().await?;
            writeln!(to.out, "Authentication Disabled")?;
            Ok(())
        }
        AuthCommand::Status(args) => {
            let otherwise = "auth status command does not accept any arguments";
            none(&args.words, otherwise)?;
            let session = Session::open(globals, to).await?;
            let answer = session.client.auth_status().await?;
            session.printer.auth_status(to, &answer)
        }
    }
}

/// Turns authentication on, and gives `root` its role first when only that lacks.
async fn enable(client: &Client) -> Result<(), Error> {
    loop {
        match client.auth_enable().await {
            Ok(_) => return Ok(()),
            Err(error) if error.wire() == Some(WireError::RootUserDoesNotHaveRootRole) => {
                client.role_add("root").await?;
                client.user_grant_role("root", "root").await?;
            }
            Err(error) => return Err(error),
        }
    }
}

pub(super) async fn user(
    globals: &Globals,
    command: &UserCommand,
    to: &mut Streams<'_>,
) -> Outcome {
    match command {
        UserCommand::Add(args) => user_add(globals, args, to).await,
        UserCommand::Get(args) => user_get(globals, args, to).await,
        UserCommand::Passwd(args) => user_passwd(globals, args, to).await,
        UserCommand::Delete(args) => {
            let otherwise = "user delete command requires user name as its argument";
            let [name] = count(&args.words, otherwise)?;
            let session = Session::open(globals, to).await?;
            let answer = session.client.user_delete(&name).await?;
            let line = format!("User {name} deleted");
            session.printer.done(to, &Done::new(line, answer.header))
        }
        UserCommand::List(args) => {
            none(&args.words, "user list command requires no arguments")?;
            let session = Session::open(globals, to).await?;
            let answer = session.client.user_list().await?;
            session.printer.user_list(to, &answer)
        }
        UserCommand::GrantRole(args) => {
            let otherwise = "user grant command requires user name and role name as its argument";
            let [name, role] = count(&args.words, otherwise)?;
            let session = Session::open(globals, to).await?;
            let answer = session.client.user_grant_role(&name, &role).await?;
            let line = format!("Role {role} is granted to user {name}");
            session.printer.done(to, &Done::new(line, answer.header))
        }
        UserCommand::RevokeRole(args) => {
            let otherwise = "user revoke-role requires user name and role name as its argument";
            let [name, role] = count(&args.words, otherwise)?;
            let session = Session::open(globals, to).await?;
            let answer = session.client.user_revoke_role(&name, &role).await?;
            let line = format!("Role {role} is revoked from user {name}");
            session.printer.done(to, &Done::new(line, answer.header))
        }
    }
}

async fn user_add(globals: &Globals, args: &UserAddArgs, to: &mut Streams<'_>) -> Outcome {
    let otherwise = "user add command requires user name as its argument";
    let [word] = count(&args.words, otherwise)?;
    let (name, password) = if args.no_password {
        (&word[..], None)
    } else if !args.new_user_password.is_empty() {
        (&word[..], Some(args.new_user_password.clone()))
    } else {
        match prompt::split(&word) {
            ("", Some(_)) => return Err(Failure::bad_args("empty user name is not allowed")),
            (name, Some(password)) => (name, Some(password.to_owned())),
            (name, None) if args.interactive => (name, Some(prompt::new_password(name, to).await?)),
            (name, None) => (name, Some(prompt::password_from_stdin())),
        }
    };
    let session = Session::open(globals, to).await?;
    let answer = match password {
        Some(password) => session.client.user_add(name, &password).await?,
        None => session.client.user_add_without_password(name).await?,
    };
    let line = format!("User {name} created");
    session.printer.done(to, &Done::new(line, answer.header))
}

async fn user_get(globals: &Globals, args: &UserGetArgs, to: &mut Streams<'_>) -> Outcome {
    let otherwise = "user get command requires user name as its argument";
    let [name] = count(&args.words, otherwise)?;
    let session = Session::open(globals, to).await?;
    let answer = session.client.user_get(&name).await?;
    if !args.detail {
        return session.printer.user_get(to, &name, &answer);
    }
    writeln!(to.out, "User: {name}")?;
    for role in &answer.roles {
        writeln!(to.out)?;
        let permissions = session.client.role_get(role).await?;
        session.printer.role_get(to, role, &permissions)?;
    }
    Ok(())
}

async fn user_passwd(globals: &Globals, args: &UserPasswdArgs, to: &mut Streams<'_>) -> Outcome {
    let otherwise = "user passwd command requires user name as its argument";
    let [name] = count(&args.words, otherwise)?;
    let password = if args.interactive {
        prompt::new_password(&name, to).await?
    } else {
        prompt::password_from_stdin()
    };
    let session = Session::open(globals, to).await?;
    let answer = session
        .client
        .user_change_password(&name, &password)
        .await?;
    session
        .printer
        .done(to, &Done::new("Password updated", answer.header))
}

pub(super) async fn role(
    globals: &Globals,
    command: &RoleCommand,
    to: &mut Streams<'_>,
) -> Outcome {
    match command {
        RoleCommand::Add(args) => {
            let otherwise = "role add command requires role name as its argument";
            let [name] = count(&args.words, otherwise)?;
            let session = Session::open(globals, to).await?;
            let answer = session.client.role_add(&name).await?;
            let line = format!("Role {name} created");
            session.printer.done(to, &Done::new(line, answer.header))
        }
        RoleCommand::Delete(args) => {
            let otherwise = "role delete command requires role name as its argument";
            let [name] = count(&args.words, otherwise)?;
            let session = Session::open(globals, to).await?;
            let answer = session.client.role_delete(&name).await?;
            let line = format!("Role {name} deleted");
            session.printer.done(to, &Done::new(line, answer.header))
        }
        RoleCommand::Get(args) => {
            let otherwise = "role get command requires role name as its argument";
            let [name] = count(&args.words, otherwise)?;
            let session = Session::open(globals, to).await?;
            let answer = session.client.role_get(&name).await?;
            session.printer.role_get(to, &name, &answer)
        }
        RoleCommand::List(args) => {
            none(&args.words, "role list command requires no arguments")?;
            let session = Session::open(globals, to).await?;
            let answer = session.client.role_list().await?;
            session.printer.role_list(to, &answer)
        }
        RoleCommand::GrantPermission(args) => grant(globals, args, to).await,
        RoleCommand::RevokePermission(args) => revoke(globals, args, to).await,
    }
}

async fn grant(globals: &Globals, args: &GrantPermissionArgs, to: &mut Streams<'_>) -> Outcome {
    let [name, kind, keys @ ..] = &args.words[..] else {
        return Err(too_few_to_grant());
    };
    if keys.is_empty() {
        return Err(too_few_to_grant());
    }
    let kind = kind.to_string_lossy();
    let kind = match kind.to_uppercase().as_str() {
        "READ" => PermissionType::Read,
        "WRITE" => PermissionType::Write,
        "READWRITE" => PermissionType::Readwrite,
        _ => {
            return Err(Failure::bad_args(format!(
                "invalid permission type: {kind}"
            )));
        }
    };
    let (key, end) = span(keys, args.prefix, args.from_key)?;
    let name = name.to_string_lossy();
    let session = Session::open(globals, to).await?;
    let client = &session.client;
    let answer = client.role_grant_permission(&name, kind, key, end).await?;
    let line = format!("Role {name} updated");
    session.printer.done(to, &Done::new(line, answer.header))
}

fn too_few_to_grant() -> Failure {
    Failure::bad_args(
        "role grant command requires role name, permission type, and key [endkey] as its argument",
    )
}

async fn revoke(globals: &Globals, args: &RevokePermissionArgs, to: &mut Streams<'_>) -> Outcome {
    let ([name, keys @ ..], [_, _, ..]) = (&args.words[..], &args.words[..]) else {
        return Err(Failure::bad_args(
            "role revoke-permission command requires role name and key [endkey] as its argument",
        ));
    };
    let (key, end) = span(keys, args.prefix, args.from_key)?;
    let name = name.to_string_lossy();
    let session = Session::open(globals, to).await?;
    let client = &session.client;
    let answer = client
        .role_revoke_permission(&name, key, end.clone())
        .await?;
    let shown = keys[0].to_string_lossy();
    let what = match &end[..] {
        b"" => format!("key {shown}"),
        b"\0" => format!("range [{shown}, <open ended>"),
        end => format!("range [{shown}, {})", String::from_utf8_lossy(end)),
    };
    let line = format!("Permission of {what} is revoked from role {name}");
    session.printer.done(to, &Done::new(line, answer.header))
}

/// The key and the end of the range that a permission is about. The empty key stands for the first
/// key there can be, since a permission must have one.
fn span(
    keys: &[std::ffi::OsString],
    prefix: bool,
    from_key: bool,
) -> Result<(Bytes, Bytes), Failure> {
    const FIRST: Bytes = Bytes::from_static(b"\0");
    let key = Bytes::from(bytes(&keys[0]));
    let refuse = |why: &str| Err(Failure::bad_args(why));
    let exclusive = "--from-key and --prefix flags are mutually exclusive";
    match (keys.get(1), prefix, from_key) {
        (_, true, true) if key.is_empty() => refuse(exclusive),
        (_, prefix, from_key) if key.is_empty() => {
            let end = if prefix || from_key {
                FIRST
            } else {
                Bytes::new()
            };
            Ok((FIRST, end))
        }
        (None, true, true) => refuse(exclusive),
        (None, true, false) => Ok((key.clone(), prefix_end(&key))),
        (None, false, true) => Ok((key, FIRST)),
        (None, false, false) => Ok((key, Bytes::new())),
        (Some(_), true, _) => refuse("unexpected endkey argument with --prefix flag"),
        (Some(_), false, true) => refuse("unexpected endkey argument with --from-key flag"),
        (Some(end), false, false) => Ok((key, bytes(end).into())),
    }
}
