//! Which names a certificate is for: webpki's rule, and Go's where a star stands for the whole of a
//! name's first label.
//!
//! webpki wants two labels behind a star, since nobody should have a certificate for `*.com`. Inside
//! a cluster `*.etcd` is what a certificate for `etcd-0.etcd`, `etcd-1.etcd`, … says, and Go takes it.
//!
//! Source: Go's `crypto/x509`, `VerifyHostname`, `matchHostnames`, which etcd uses everywhere.

use rustls::client::verify_server_name;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, Error};

use crate::certificate::Certificate;

/// Checks that `leaf` is for `name`.
///
/// Errors: rustls' own, when it is not.
pub fn verify(leaf: &CertificateDer<'_>, name: &ServerName<'_>) -> Result<(), Error> {
    match verify_server_name(&ParsedCertificate::try_from(leaf)?, name) {
        Err(_) if has_wildcard(leaf, name) => Ok(()),
        verified => verified,
    }
}

/// Whether all that rustls found wrong is the name.
pub fn is_about_names(error: &Error) -> bool {
    matches!(
        error,
        Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. }
        )
    )
}

/// Whether `leaf` has a name with a star that covers `name`.
pub fn has_wildcard(leaf: &CertificateDer<'_>, name: &ServerName<'_>) -> bool {
    let ServerName::DnsName(host) = name else {
        return false;
    };
    Certificate::read(leaf).is_ok_and(|certificate| {
        let mut names = certificate.dns_names.iter();
        names.any(|name| covers(name, host.as_ref()))
    })
}

/// Whether `pattern`, `*.` and at least one label, is `host` but for its first label.
fn covers(pattern: &str, host: &str) -> bool {
    let host = host.strip_suffix('.').unwrap_or(host);
    let Some(rest) = pattern.strip_prefix("*.") else {
        return false;
    };
    let is_label = |label: &str| {
        let mut bytes = label.bytes();
        !label.starts_with('-')
            && bytes.all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
            && !label.is_empty()
    };
    match host.split_once('.') {
        Some((first, behind)) => {
            is_label(first) && rest.split('.').all(is_label) && behind.eq_ignore_ascii_case(rest)
        }
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_is_one_whole_label_as_in_go() {
        for (pattern, host) in [
            ("*.etcd", "etcd-0.etcd"),
            ("*.etcd", "ETCD-0.Etcd."),
            ("*.etcd.kvd.svc", "etcd-0.etcd.kvd.svc"),
        ] {
            assert!(covers(pattern, host), "{pattern} {host}");
        }
        for (pattern, host) in [
            ("*.etcd", "etcd"),
            ("*.etcd", ".etcd"),
            ("*.etcd", "a.b.etcd"),
            ("*.etcd", "a.other"),
            ("*", "etcd"),
            ("*.", "etcd."),
            ("a*.etcd", "ab.etcd"),
            ("*.*", "a.b"),
            ("*.*.etcd", "a.b.etcd"),
            ("etcd-0.etcd", "etcd-0.etcd"),
        ] {
            assert!(!covers(pattern, host), "{pattern} {host}");
        }
    }

    #[test]
    fn a_certificate_for_one_label_behind_a_star_is_taken() {
        let names = ["*.etcd".to_owned(), "plain.etcd".to_owned()];
        let made = rcgen::generate_simple_self_signed(names).unwrap();
        let leaf = made.cert.der();
        let verify = |name: &str| verify(leaf, &ServerName::try_from(name).unwrap());
        for name in ["etcd-0.etcd", "plain.etcd", "etcd-0.etcd."] {
            assert_eq!(verify(name), Ok(()), "{name}");
        }
        for name in ["etcd", "a.b.etcd", "etcd-0.other", "127.0.0.1"] {
            let refused = verify(name).expect_err(name);
            assert!(is_about_names(&refused), "{name}: {refused:?}");
        }
    }
}
