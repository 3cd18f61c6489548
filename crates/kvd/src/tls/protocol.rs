//! Versions and cipher suites, by the names that Go gives them.
//!
//! Source: etcd `client/pkg/tlsutil` (`versions.go`, `cipher_suites.go`), Go's `crypto/tls`.

use std::sync::Arc;

use kvd_tls::provider::{self, suites};
use rustls::crypto::CryptoProvider;
use rustls::{SupportedCipherSuite, SupportedProtocolVersion, version};
use thiserror::Error;

/// Which TLS is spoken. The default is etcd's: 1.2 and 1.3 with every suite that is not weak.
#[derive(Clone, Debug, Default)]
pub struct Protocol {
    min: Version,
    max: Option<Version>,
    /// Suites of TLS 1.2 that may be used; `None` means all that are built in.
    suites: Option<Vec<SupportedCipherSuite>>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Version {
    #[default]
    Tls12,
    Tls13,
}

/// Why versions or suites cannot be used. Texts are etcd's where it has one.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ProtocolError {
    /// A version that does not exist or is not safe.
    #[error("unexpected TLS version {0:?} (must be one of: TLS1.2, TLS1.3)")]
    Version(String),
    /// The wrong way round.
    #[error("min version ({min}) is greater than max version ({max})")]
    Range {
        /// `--tls-min-version`.
        min: String,
        /// `--tls-max-version`.
        max: String,
    },
    /// Suites of TLS 1.3 cannot be chosen.
    #[error("cipher suites cannot be configured when only TLS1.3 is enabled")]
    SuitesOfTls13,
    /// A suite that Go does not know.
    #[error("unexpected TLS cipher suite {0:?}")]
    Suite(String),
    /// Nothing is left of what was asked for.
    #[error(
        "none of --cipher-suites can be used: kvd has the ECDHE suites with AES-GCM and \
         ChaCha20-Poly1305 only"
    )]
    NoSuite,
}

/// What [`Protocol::parse`] returns: the protocol, and the suites that are known but not built in.
pub type Parsed = (Protocol, Vec<String>);

impl Protocol {
    /// Reads the flags' values; empty text is the default.
    ///
    /// Errors: [`ProtocolError`].
    pub fn parse(min: &str, max: &str, names: &[String]) -> Result<Parsed, ProtocolError> {
        let low = version_named(min)?;
        let high = version_named(max)?;
        if high.is_some_and(|high| low.unwrap_or_default() > high) {
            let (min, max) = (min.to_owned(), max.to_owned());
            return Err(ProtocolError::Range { min, max });
        }
        if low == Some(Version::Tls13) && !names.is_empty() {
            return Err(ProtocolError::SuitesOfTls13);
        }
        let mut chosen = Vec::new();
        let mut left_out = Vec::new();
        let mut has_tls13 = false;
        for name in names {
            match suite_named(name) {
                Known::Tls12(suite) => chosen.push(suite),
                Known::Tls13 => has_tls13 = true,
                Known::NotBuilt => left_out.push(name.clone()),
                Known::No => return Err(ProtocolError::Suite(name.clone())),
            }
        }
        // In Go the suites of TLS 1.3 are always on, whatever the list says.
        let tls13_left = high != Some(Version::Tls12);
        if !names.is_empty() && chosen.is_empty() && !(has_tls13 && tls13_left) {
            return Err(ProtocolError::NoSuite);
        }
        let protocol = Protocol {
            min: low.unwrap_or_default(),
            max: high,
            suites: (!names.is_empty()).then_some(chosen),
        };
        Ok((protocol, left_out))
    }

    /// The algorithms, narrowed to the suites that may be used.
    pub(super) fn provider(&self) -> Arc<CryptoProvider> {
        let mut provider = provider::all();
        if let Some(chosen) = &self.suites {
            provider
                .cipher_suites
                .retain(|suite| suite.tls13().is_some() || chosen.contains(suite));
        }
        Arc::new(provider)
    }

    /// The versions, of which at least one is left.
    pub(super) fn versions(&self) -> Vec<&'static SupportedProtocolVersion> {
        let mut versions = Vec::new();
        if self.max != Some(Version::Tls12) {
            versions.push(&version::TLS13);
        }
        let no_suite = self.suites.as_ref().is_some_and(Vec::is_empty);
        if self.min == Version::Tls12 && !no_suite {
            versions.push(&version::TLS12);
        }
        versions
    }
}

