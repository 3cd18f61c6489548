//! Authorities and certificates for tests, and folders that are swapped as Kubernetes does.

use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::Result;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams,
    SanType, SerialNumber,
};

const DAY: Duration = Duration::from_secs(24 * 3600);

/// One that issues certificates.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// What a certificate is to say.
#[derive(Clone, Debug)]
pub struct Leaf {
    /// The subject's common name.
    pub common_name: String,
    /// Alternative names: addresses where they parse as such.
    pub names: Vec<String>,
    /// The serial number.
    pub serial: u64,
    /// When it begins and ends to be valid, from now.
    pub valid: (Shift, Shift),
    /// Whether servers, clients or both may show it.
    pub uses: Vec<ExtendedKeyUsagePurpose>,
}

/// A distance from now.
#[derive(Clone, Copy, Debug)]
pub enum Shift {
    /// Before now.
    Ago(Duration),
    /// After now.
    In(Duration),
}

impl Shift {
    fn time(self) -> SystemTime {
        match self {
            Shift::Ago(time) => SystemTime::now() - time,
            Shift::In(time) => SystemTime::now() + time,
        }
    }
}

impl Leaf {
    /// Valid for a day, for this host, as server and client.
    pub fn new(common_name: &str, serial: u64) -> Leaf {
        Leaf {
            common_name: common_name.to_owned(),
            names: vec!["localhost".to_owned(), "127.0.0.1".to_owned()],
            serial,
            valid: (Shift::Ago(DAY), Shift::In(DAY)),
            uses: vec![
                ExtendedKeyUsagePurpose::ServerAuth,
                ExtendedKeyUsagePurpose::ClientAuth,
            ],
        }
    }
}

/// A certificate and its key in PEM.
#[derive(Clone, Debug)]
pub struct Issued {
    /// The certificate.
    pub cert: String,
    /// The key.
    pub key: String,
}

impl Authority {
    /// A new one.
    ///
    /// Errors: when no key can be made.
    pub fn new(name: &str) -> Result<Authority> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.not_before = Shift::Ago(DAY).time().into();
        params.not_after = Shift::In(10 * DAY).time().into();
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        Ok(Authority { issuer })
    }

    /// Its own certificate in PEM.
    pub fn pem(&self) -> String {
        self.issuer.pem()
    }

    /// Issues a certificate.
    ///
    /// Errors: when a name cannot stand in one.
    pub fn issue(&self, leaf: &Leaf) -> Result<Issued> {
        let mut params = CertificateParams::default();
        let name = leaf.common_name.as_str();
        params.distinguished_name.push(DnType::CommonName, name);
        params.serial_number = Some(SerialNumber::from(leaf.serial));
        params.not_before = leaf.valid.0.time().into();
        params.not_after = leaf.valid.1.time().into();
        params.extended_key_usages = leaf.uses.clone();
        params.use_authority_key_identifier_extension = true;
        for name in &leaf.names {
            params.subject_alt_names.push(match name.parse::<IpAddr>() {
                Ok(address) => SanType::IpAddress(address),
                Err(_) => SanType::DnsName(name.as_str().try_into()?),
            });
        }
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok(Issued {
            cert: certificate.pem(),
            key: key.serialize_pem(),
        })
    }

    /// A revocation list in DER.
    ///
    /// Errors: when it cannot be signed.
    pub fn revoke(&self, serials: &[u64]) -> Result<Vec<u8>> {
        let revoked = |serial: &u64| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: Shift::Ago(DAY).time().into(),
            reason_code: None,
            invalidity_date: None,
        };
        let params = CertificateRevocationListParams {
            this_update: Shift::Ago(DAY).time().into(),
            next_update: Shift::In(DAY).time().into(),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        Ok(params.signed_by(&self.issuer)?.der().to_vec())
    }
}

/// A folder of files that are exchanged all at once: `..data` is a symlink to a folder with the
/// files' content, and swapped by a rename; the files are symlinks into it.
pub struct Secret {
    folder: PathBuf,
    version: u32,
}

impl Secret {
    /// A new one in `folder`, which is created.
    ///
    /// Errors: when it cannot be written.
    pub fn new(folder: &Path, files: &[(&str, &[u8])]) -> Result<Secret> {
        fs::create_dir_all(folder)?;
        let mut secret = Secret {
            folder: folder.to_owned(),
            version: 0,
        };
        secret.swap(files)?;
        for (name, _) in files {
            symlink(Path::new("..data").join(name), folder.join(name))?;
        }
        Ok(secret)
    }

    /// Exchanges all files.
    ///
    /// Errors: when they cannot be written.
    pub fn swap(&mut self, files: &[(&str, &[u8])]) -> Result<()> {
        self.version += 1;
        let name = format!("..{}", self.version);
        let fresh = self.folder.join(&name);
        fs::create_dir(&fresh)?;
        for (name, content) in files {
            fs::write(fresh.join(name), content)?;
        }
        let link = self.folder.join("..data_tmp");
        symlink(&name, &link)?;
        fs::rename(&link, self.folder.join("..data"))?;
        Ok(())
    }

    /// The path of one file.
    pub fn path(&self, name: &str) -> String {
        self.folder.join(name).display().to_string()
    }
}
