//! The forms an endpoint can be written in.
//!
//! `host:port` and `http://host:port` are TCP; `unix://path` and `unix:path` a socket file, which
//! is absolute with three slashes. `https://host:port` and `unixs:` are the same with TLS;
//! `host:port` alone is with TLS when the client has options for it. A name is kept as a name: it
//! is resolved at each connect.
//!
//! Source: etcd `client/v3/internal/endpoint/endpoint.go`.

use std::time::Duration;

use tonic::codegen::http::Uri;
use tonic::codegen::http::uri::Authority;
use url::Url;

use crate::error::{Error, Result};

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    text: String,
    address: Address,
    security: Security,
}

/// What is connected to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Address {
    Tcp { host: String, port: u16 },
    Unix { path: String },
}

/// Whether TLS is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Security {
    Never,
    IfConfigured,
    Always,
}

impl Endpoint {
    /// Reads an endpoint in any of the accepted forms.
    ///
    /// Errors: [`Error::BadEndpoint`] for any other scheme, a missing port or a missing path.
    pub fn parse(text: &str) -> Result<Self> {
        let bad = |reason: &str| Error::BadEndpoint {
            endpoint: text.to_owned(),
            reason: reason.to_owned(),
        };
        let socket = [("unix:", Security::Never), ("unixs:", Security::Always)]
            .into_iter()
            .find_map(|(scheme, security)| Some((text.strip_prefix(scheme)?, security)));
        let (address, security) = if let Some((rest, security)) = socket {
            let path = rest.strip_prefix("//").unwrap_or(rest).to_owned();
            if path.is_empty() {
                return Err(bad("no socket path"));
            }
            (Address::Unix { path }, security)
        } else {
            let (security, default_port, url) = match text.split_once("://") {
                Some(("http", _)) => (Security::Never, 80, text.to_owned()),
                Some(("https", _)) => (Security::Always, 443, text.to_owned()),
                Some((scheme, _)) => {
                    return Err(bad(&format!(
                        "scheme {scheme:?} is not http, https, unix or unixs"
                    )));
                }
                None => (Security::IfConfigured, 80, format!("http://{text}")),
            };
            let parsed = Url::parse(&url).map_err(|err| bad(&err.to_string()))?;
            let host = parsed.host_str().ok_or_else(|| bad("no host"))?.to_owned();
            // What a URL without a port means, as in gRPC's and Go's dialers.
            let port = parsed.port().unwrap_or(default_port);
            (Address::Tcp { host, port }, security)
        };
        Ok(Endpoint {
            text: text.to_owned(),
            address,
            security,
        })
    }

    pub(crate) fn address(&self) -> &Address {
        &self.address
    }

    pub(crate) fn security(&self) -> Security {
        self.security
    }

    /// Whose certificate is expected: the host, or the last part of a socket's path, which etcd
    /// names `host:port`.
    pub(crate) fn host(&self) -> &str {
        match &self.address {
            Address::Tcp { host, .. } => host,
            Address::Unix { path } => {
                let last = path.rsplit('/').next().unwrap_or(path);
                last.rsplit_once(':').map_or(last, |(host, _)| host)
            }
        }
    }

    /// The server as HTTP names it: host and port, or the last part of a socket's path where that
    /// can be a name.
    pub(crate) fn authority(&self) -> String {
        match &self.address {
            Address::Tcp { host, port } => format!("{host}:{port}"),
            Address::Unix { path } => {
                let last = path.rsplit('/').next().unwrap_or(path);
                match last.parse::<Authority>() {
                    Ok(_) => last.to_owned(),
                    Err(_) => "localhost".to_owned(),
                }
            }
        }
    }

    /// Without the scheme, since how to connect is decided here.
    fn uri(&self) -> String {
        match &self.address {
            Address::Tcp { host, port } => format!("http://{host}:{port}"),
            Address::Unix { path } => format!("unix:{path}"),
        }
    }

