//! Flags of every command.

use std::time::Duration;

use clap::Args;

use crate::failure::Failure;
use crate::go_text::{duration, number};

/// Names, defaults and texts are etcdctl's; `kvctl options` prints them.
#[derive(Args, Clone, Debug)]
pub(crate) struct Globals {
    /// gRPC endpoints
    #[arg(long, global = true, hide = true, value_name = "strings",
          default_value = "127.0.0.1:2379", action = clap::ArgAction::Append)]
    endpoints: Vec<String>,
    /// enable client-side debug logging
    #[arg(long, global = true, hide = true)]
    pub(crate) debug: bool,
    /// set the output format (fields, json, protobuf, simple, table)
    #[arg(
        short,
        long,
        global = true,
        hide = true,
        value_name = "string",
        default_value = "simple"
    )]
    pub(crate) write_out: String,
    /// print byte strings as hex encoded strings
    #[arg(long, global = true, hide = true)]
    pub(crate) hex: bool,
    /// dial timeout for client connections
    #[arg(long, global = true, hide = true, value_name = "duration", default_value = "2s",
          value_parser = duration::parse)]
    pub(crate) dial_timeout: Duration,
    /// timeout for short running command (excluding dial timeout)
    #[arg(long, global = true, hide = true, value_name = "duration", default_value = "5s",
          value_parser = duration::parse)]
    pub(crate) command_timeout: Duration,
    /// keepalive time for client connections
    #[arg(long, global = true, hide = true, value_name = "duration", default_value = "2s",
          value_parser = duration::parse)]
    pub(crate) keepalive_time: Duration,
    /// keepalive timeout for client connections
    #[arg(long, global = true, hide = true, value_name = "duration", default_value = "6s",
          value_parser = duration::parse)]
    pub(crate) keepalive_timeout: Duration,
    /// client-side request send limit in bytes (if 0, it defaults to 2.0 MiB (2 * 1024 * 1024).)
    #[arg(long, global = true, hide = true, value_name = "int", default_value = "0",
          value_parser = decimal, allow_hyphen_values = true)]
    pub(crate) max_request_bytes: i64,
    /// client-side response receive limit in bytes (if 0, it defaults to "math.MaxInt32")
    #[arg(long, global = true, hide = true, value_name = "int", default_value = "0",
          value_parser = decimal, allow_hyphen_values = true)]
    pub(crate) max_recv_bytes: i64,
    /// disable transport security for client connections
    #[arg(long, global = true, hide = true, default_value = "true")]
    insecure_transport: bool,
    /// accept insecure SRV records describing cluster endpoints
    #[arg(long, global = true, hide = true, default_value = "true")]
    insecure_discovery: bool,
    /// skip server certificate verification (CAUTION: this option should be enabled only for
    /// testing purposes)
    #[arg(long = "insecure-skip-tls-verify", global = true, hide = true)]
    insecure_skip_tls_verify: bool,
    /// identify secure client using this TLS certificate file
    #[arg(long, global = true, hide = true, value_name = "string")]
    cert: Option<String>,
    /// identify secure client using this TLS key file
    #[arg(long, global = true, hide = true, value_name = "string")]
    key: Option<String>,
    /// verify certificates of TLS-enabled secure servers using this CA bundle
    #[arg(long, global = true, hide = true, value_name = "string")]
    cacert: Option<String>,
    /// JWT token used for authentication (if this option is used, --user and --password should
    /// not be set)
    #[arg(long, global = true, hide = true, value_name = "string")]
    auth_jwt_token: Option<String>,
    /// Who asks.
    #[arg(
        long,
        global = true,
        hide = true,
        value_name = "string",
        help = "username[:password] for authentication (prompt if password is not supplied)"
    )]
    user: Option<String>,
    /// password for authentication (if this option is used, --user option shouldn't include
    /// password)
    #[arg(long, global = true, hide = true, value_name = "string")]
    password: Option<String>,
    /// domain name to query for SRV records describing cluster endpoints
    #[arg(short = 'd', long, global = true, hide = true, value_name = "string")]
    discovery_srv: Option<String>,
    /// service name to query when using DNS discovery
    #[arg(long, global = true, hide = true, value_name = "string")]
    discovery_srv_name: Option<String>,
}

fn decimal(text: &str) -> Result<i64, String> {
    number::parse_int(text, 10)
}

impl Globals {
    /// The endpoints, whether given as a list or by repeating the flag.
    pub(crate) fn endpoints(&self) -> Vec<String> {
        let split = self.endpoints.iter().flat_map(|list| list.split(','));
        let trimmed = split.map(str::trim).map(str::to_owned);
        trimmed.filter(|endpoint| !endpoint.is_empty()).collect()
    }

    /// Refuses by name what this version does not have and what would change the outcome.
    pub(crate) fn check(&self) -> Result<(), Failure> {
        for (name, value) in [
            ("cert", &self.cert),
            ("key", &self.key),
            ("cacert", &self.cacert),
        ] {
            match value.as_deref() {
                Some("") => {
                    let message = format!("empty string is passed to --{name} option");
                    return Err(Failure::bad_args(message));
                }
                Some(_) => return Err(refused(name, "TLS")),
                None => {}
            }
        }
        if !self.insecure_transport {
            return Err(refused("insecure-transport=false", "TLS"));
        }
        if self.insecure_skip_tls_verify {
            return Err(refused("insecure-skip-tls-verify", "TLS"));
        }
        for (name, value, what) in [
            ("auth-jwt-token", &self.auth_jwt_token, "authentication"),
            ("user", &self.user, "authentication"),
            ("password", &self.password, "authentication"),
            ("discovery-srv", &self.discovery_srv, "DNS discovery"),
        ] {
            if value.as_deref().is_some_and(|value| !value.is_empty()) {
                return Err(refused(name, what));
            }
        }
        Ok(())
    }
}

fn refused(flag: &str, what: &str) -> Failure {
    Failure::bad_feature(format!(
        "--{flag}: this version of kvctl does not have {what} yet"
    ))
}
