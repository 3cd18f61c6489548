//! What every command that talks to a server needs: a client and a printer.

use kvd_client::Client;

use crate::args::{Globals, command, variable};
use crate::failure::Failure;
use crate::print::{Printer, Streams, printer};

pub(super) struct Session {
    pub(super) client: Client,
    pub(super) printer: Box<dyn Printer>,
}

impl Session {
    pub(super) fn open(globals: &Globals, to: &mut Streams<'_>) -> Result<Self, Failure> {
        Self::with_endpoints(globals, globals.endpoints(), to)
    }

    pub(super) fn with_endpoints(
        globals: &Globals,
        endpoints: Vec<String>,
        to: &mut Streams<'_>,
    ) -> Result<Self, Failure> {
        globals.check()?;
        if globals.debug {
            debug(globals, to)?;
        }
        let printer = printer(&globals.write_out, globals.hex)?;
        Ok(Session {
            client: client(globals, endpoints)?,
            printer,
        })
    }
}

/// A client with its own connections.
pub(super) fn client(globals: &Globals, endpoints: Vec<String>) -> Result<Client, Failure> {
    let mut builder = Client::builder(endpoints)
        .dial_timeout(globals.dial_timeout)
        .request_timeout(globals.command_timeout)
        .keep_alive(globals.keepalive_time, globals.keepalive_timeout);
    if let Some(bytes) = limit(globals.max_request_bytes) {
        builder = builder.send_bytes_max(bytes);
    }
    if let Some(bytes) = limit(globals.max_recv_bytes) {
        builder = builder.receive_bytes_max(bytes);
    }
    Ok(builder.build()?)
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
            // The rest belongs to TLS, authentication and discovery, which are refused when set.
            _ => continue,
        };
        writeln!(to.err, "{}={value}", variable("KVCTL_", name))?;
    }
    Ok(())
}