    /// The endpoint as it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// How to connect there, each attempt bounded by `dial_timeout`. `is_secured`: with TLS, which
    /// is not the dialer's business but is told in every request.
    pub(crate) fn dialer(
        &self,
        is_secured: bool,
        dial_timeout: Duration,
        keep_alive: Option<(Duration, Duration)>,
    ) -> Result<tonic::transport::Endpoint> {
        let bad = |err: tonic::transport::Error| Error::BadEndpoint {
            endpoint: self.text.clone(),
            reason: crate::retry::root_cause(&err),
        };
        let scheme = if is_secured { "https" } else { "http" };
        let origin = format!("{scheme}://{}", self.authority());
        let origin: Uri = origin.parse().map_err(|_| Error::BadEndpoint {
            endpoint: self.text.clone(),
            reason: "no name of a server".to_owned(),
        })?;
        let mut dialer = tonic::transport::Endpoint::from_shared(self.uri())
            .map_err(bad)?
            .origin(origin)
            .connect_timeout(dial_timeout)
            .tcp_nodelay(true)
            // One large range fills the default 64 KiB window at once.
            .initial_stream_window_size(1 << 20)
            .initial_connection_window_size(8 << 20)
            .user_agent(concat!("kvd-client/", env!("CARGO_PKG_VERSION")))
            .map_err(bad)?;
        if let Some((interval, timeout)) = keep_alive {
            // etcd disconnects a client that pings more often than every 5 s; its own client
            // never pings more often than every 10 s.
            dialer = dialer
                .http2_keep_alive_interval(interval.max(Duration::from_secs(10)))
                .keep_alive_timeout(timeout);
        }
        Ok(dialer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_is_read() {
        for (text, uri) in [
            ("127.0.0.1:2379", "http://127.0.0.1:2379"),
            ("http://db.example:2379", "http://db.example:2379"),
            ("http://db.example:2379/", "http://db.example:2379"),
            ("localhost:1", "http://localhost:1"),
            ("[::1]:2379", "http://[::1]:2379"),
            ("http://db.example", "http://db.example:80"),
            ("unix:///run/kvd.sock", "unix:/run/kvd.sock"),
            ("unix://kvd.sock", "unix:kvd.sock"),
            ("unix:kvd.sock", "unix:kvd.sock"),
        ] {
            let endpoint = Endpoint::parse(text).expect(text);
            assert_eq!(endpoint.uri(), uri);
            assert_eq!(endpoint.as_str(), text);
            endpoint
                .dialer(false, Duration::from_secs(1), None)
                .expect(text);
        }
    }

    #[test]
    fn the_scheme_says_whether_tls_is_spoken() {
        for (text, security, host) in [
            ("a:1", Security::IfConfigured, "a"),
            ("http://a:1", Security::Never, "a"),
            ("https://a:1", Security::Always, "a"),
            ("unix:///run/x", Security::Never, "x"),
            ("unixs:///run/x", Security::Always, "x"),
            ("unixs://x", Security::Always, "x"),
            ("unixs://127.0.0.1:2379", Security::Always, "127.0.0.1"),
        ] {
            let endpoint = Endpoint::parse(text).expect(text);
            assert_eq!(endpoint.security(), security, "{text}");
            assert_eq!(endpoint.host(), host, "{text}");
        }
        let endpoint = Endpoint::parse("https://a").expect("endpoint");
        assert_eq!(endpoint.authority(), "a:443");
        for (text, authority) in [
            ("unix:///run/kvd.sock", "kvd.sock"),
            ("unix:localhost:2379", "localhost:2379"),
            ("unix:///run/a b", "localhost"),
        ] {
            let endpoint = Endpoint::parse(text).expect(text);
            assert_eq!(endpoint.authority(), authority, "{text}");
        }
    }

    #[test]
    fn nonsense_is_refused_by_name() {
        for text in ["", "ftp://a:1", "unix://", "http://", "a b:1", "host:99999"] {
            let err = Endpoint::parse(text).expect_err(text);
            assert!(matches!(err, Error::BadEndpoint { .. }), "{text}: {err}");
        }
    }
}
