//! Generated certificates: `--auto-tls`, `--peer-auto-tls`.
//!
//! They keep who only listens from reading along; nobody vouches for them, so they do not keep
//! anybody out who can stand in between.
//!
//! Source: etcd `client/pkg/transport/listener.go`, `SelfCert`. Differs from etcd: the key is
//! P-256, which every client knows (etcd's is P-521); the certificate is not one of an authority,
//! so that a client can trust it without trusting it to issue others; and one that has run out is
//! made anew at the start.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use kvd_tls::Certificate;
use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, KeyPair,
    KeyUsagePurpose, SanType,
};
use tracing::{info, warn};

use super::error::Error;
use super::files;
use super::options::Options;

const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);
/// Clocks differ: it is valid a little before it was made.
const BACK: Duration = Duration::from_secs(60);

/// The certificate in `dir`, made if there is none or it has run out: the options of a port that
/// shows it and trusts everybody.
///
/// `hosts`: names and addresses that it is for. `years`: how long it is valid.
///
/// Errors: zero years; files that cannot be written or, if there are some, read.
pub fn self_signed(dir: &Path, hosts: &[String], years: u64) -> Result<Options, Error> {
    let years = u32::try_from(years).unwrap_or(u32::MAX);
    if years == 0 {
        return Err(Error::Validity);
    }
    let (cert_path, key_path) = (dir.join("cert.pem"), dir.join("key.pem"));
    if !(cert_path.exists() && key_path.exists() && is_in_time(&cert_path)?) {
        generate(dir, &cert_path, &key_path, hosts, years)?;
    }
    Ok(Options {
        cert_file: Some(cert_path.clone()),
        key_file: Some(key_path.clone()),
        client_cert_file: Some(cert_path),
        client_key_file: Some(key_path),
        auto: true,
        is_self_signed: true,
        ..Options::default()
    })
}

/// Whether the certificate of an earlier start is still valid.
fn is_in_time(path: &Path) -> Result<bool, Error> {
    let pem = fs::read(path).map_err(|source| Error::Read {
        path: path.to_owned(),
        source,
    })?;
    let found = files::certificates(path, &pem)?;
    let read = found.first().map(|der| Certificate::read(der));
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let now = since.unwrap_or_default().as_secs();
    let not_after = read.and_then(Result::ok).map(|read| read.not_after);
    let in_time = not_after.is_some_and(|end| u64::try_from(end).is_ok_and(|end| end > now));
    if !in_time {
        warn!(path = %path.display(), "the generated certificate has run out; making another");
    }
    Ok(in_time)
}

fn generate(
    dir: &Path,
    cert_path: &Path,
    key_path: &Path,
    hosts: &[String],
    years: u32,
) -> Result<(), Error> {
    let failed = |error: rcgen::Error| Error::Generate(error.to_string());
    let now = SystemTime::now();
    // A clock or a number of years beyond what can be said means: as long as can be said.
    let end = YEAR
        .checked_mul(years)
        .and_then(|years| now.checked_add(years))
        .filter(|end| *end < SystemTime::UNIX_EPOCH + YEAR * 8000)
        .unwrap_or(SystemTime::UNIX_EPOCH + YEAR * 8000);
    let mut params = CertificateParams::default();
    params.not_before = (now - BACK).into();
    params.not_after = end.into();
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::OrganizationName, "kvd");
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    for host in hosts {
        params.subject_alt_names.push(match host.parse::<IpAddr>() {
            Ok(address) => SanType::IpAddress(address),
            Err(_) => SanType::DnsName(host.as_str().try_into().map_err(failed)?),
        });
    }
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(failed)?;
    let certificate = params.self_signed(&key).map_err(failed)?;
    warn!(
        "certificate-validity-bound-not-after" = %humantime::format_rfc3339_seconds(end),
        "automatically generate certificates"
    );
    let writing = |path: &Path| {
        let path = path.to_owned();
        move |source| Error::Write { path, source }
    };
    create_dir(dir).map_err(writing(dir))?;
    write(cert_path, certificate.pem().as_bytes(), 0o644).map_err(writing(cert_path))?;
    info!(path = %cert_path.display(), "created cert file");
    write(key_path, key.serialize_pem().as_bytes(), 0o600).map_err(writing(key_path))?;
    info!(path = %key_path.display(), "created key file");
    File::open(dir)
        .and_then(|dir| dir.sync_all())
        .map_err(writing(dir))
}

fn create_dir(dir: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

/// Writes a whole file under another name and puts it in place. The mode is that of a new file.
fn write(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    let fresh = PathBuf::from(name);
    match fs::remove_file(&fresh) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(mode);
    let mut file = options.open(&fresh)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&fresh, path)
}
