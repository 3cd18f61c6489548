//! The forms an endpoint can be written in.
//!
//! `host:port` and `http://host:port` are TCP; `unix://path` and `unix:path` a socket file, which
//! is absolute with three slashes. A name is kept as a name: it is resolved at each connect.
//!
//! Source: etcd `client/v3/internal/endpoint/endpoint.go`.

use std::time::Duration;

use url::Url;

use crate::error::{Error, Result};

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    text: String,
    uri: String,
}

impl Endpoint {
    /// Reads an endpoint in any of the accepted forms.
    ///
    /// Errors: [`Error::TlsUnsupported`] for `https://` and `unixs://`, [`Error::BadEndpoint`] for
    /// any other scheme, a missing port or a missing path.
    pub fn parse(text: &str) -> Result<Self> {
        let bad = |reason: &str| Error::BadEndpoint {
            endpoint: text.to_owned(),
            reason: reason.to_owned(),
        };
        if text.starts_with("https://") || text.starts_with("unixs:") {
            return Err(Error::TlsUnsupported {
                endpoint: text.to_owned(),
            });
        }
        let uri = if let Some(rest) = text.strip_prefix("unix:") {
            let path = rest.strip_prefix("//").unwrap_or(rest);
            if path.is_empty() {
                return Err(bad("no socket path"));
            }
            format!("unix:{path}")
        } else {
            let url = match text.split_once("://") {
                Some(("http", _)) => text.to_owned(),
                Some((scheme, _)) => {
                    return Err(bad(&format!("scheme {scheme:?} is not http or unix")));
                }
                None => format!("http://{text}"),
            };
            let parsed = Url::parse(&url).map_err(|err| bad(&err.to_string()))?;
            let host = parsed.host_str().ok_or_else(|| bad("no host"))?;
            // 80 is what a URL without a port means, as in gRPC's and Go's dialers.
            format!("http://{host}:{}", parsed.port().unwrap_or(80))
        };
        Ok(Endpoint {
            text: text.to_owned(),
            uri,
        })
    }

    /// The endpoint as it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// How to connect there, each attempt bounded by `dial_timeout`.
    pub(crate) fn dialer(
        &self,
        dial_timeout: Duration,
        keep_alive: Option<(Duration, Duration)>,
    ) -> Result<tonic::transport::Endpoint> {
        let bad = |err: tonic::transport::Error| Error::BadEndpoint {
            endpoint: self.text.clone(),
            reason: crate::retry::root_cause(&err),
        };
        let mut dialer = tonic::transport::Endpoint::from_shared(self.uri.clone())
            .map_err(bad)?
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
            assert_eq!(endpoint.uri, uri);
            assert_eq!(endpoint.as_str(), text);
            endpoint.dialer(Duration::from_secs(1), None).expect(text);
        }
    }

    #[test]
    fn tls_and_nonsense_are_refused_by_name() {
        for text in ["https://a:1", "unixs:///x"] {
            let err = Endpoint::parse(text).expect_err(text);
            assert!(matches!(err, Error::TlsUnsupported { .. }), "{err}");
            assert!(err.to_string().contains(text), "{err}");
        }
        for text in ["", "ftp://a:1", "unix://", "http://", "a b:1", "host:99999"] {
            let err = Endpoint::parse(text).expect_err(text);
            assert!(matches!(err, Error::BadEndpoint { .. }), "{text}: {err}");
        }
    }
}
