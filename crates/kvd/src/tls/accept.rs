//! The server's side of a handshake.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use kvd_raft::Connection;
use kvd_tls::Certificate;
use rustls::server::Acceptor;
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;

use super::live::Live;
use super::registry::{Closing, End, Open, Registration};
use super::san;
use super::verify::explain;

/// A connection whose handshake is done and whose certificate is good.
pub struct Accepted {
    /// The connection.
    pub stream: TlsStream<Box<dyn Connection>>,
    /// The common name of the client's certificate, if it had to show one.
    pub common_name: Option<Arc<str>>,
    /// Told when the certificate is not accepted any more.
    pub closing: Closing,
    /// To be kept for as long as the connection is open.
    pub open: Guard,
}

/// Counts a connection as open.
pub struct Guard(#[expect(dead_code, reason = "acts when dropped")] Option<Registration>);

/// A connection that was not let in.
pub struct Rejected {
    /// The name that the client asked for.
    pub server_name: String,
    /// The addresses in the client's certificate.
    pub ip_addresses: Vec<String>,
    /// The names in the client's certificate.
    pub dns_names: Vec<String>,
    /// Why.
    pub error: String,
    /// Whether the client just went away.
    pub has_ended: bool,
    /// What is left of the connection: there may be an alert on its way to the client.
    pub stream: Option<Box<dyn Connection>>,
}

impl Rejected {
    fn new(error: &io::Error, stream: Option<Box<dyn Connection>>) -> Box<Rejected> {
        let has_ended = matches!(
            error.kind(),
            io::ErrorKind::UnexpectedEof
                | io::ErrorKind::ConnectionReset
                | io::ErrorKind::BrokenPipe
        );
        Box::new(Rejected {
            server_name: String::new(),
            ip_addresses: Vec::new(),
            dns_names: Vec::new(),
            error: match error.get_ref().and_then(|inner| inner.downcast_ref()) {
                Some(inner) => explain(inner),
                None => error.to_string(),
            },
            has_ended,
            stream,
        })
    }
}

impl Rejected {
    /// One whose certificate passed the handshake and nothing more.
    fn shown(certificate: &Certificate, server_name: &str, error: String) -> Rejected {
        let addresses = certificate.addresses.iter();
        Rejected {
            server_name: server_name.to_owned(),
            ip_addresses: addresses.map(ToString::to_string).collect(),
            dns_names: certificate.dns_names.clone(),
            error,
            has_ended: false,
            stream: None,
        }
    }
}

impl Live {
    /// Shakes hands with a client at `from`.
    ///
    /// `check_san`: whether its certificate must fit its address. `closing`: what ends the
    /// connection when its certificate is not accepted any more.
    ///
    /// Errors: [`Rejected`]. Takes as long as the client takes: to be bounded by the caller.
    pub async fn accept(
        &self,
        stream: Box<dyn Connection>,
        from: Option<SocketAddr>,
        check_san: bool,
        closing: Closing,
    ) -> Result<Accepted, Box<Rejected>> {
        let generation = self.generation();
        let material = self.material();
        let Some(config) = material.server.clone() else {
            // Listeners with TLS are not made without a certificate.
            let error = io::Error::other("there is no certificate");
            return Err(Rejected::new(&error, Some(stream)));
        };
        let mut acceptor = std::pin::pin!(LazyConfigAcceptor::new(Acceptor::default(), stream));
        let start = match acceptor.as_mut().await {
            Ok(start) => start,
            Err(error) => return Err(Rejected::new(&error, acceptor.take_io())),
        };
        let server_name = start.client_hello().server_name().unwrap_or("").to_owned();
        let stream = match start.into_stream(config).into_fallible().await {
            Ok(stream) => stream,
            Err((error, stream)) => {
                let mut rejected = Rejected::new(&error, Some(stream));
                rejected.server_name = server_name;
                return Err(rejected);
            }
        };
        let Some(shown) = stream.get_ref().1.peer_certificates() else {
            return Ok(Accepted {
                stream,
                common_name: None,
                closing,
                open: Guard(None),
            });
        };
        let reject = |certificate: &Certificate, error| {
            Box::new(Rejected::shown(certificate, &server_name, error))
        };
        let leaf = shown.first().map(|der| Certificate::read(der));
        let Some(Ok(certificate)) = leaf else {
            let error = "x509: malformed certificate".to_owned();
            return Err(reject(&Certificate::default(), error));
        };
        let remote = from.map_or_else(|| "@".to_owned(), |address| address.to_string());
        let open = Open::new(shown, End::Client, remote, closing.clone());
        let registration = self.registry.add(open);
        // The files may have changed while hands were shaken, before the connection was known.
        if self.generation() != generation
            && let Some(verifier) = &self.material().client_verifier
            && let Err(error) = verifier.verify_again(shown)
        {
            return Err(reject(&certificate, explain(&error)));
        }
        if check_san
            && let Some(address) = from
            && let Err(error) = san::check(&certificate, address.ip()).await
        {
            return Err(reject(&certificate, error));
        }
        Ok(Accepted {
            stream,
            common_name: certificate.common_name.as_deref().map(Arc::from),
            closing,
            open: Guard(Some(registration)),
        })
    }
}
