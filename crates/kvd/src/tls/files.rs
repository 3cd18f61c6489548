//! The files that the flags name: reading them, and noticing that they changed.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustls::pki_types::pem::{Error as PemError, PemObject};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};

use super::error::Error;
use super::options::Options;

/// The bytes of all files of one port. They hold keys: never to be printed.
#[derive(Clone, Default, PartialEq, Eq)]
pub(super) struct Contents {
    pub(super) cert: Option<Vec<u8>>,
    pub(super) key: Option<Vec<u8>>,
    pub(super) client_cert: Option<Vec<u8>>,
    pub(super) client_key: Option<Vec<u8>>,
    pub(super) trusted_ca: Option<Vec<u8>>,
    pub(super) crl: Option<Vec<u8>>,
}

impl Contents {
    /// Reads every file that `options` names.
    ///
    /// Errors: [`Error::Read`] with the first that cannot be read.
    pub(super) fn read(options: &Options) -> Result<Contents, Error> {
        let read = |path: &Option<PathBuf>| match path {
            None => Ok(None),
            Some(path) => match std::fs::read(path) {
                Ok(bytes) => Ok(Some(bytes)),
                Err(source) => Err(Error::Read {
                    path: path.clone(),
                    source,
                }),
            },
        };
        Ok(Contents {
            cert: read(&options.cert_file)?,
            key: read(&options.key_file)?,
            client_cert: read(&options.client_cert_file)?,
            client_key: read(&options.client_key_file)?,
            trusted_ca: read(&options.trusted_ca_file)?,
            crl: read(&options.crl_file)?,
        })
    }
}

/// What the file system says of all files without reading them; equal when nothing was written or
/// exchanged. Symlinks are followed, so that swapping one of a directory above counts.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Marks(Vec<Option<Mark>>);

/// Device, inode, size, and the times of content and inode in seconds and nanoseconds.
type Mark = (u64, u64, u64, (i64, i64), (i64, i64));

impl Marks {
    pub(super) fn look(options: &Options) -> Marks {
        let files = [
            &options.cert_file,
            &options.key_file,
            &options.client_cert_file,
            &options.client_key_file,
            &options.trusted_ca_file,
            &options.crl_file,
        ];
        let mark = |path: &Path| {
            let found = std::fs::metadata(path).ok()?;
            let modified = (found.mtime(), found.mtime_nsec());
            let changed = (found.ctime(), found.ctime_nsec());
            Some((found.dev(), found.ino(), found.size(), modified, changed))
        };
        Marks(
            files
                .iter()
                .map(|path| path.as_deref().and_then(mark))
                .collect(),
        )
    }
}

/// The certificates of a PEM file, in their order.
///
/// Errors: [`Error::NoCertificate`], [`Error::Pem`].
pub(super) fn certificates(path: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, Error> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let found = read.map_err(|error| damaged(path, &error))?;
    if found.is_empty() {
        return Err(Error::NoCertificate(path.to_owned()));
    }
    Ok(found)
}

/// The first key of a PEM file.
///
/// Errors: [`Error::NoKey`], [`Error::Pem`].
pub(super) fn key(path: &Path, pem: &[u8]) -> Result<PrivateKeyDer<'static>, Error> {
    match PrivateKeyDer::from_pem_slice(pem) {
        Ok(key) => Ok(key),
        Err(PemError::NoItemsFound) => Err(Error::NoKey(path.to_owned())),
        Err(error) => Err(damaged(path, &error)),
    }
}

/// The revocation lists of a file: one in DER, as etcd wants it, or any number in PEM.
///
/// Errors: [`Error::Pem`], or [`Error::Crl`] when there is none.
pub(super) fn revocation_lists(path: &Path, bytes: &[u8]) -> Result<Vec<Vec<u8>>, Error> {
    let is_pem = bytes.windows(10).any(|window| window == b"-----BEGIN");
    if !is_pem {
        return Ok(vec![bytes.to_owned()]);
    }
    let mut lists = Vec::new();
    for list in CertificateRevocationListDer::pem_slice_iter(bytes) {
        let list = list.map_err(|error| damaged(path, &error))?;
        lists.push(list.as_ref().to_owned());
    }
    if lists.is_empty() {
        return Err(Error::Crl {
            path: path.to_owned(),
            why: "there is no revocation list in it".to_owned(),
        });
    }
    Ok(lists)
}

/// Damage is described by what is missing: a PEM error may hold pieces of the file, and that may be
/// a key.
fn damaged(path: &Path, error: &PemError) -> Error {
    let why = match error {
        PemError::MissingSectionEnd { .. } => "a section has no end",
        PemError::IllegalSectionStart { .. } => "a section begins in a wrong way",
        PemError::Base64Decode(_) => "a section is not base64",
        _ => "it cannot be read",
    };
    Error::Pem {
        path: path.to_owned(),
        why: why.to_owned(),
    }
}
