//! Flags of every command.

use std::time::Duration;

use clap::Args;
use kvd_client::TlsOptions;

use crate::commands::Discovery;
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
    /// Whether `command_timeout` was given rather than its default.
    #[arg(skip)]
    pub(super) is_command_timeout_given: bool,
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

    /// `name`, or `name:password`; an empty one is none.
    pub(crate) fn user(&self) -> Option<&str> {
        given(&self.user)
    }

    pub(crate) fn password(&self) -> Option<&str> {
        given(&self.password)
    }

    pub(crate) fn auth_jwt_token(&self) -> Option<&str> {
        given(&self.auth_jwt_token)
    }

    /// The time limit for commands that have none unless it is given.
    pub(crate) fn given_command_timeout(&self) -> Option<Duration> {
        self.is_command_timeout_given
            .then_some(self.command_timeout)
    }

    /// Where to look for endpoints, when a domain is given.
    pub(crate) fn discovery(&self) -> Option<Discovery<'_>> {
        Some(Discovery {
            domain: given(&self.discovery_srv)?,
            name: given(&self.discovery_srv_name).unwrap_or_default(),
            is_insecure: self.insecure_discovery,
        })
    }

    /// How connections are secured: where TLS is left open, any of its flags asks for it.
    pub(crate) fn tls(&self) -> Result<Option<TlsOptions>, Failure> {
        for (name, value) in [
            ("cert", &self.cert),
            ("key", &self.key),
            ("cacert", &self.cacert),
        ] {
            if value.as_deref() == Some("") {
                let message = format!("empty string is passed to --{name} option");
                return Err(Failure::bad_args(message));
            }
        }
        let files = Files {
            cert: given(&self.cert),
            key: given(&self.key),
            cacert: given(&self.cacert),
        };
        let mut tls = files.options(self.insecure_transport)?;
        // A domain whose records are trusted is what certificates must name.
        let domain = self.discovery().filter(|discovery| !discovery.is_insecure);
        if let Some(discovery) = domain {
            let options = tls.unwrap_or_default();
            tls = Some(options.server_name(discovery.domain));
        }
        if self.insecure_skip_tls_verify {
            tls = Some(tls.unwrap_or_default().skip_verification());
        }
        Ok(tls)
    }
}

/// The files of TLS, by whichever flags they were given.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Files<'f> {
    pub(crate) cert: Option<&'f str>,
    pub(crate) key: Option<&'f str>,
    pub(crate) cacert: Option<&'f str>,
}

impl Files<'_> {
    /// `is_insecure`: without files, no TLS is asked for.
    pub(crate) fn options(self, is_insecure: bool) -> Result<Option<TlsOptions>, Failure> {
        let mut options = TlsOptions::new();
        match (self.cert, self.key) {
            (Some(cert), Some(key)) => options = options.identity(cert, key),
            (None, None) => {}
            (cert, key) => {
                let (cert, key) = (cert.unwrap_or_default(), key.unwrap_or_default());
                return Err(Failure::bad_args(format!(
                    "KeyFile and CertFile must both be present[key: {key}, cert: {cert}]"
                )));
            }
        }
        if let Some(file) = self.cacert {
            options = options.ca(file);
        }
        let has_files = self.cert.is_some() || self.cacert.is_some();
        Ok((has_files || !is_insecure).then_some(options))
    }
}

fn given(flag: &Option<String>) -> Option<&str> {
    flag.as_deref().filter(|value| !value.is_empty())
}
