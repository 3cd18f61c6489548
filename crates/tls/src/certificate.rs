//! What a certificate says, and what a revocation list does.

use std::collections::HashSet;
use std::net::IpAddr;

use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{CertificateRevocationList, FromDer, X509Certificate};

/// The parts of a certificate that rules and log lines are about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Certificate {
    /// The subject's common name, where it has one: the last, as in Go.
    pub common_name: Option<String>,
    /// Subject alternative names.
    pub dns_names: Vec<String>,
    /// Subject alternative addresses.
    pub addresses: Vec<IpAddr>,
    /// The serial number without leading zeros.
    pub serial: Vec<u8>,
    /// First second in which it is valid, since 1970.
    pub not_before: i64,
    /// Last second in which it is valid, since 1970.
    pub not_after: i64,
    /// Whether it may be shown by clients, and by servers.
    pub usable: Usable,
}

/// What the extended key usage allows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usable {
    /// By clients.
    pub by_clients: bool,
    /// By servers.
    pub by_servers: bool,
}

impl Certificate {
    /// Reads a certificate.
    ///
    /// Errors: says what is malformed.
    pub fn read(der: &[u8]) -> Result<Certificate, String> {
        let (_, found) = X509Certificate::from_der(der).map_err(|error| error.to_string())?;
        let names = found.subject().iter_common_name();
        let common_name = names.filter_map(|name| name.as_str().ok()).last();
        let mut certificate = Certificate {
            common_name: common_name.map(str::to_owned),
            serial: without_zeros(found.raw_serial()),
            not_before: found.validity().not_before.timestamp(),
            not_after: found.validity().not_after.timestamp(),
            ..Certificate::default()
        };
        let alternatives = found.subject_alternative_name();
        if let Some(names) = alternatives.map_err(|error| error.to_string())? {
            for name in &names.value.general_names {
                match name {
                    GeneralName::DNSName(name) => certificate.dns_names.push((*name).to_owned()),
                    GeneralName::IPAddress(bytes) => certificate.addresses.extend(address(bytes)),
                    _ => {}
                }
            }
        }
        let usage = found.extended_key_usage();
        certificate.usable = match usage.map_err(|error| error.to_string())? {
            None => Usable {
                by_clients: true,
                by_servers: true,
            },
            Some(usage) => Usable {
                by_clients: usage.value.any || usage.value.client_auth,
                by_servers: usage.value.any || usage.value.server_auth,
            },
        };
        Ok(certificate)
    }
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        16 => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
        _ => None,
    }
}

fn without_zeros(serial: &[u8]) -> Vec<u8> {
    let zeros = serial.iter().take_while(|byte| **byte == 0).count();
    serial[zeros..].to_owned()
}

/// Adds the serial numbers that a revocation list in DER names to `revoked`.
///
/// Errors: says what is malformed.
pub fn read_revoked(der: &[u8], revoked: &mut HashSet<Vec<u8>>) -> Result<(), String> {
    let (_, list) = CertificateRevocationList::from_der(der).map_err(|error| error.to_string())?;
    for certificate in list.iter_revoked_certificates() {
        revoked.insert(without_zeros(certificate.raw_serial()));
    }
    Ok(())
}
