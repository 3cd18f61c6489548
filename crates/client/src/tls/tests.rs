//! Which certificates of servers are taken: those that etcd's clients take.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, SanType};
use rustls::ServerConfig;
use rustls::pki_types::PrivatePkcs8KeyDer;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::*;

/// A certificate for `names`, addresses where they parse as such.
fn params(names: &[&str]) -> CertificateParams {
    let mut params = CertificateParams::default();
    for name in names {
        params.subject_alt_names.push(match name.parse() {
            Ok(address) => SanType::IpAddress(address),
            Err(_) => SanType::DnsName((*name).try_into().unwrap()),
        });
    }
    params
}

fn key_on(curve: &'static rcgen::SignatureAlgorithm) -> KeyPair {
    KeyPair::generate_for(curve).unwrap()
}

/// An authority in the file `ca.pem` of `folder`.
fn authority(
    folder: &Path,
    curve: &'static rcgen::SignatureAlgorithm,
) -> CertifiedIssuer<'static, KeyPair> {
    let mut authority = params(&[]);
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let made = CertifiedIssuer::self_signed(authority, key_on(curve)).unwrap();
    fs::write(folder.join("ca.pem"), made.pem()).unwrap();
    made
}

/// Connects as `options` say to `name`, which shows `chain`.
async fn connect(
    options: &TlsOptions,
    name: &str,
    chain: CertificateDer<'static>,
    key: &KeyPair,
) -> std::result::Result<(), String> {
    let key = PrivatePkcs8KeyDer::from(key.serialize_der());
    let served = ServerConfig::builder_with_provider(provider::shared())
        .with_safe_default_protocol_versions()
        .and_then(|builder| {
            let builder = builder.with_no_client_auth();
            builder.with_single_cert(vec![chain], key.into())
        })
        .unwrap();
    let (here, there) = tokio::io::duplex(1 << 16);
    let served = tokio::spawn(TlsAcceptor::from(Arc::new(served)).accept(there));
    let config = options.config(b"h2").map_err(|err| err.to_string())?;
    let name = options.expected_name(name).map_err(|err| err.to_string())?;
    let connected = TlsConnector::from(Arc::new(config)).connect(name, here);
    let connected = connected.await.map(drop).map_err(|err| err.to_string());
    // Whether the server is content is shown by the client.
    let _ended = served.await;
    connected
}

#[tokio::test]
async fn a_servers_name_must_be_in_its_certificate_as_go_sees_it() {
    let folder = tempfile::tempdir().unwrap();
    let authority = authority(folder.path(), &rcgen::PKCS_ECDSA_P256_SHA256);
    let options = TlsOptions::new().ca(folder.path().join("ca.pem"));
    for (names, host, is_taken) in [
        (&["*.etcd"][..], "etcd-0.etcd", true),
        (&["*.etcd"], "ETCD-0.etcd", true),
        (&["*.etcd"], "etcd", false),
        (&["*.etcd"], "a.b.etcd", false),
        (
            &["*.etcd.default.svc.cluster.local"],
            "etcd-0.etcd.default.svc.cluster.local",
            true,
        ),
        (&["*.default.svc"], "etcd-client.default.svc", true),
        (&["etcd"], "etcd", true),
        (&["etcd_0.local"], "etcd_0.local", true),
        (&["10.0.0.7", "fd00::7"], "10.0.0.7", true),
        (&["10.0.0.7", "fd00::7"], "[fd00::7]", true),
        (&["10.0.0.7"], "10.0.0.8", false),
        (&["*.0.0.7"], "10.0.0.7", false),
        // The common name is no name of a server's: Go passes over it since 1.15.
        (&[], "common-name", false),
    ] {
        let mut leaf = params(names);
        leaf.distinguished_name
            .push(DnType::CommonName, "common-name");
        let key = key_on(&rcgen::PKCS_ECDSA_P256_SHA256);
        let leaf = leaf.signed_by(&key, &authority).unwrap();
        let taken = connect(&options, host, leaf.der().clone(), &key).await;
        assert_eq!(taken.is_ok(), is_taken, "{names:?} {host}: {taken:?}");
    }
}

#[tokio::test]
async fn a_certificate_that_vouches_for_itself_is_taken_when_it_is_trusted() {
    let folder = tempfile::tempdir().unwrap();
    let trusted = folder.path().join("ca.pem");
    let options = TlsOptions::new().ca(&trusted);
    // As `openssl req -x509` makes them, and as etcd's `--auto-tls` does.
    for is_ca in [IsCa::Ca(BasicConstraints::Unconstrained), IsCa::NoCa] {
        let mut leaf = params(&["localhost", "*.etcd"]);
        leaf.is_ca = is_ca;
        let key = key_on(&rcgen::PKCS_ECDSA_P256_SHA256);
        let leaf = leaf.self_signed(&key).unwrap();
        fs::write(&trusted, leaf.pem()).unwrap();
        for (host, is_taken) in [("localhost", true), ("a.etcd", true), ("other", false)] {
            let taken = connect(&options, host, leaf.der().clone(), &key).await;
            assert_eq!(taken.is_ok(), is_taken, "{host}: {taken:?}");
        }
        authority(folder.path(), &rcgen::PKCS_ECDSA_P256_SHA256);
        let taken = connect(&options, "localhost", leaf.der().clone(), &key).await;
        assert!(taken.is_err(), "taken though nobody trusts it");
        let anybody = TlsOptions::new().skip_verification();
        let taken = connect(&anybody, "other", leaf.der().clone(), &key).await;
        assert_eq!(taken, Ok(()));
    }
}

#[tokio::test]
async fn keys_may_be_on_every_curve_that_go_has() {
    let curves = [
        &rcgen::PKCS_ECDSA_P256_SHA256,
        &rcgen::PKCS_ECDSA_P384_SHA384,
        &rcgen::PKCS_ECDSA_P521_SHA512,
        &rcgen::PKCS_ED25519,
    ];
    let folder = tempfile::tempdir().unwrap();
    let options = TlsOptions::new().ca(folder.path().join("ca.pem"));
    for of_authority in curves {
        let authority = authority(folder.path(), of_authority);
        for of_leaf in curves {
            let key = key_on(of_leaf);
            let leaf = params(&["localhost"]).signed_by(&key, &authority).unwrap();
            let taken = connect(&options, "localhost", leaf.der().clone(), &key).await;
            assert_eq!(taken, Ok(()), "{of_authority:?} {of_leaf:?}");
        }
    }
}
