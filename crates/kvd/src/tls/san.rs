//! etcd's rule for members: the names in a certificate must fit the address that it calls from.
//!
//! A certificate without alternative names passes. One with addresses must have the caller's, or
//! one of its names must lead to it: the name resolves to the address, or the address resolves to
//! the name. A name that begins with `*.` is compared with what the address resolves to.
//!
//! Source: etcd `client/pkg/transport/listener_tls.go`, `checkCertSAN`.

use std::net::IpAddr;
use std::time::Duration;

use kvd_tls::Certificate;

/// Time that name servers get for all questions together.
const RESOLVE: Duration = Duration::from_secs(5);

/// Checks the certificate of a caller from `address`.
///
/// Errors: says what does not fit, in etcd's words.
pub(super) async fn check(certificate: &Certificate, address: IpAddr) -> Result<(), String> {
    let address = address.to_canonical();
    let Certificate {
        addresses,
        dns_names,
        ..
    } = certificate;
    if addresses.is_empty() && dns_names.is_empty() {
        return Ok(());
    }
    if addresses.contains(&address) {
        return Ok(());
    }
    if dns_names.is_empty() {
        let names: Vec<String> = addresses.iter().map(ToString::to_string).collect();
        return Err(format!(
            "x509: certificate is valid for {}, not {address}",
            names.join(", ")
        ));
    }
    let why = match tokio::time::timeout(RESOLVE, leads_to(dns_names, address)).await {
        Ok(Ok(true)) => return Ok(()),
        Ok(Ok(false)) => String::new(),
        Ok(Err(error)) => format!(" ({error})"),
        Err(_) => " (the names were not resolved in time)".to_owned(),
    };
    let quoted: Vec<String> = dns_names.iter().map(|name| format!("{name:?}")).collect();
    let quoted = quoted.join(" ");
    Err(format!(
        "tls: \"{address}\" does not match any of DNSNames [{quoted}]{why}"
    ))
}

/// Whether one of `names` leads to `address`. Names are resolved first: that is quick where the
/// address has no name.
async fn leads_to(names: &[String], address: IpAddr) -> Result<bool, String> {
    let mut failure = None;
    for name in names.iter().filter(|name| !name.starts_with("*.")) {
        match tokio::net::lookup_host((name.as_str(), 0)).await {
            Ok(mut found) => {
                if found.any(|found| found.ip().to_canonical() == address) {
                    return Ok(true);
                }
            }
            Err(error) => failure = Some(error.to_string()),
        }
    }
    let reverse = tokio::task::spawn_blocking(move || dns_lookup::lookup_addr(&address)).await;
    match reverse {
        Ok(Ok(found)) => {
            let found = found.trim_end_matches('.');
            if names.iter().any(|name| is_name(name, found)) {
                return Ok(true);
            }
        }
        Ok(Err(error)) => failure = failure.or(Some(error.to_string())),
        Err(error) => failure = failure.or(Some(error.to_string())),
    }
    failure.map_or(Ok(false), Err)
}

/// Whether `found` is `name`, or ends as it does behind its `*`.
fn is_name(name: &str, found: &str) -> bool {
    match name.strip_prefix('*') {
        Some(end) if end.starts_with('.') => found.ends_with(end),
        _ => name == found,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn certificate(addresses: &[&str], names: &[&str]) -> Certificate {
        Certificate {
            addresses: addresses.iter().map(|a| a.parse().unwrap()).collect(),
            dns_names: names.iter().map(|name| (*name).to_owned()).collect(),
            ..Certificate::default()
        }
    }

    #[tokio::test]
    async fn the_callers_address_must_fit() {
        let here: IpAddr = "127.0.0.1".parse().unwrap();
        for (addresses, names) in [
            (&[][..], &[][..]),
            (&["127.0.0.1"], &[]),
            (&["10.0.0.1", "127.0.0.1"], &["other.invalid"]),
            (&[], &["localhost"]),
            (&["10.0.0.1"], &["localhost"]),
        ] {
            let found = check(&certificate(addresses, names), here).await;
            assert_eq!(found, Ok(()), "{addresses:?} {names:?}");
        }
        let mapped: IpAddr = "::ffff:127.0.0.1".parse().unwrap();
        assert_eq!(
            check(&certificate(&["127.0.0.1"], &[]), mapped).await,
            Ok(())
        );
        let wrong = check(&certificate(&["10.0.0.1"], &[]), here).await;
        assert_eq!(
            wrong.expect_err("wrong"),
            "x509: certificate is valid for 10.0.0.1, not 127.0.0.1"
        );
        let wrong = check(&certificate(&["10.0.0.1"], &["other.invalid"]), here).await;
        let wrong = wrong.expect_err("wrong");
        assert!(
            wrong.starts_with(
                "tls: \"127.0.0.1\" does not match any of DNSNames [\"other.invalid\"]"
            ),
            "{wrong}"
        );
    }

    #[test]
    fn a_star_stands_for_what_comes_before() {
        assert!(is_name("*.example.com", "a.b.example.com"));
        assert!(!is_name("*.example.com", "example.com"));
        assert!(!is_name("*.example.com", "a.example.org"));
        assert!(is_name("a.example.com", "a.example.com"));
        assert!(!is_name("*", "a"));
    }
}
