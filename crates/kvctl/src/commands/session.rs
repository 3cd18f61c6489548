//! What every command that talks to a server needs: a client and a printer.

use std::time::Duration;

use kvd_client::{Client, TlsOptions};

use super::{discovery, prompt};
use crate::args::{Files, Globals, MirrorArgs, command, variable};
use crate::failure::Failure;
use crate::print::{Printer, Streams, printer};

pub(super) struct Session {
    pub(super) client: Client,
    pub(super) printer: Box<dyn Printer>,
    identity: Identity,
    tls: Option<TlsOptions>,
}

impl Session {
    pub(super) async fn open(globals: &Globals, to: &mut Streams<'_>) -> Result<Self, Failure> {
        let tls = globals.tls()?;
        if globals.debug {
            debug(globals, to)?;
        }
        let identity = Identity::of(globals, to).await?;
        let printer = printer(&globals.write_out, globals.hex)?;
        let mut endpoints = match globals.discovery() {
            Some(discovery) => discovery::endpoints(discovery, to).await?,
            None => Vec::new(),
        };
        if endpoints.is_empty() {
            endpoints = globals.endpoints();
        }
        let client = client(globals, endpoints, &identity, tls.clone())?;
        Ok(Session {
            client,
            printer,
            identity,
            tls,
        })
    }

    /// The endpoints that are talked to.
    pub(super) fn endpoints(&self) -> Vec<String> {
        self.client.endpoints().map(str::to_owned).collect()
    }

    /// A client like this session's with connections of its own.
    pub(super) fn another(
        &self,
        globals: &Globals,
        endpoints: Vec<String>,
    ) -> Result<Client, Failure> {
        client(globals, endpoints, &self.identity, self.tls.clone())
    }
}

/// Who the user says to be.
pub(super) enum Identity {
    Nobody,
    User { name: String, password: String },
    Token(String),
}

impl Identity {
    /// From `--user`, `--password` and `--auth-jwt-token`; asks for a password that lacks.
    async fn of(globals: &Globals, to: &mut Streams<'_>) -> Result<Self, Failure> {
        if let Some(token) = globals.auth_jwt_token() {
            return Ok(Identity::Token(token.to_owned()));
        }
        match globals.user() {
            None => Ok(Identity::Nobody),
            Some(user) => Self::user(user, globals.password(), "Password: ", to).await,
        }
    }

    /// `user` is `name`, or without a `password` beside it, `name:password`.
    pub(super) async fn user(
        user: &str,
        password: Option<&str>,
        prompt: &str,
        to: &mut Streams<'_>,
    ) -> Result<Self, Failure> {
        let (name, password) = match (password, prompt::split(user)) {
            (Some(password), _) => (user, password.to_owned()),
            (None, (name, Some(password))) => (name, password.to_owned()),
            (None, (name, None)) => (name, prompt::password(prompt, to).await?),
        };
        Ok(Identity::User {
            name: name.to_owned(),
            password,
        })
    }
}

/// Longer than any command waits for a connection.
const NO_LIMIT: Duration = Duration::from_secs(24 * 3600);

/// A client with its own connections.
pub(super) fn client(
    globals: &Globals,
    endpoints: Vec<String>,
    identity: &Identity,
    tls: Option<TlsOptions>,
) -> Result<Client, Failure> {
    // As in etcdctl, zero is no limit of its own: the command's is left.
    let dial_timeout = match globals.dial_timeout.is_zero() {
        true => globals.command_timeout.max(NO_LIMIT),
        false => globals.dial_timeout,
    };
    let mut builder = Client::builder(endpoints)
        .dial_timeout(dial_timeout)
        .request_timeout(globals.command_timeout)
        .keep_alive(globals.keepalive_time, globals.keepalive_timeout);
    if let Some(bytes) = limit(globals.max_request_bytes) {
        builder = builder.send_bytes_max(bytes);
    }
    if let Some(bytes) = limit(globals.max_recv_bytes) {
        builder = builder.receive_bytes_max(bytes);
    }
    if let Some(tls) = tls {
        builder = builder.tls(tls);
    }
    builder = match identity {
        Identity::Nobody => builder,
        Identity::User { name, password } => builder.user(name, password),
        Identity::Token(token) => builder.token(token),
    };
    Ok(builder.build()?)
}

/// The client of make-mirror's destination.
pub(super) async fn destination(
    globals: &Globals,
    args: &MirrorArgs,
    endpoint: String,
    to: &mut Streams<'_>,
) -> Result<Client, Failure> {
    let password = Some(&args.dest_password[..]).filter(|password| !password.is_empty());
    let identity = match &args.dest_user[..] {
        "" => Identity::Nobody,
        user => Identity::user(user, password, "Destination Password: ", to).await?,
    };
    fn given(flag: &str) -> Option<&str> {
        Some(flag).filter(|value| !value.is_empty())
    }
    let files = Files {
        cert: given(&args.dest_cert),
        key: given(&args.dest_key),
        cacert: given(&args.dest_cacert),
    };
    let tls = files.options(args.dest_insecure_transport)?;
    client(globals, vec![endpoint], &identity, tls)
}

/// Zero and less mean the default.
fn limit(bytes: i64) -> Option<usize> {
    usize::try_from(bytes).ok().filter(|bytes| *bytes > 0)
}

/// `--debug`: the settings in force, as variables that would set them.
fn debug(globals: &Globals, to: &mut Streams<'_>) -> Result<(), Failure> {
    let root = command();
    let mut names: Vec<&str> = root
        .get_arguments()
        .filter(|arg| arg.is_global_set())
        .filter_map(|arg| arg.get_long())
        .collect();
    names.sort_unstable();
    for name in names {
        let value = match name {
            "endpoints" => format!("[{}]", globals.endpoints().join(" ")),
            "debug" => globals.debug.to_string(),
            "hex" => globals.hex.to_string(),
            "write-out" => globals.write_out.clone(),
            "dial-timeout" => crate::go_text::duration::format(globals.dial_timeout),
            "command-timeout" => crate::go_text::duration::format(globals.command_timeout),
            "keepalive-time" => crate::go_text::duration::format(globals.keepalive_time),
            "keepalive-timeout" => crate::go_text::duration::format(globals.keepalive_timeout),
            "max-request-bytes" => globals.max_request_bytes.to_string(),
            "max-recv-bytes" => globals.max_recv_bytes.to_string(),
            // The rest may be secret, or says nothing unless it is given.
            _ => continue,
        };
        writeln!(to.err, "{}={value}", variable("KVCTL_", name))?;
    }
    Ok(())
}