fn version_named(name: &str) -> Result<Option<Version>, ProtocolError> {
    match name {
        "" => Ok(None),
        "TLS1.2" => Ok(Some(Version::Tls12)),
        "TLS1.3" => Ok(Some(Version::Tls13)),
        other => Err(ProtocolError::Version(other.to_owned())),
    }
}

enum Known {
    Tls12(SupportedCipherSuite),
    Tls13,
    NotBuilt,
    No,
}

/// Finds a suite by Go's name for it, or one of the two older names that etcd takes.
fn suite_named(name: &str) -> Known {
    Known::Tls12(match name {
        "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256" => {
            suites::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
        }
        "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384" => {
            suites::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384
        }
        "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256" => suites::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
        "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384" => suites::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
        "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256" | "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305" => {
            suites::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256
        }
        "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256"
        | "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305" => {
            suites::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256
        }
        "TLS_AES_128_GCM_SHA256" | "TLS_AES_256_GCM_SHA384" | "TLS_CHACHA20_POLY1305_SHA256" => {
            return Known::Tls13;
        }
        other if NOT_BUILT.contains(&other) => return Known::NotBuilt,
        _ => return Known::No,
    })
}

/// Suites that Go has and rustls does not: RC4, 3DES, CBC, and keys without forward secrecy.
const NOT_BUILT: [&str; 16] = [
    "TLS_RSA_WITH_RC4_128_SHA",
    "TLS_RSA_WITH_3DES_EDE_CBC_SHA",
    "TLS_RSA_WITH_AES_128_CBC_SHA",
    "TLS_RSA_WITH_AES_256_CBC_SHA",
    "TLS_RSA_WITH_AES_128_CBC_SHA256",
    "TLS_RSA_WITH_AES_128_GCM_SHA256",
    "TLS_RSA_WITH_AES_256_GCM_SHA384",
    "TLS_ECDHE_ECDSA_WITH_RC4_128_SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256",
    "TLS_ECDHE_RSA_WITH_RC4_128_SHA",
    "TLS_ECDHE_RSA_WITH_3DES_EDE_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA256",
];

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(min: &str, max: &str, names: &[&str]) -> Result<Parsed, String> {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        Protocol::parse(min, max, &names).map_err(|error| error.to_string())
    }

    #[test]
    fn complains_in_etcds_words() {
        for (min, max, names, text) in [
            (
                "TLS1.1",
                "",
                &[][..],
                "unexpected TLS version \"TLS1.1\" (must be one of: TLS1.2, TLS1.3)",
            ),
            (
                "TLS1.3",
                "TLS1.2",
                &[],
                "min version (TLS1.3) is greater than max version (TLS1.2)",
            ),
            (
                "TLS1.3",
                "",
                &["TLS_AES_128_GCM_SHA256"],
                "cipher suites cannot be configured when only TLS1.3 is enabled",
            ),
            ("", "", &["AES"], "unexpected TLS cipher suite \"AES\""),
        ] {
            assert_eq!(parse(min, max, names).expect_err(text), text);
        }
        let weak = parse("", "", &["TLS_RSA_WITH_RC4_128_SHA"]).expect_err("weak");
        assert!(weak.starts_with("none of --cipher-suites"), "{weak}");
    }

    #[test]
    fn suites_narrow_tls_1_2_and_leave_1_3_alone() {
        let names = [
            "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
            "TLS_RSA_WITH_AES_128_CBC_SHA",
        ];
        let (protocol, left_out) = parse("TLS1.2", "", &names).expect("parse");
        assert_eq!(left_out, ["TLS_RSA_WITH_AES_128_CBC_SHA"]);
        assert_eq!(protocol.versions().len(), 2);
        let kept = protocol.provider().cipher_suites.clone();
        let tls12 = kept.iter().filter(|suite| suite.tls13().is_none());
        assert_eq!(tls12.count(), 1);
        assert_eq!(kept.len(), 4);
        let (only, _) = parse("", "", &["TLS_AES_128_GCM_SHA256"]).expect("parse");
        assert_eq!(only.versions(), [&version::TLS13]);
        let (old, _) = parse("", "TLS1.2", &[]).expect("parse");
        assert_eq!(old.versions(), [&version::TLS12]);
        assert_eq!(Protocol::default().versions().len(), 2);
    }
}
