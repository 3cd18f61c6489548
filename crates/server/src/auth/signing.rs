//! The signatures of JSON web tokens: which methods there are, and reading keys for them.
//!
//! | method | private key | public key |
//! |---|---|---|
//! | RS, PS | PKCS#1 or PKCS#8, 2,048 bits at least | SubjectPublicKeyInfo, PKCS#1 or a certificate |
//! | ES | SEC 1 or PKCS#8, with the public key in it | SubjectPublicKeyInfo or a certificate |
//! | EdDSA | PKCS#8 | SubjectPublicKeyInfo or a certificate |
//! | HS | the file as it is | |
//!
//! All but HS are PEM files; the label of the block does not matter, as in etcd.
//!
//! Differs from etcd: RSA keys must have 2,048 bits.

use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa;
use aws_lc_rs::signature::{self, EcdsaKeyPair, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::error::{Error, Result};

/// A method of signing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// HMAC.
    Hs(Hash),
    /// RSA with PKCS#1 v1.5.
    Rs(Hash),
    /// RSA with PSS.
    Ps(Hash),
    /// ECDSA on the curve of the hash's size.
    Es(Hash),
    /// Ed25519.
    Ed,
}

/// What is signed of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hash {
    /// SHA-256.
    Sha256,
    /// SHA-384.
    Sha384,
    /// SHA-512.
    Sha512,
}

const ALGORITHMS: [(&str, Algorithm); 13] = [
    ("HS256", Algorithm::Hs(Hash::Sha256)),
    ("HS384", Algorithm::Hs(Hash::Sha384)),
    ("HS512", Algorithm::Hs(Hash::Sha512)),
    ("RS256", Algorithm::Rs(Hash::Sha256)),
    ("RS384", Algorithm::Rs(Hash::Sha384)),
    ("RS512", Algorithm::Rs(Hash::Sha512)),
    ("PS256", Algorithm::Ps(Hash::Sha256)),
    ("PS384", Algorithm::Ps(Hash::Sha384)),
    ("PS512", Algorithm::Ps(Hash::Sha512)),
    ("ES256", Algorithm::Es(Hash::Sha256)),
    ("ES384", Algorithm::Es(Hash::Sha384)),
    ("ES512", Algorithm::Es(Hash::Sha512)),
    ("EdDSA", Algorithm::Ed),
];

impl Algorithm {
    /// The method of this name.
    ///
    /// Errors: [`Error::Config`] when there is none.
    pub fn parse(name: &str) -> Result<Algorithm> {
        let found = ALGORITHMS.iter().find(|row| row.0 == name);
        found.map(|row| row.1).ok_or_else(|| {
            let known: Vec<_> = ALGORITHMS.iter().map(|row| row.0).collect();
            Error::Config(format!(
                "auth: invalid auth signature method: --auth-token=jwt takes sign-method={}, not \
                 {name:?}",
                known.join("|")
            ))
        })
    }

    /// The name that tokens give it.
    pub fn name(self) -> &'static str {
        let found = ALGORITHMS.iter().find(|row| row.1 == self);
        found.map_or("none", |row| row.0)
    }
}

/// The keys of one method.
pub enum Keys {
    /// One key for both.
    Secret(Box<hmac::Key>),
    /// The private key, if this member may sign, and the public one.
    Pair {
        /// Signs.
        private: Option<Box<Private>>,
        /// Verifies.
        public: UnparsedPublicKey<Vec<u8>>,
    },
}

/// A private key.
pub enum Private {
    /// RSA, with how it pads.
    Rsa(rsa::KeyPair, &'static dyn signature::RsaEncoding),
    /// ECDSA.
    Ecdsa(EcdsaKeyPair),
    /// Ed25519.
    Ed(Ed25519KeyPair),
}

impl Keys {
    /// Reads the contents of the key files; an empty one was not given.
    ///
    /// Errors: [`Error::Config`].
    pub fn new(algorithm: Algorithm, private: &[u8], public: &[u8]) -> Result<Keys> {
        if let Algorithm::Hs(hash) = algorithm {
            if private.is_empty() {
                return Err(missing());
            }
            let key = hmac::Key::new(hash.hmac(), private);
            return Ok(Keys::Secret(Box::new(key)));
        }
        let private = match private {
            [] => None,
            pem => Some(Private::read(algorithm, &unarmoured(pem)?)?),
        };
        let given = match public {
            [] => None,
            pem => Some(public_key(&unarmoured(pem)?)?),
        };
        let own = private.as_ref().map(Private::public_key);
        let public = match (own, given) {
            (None, None) => return Err(missing()),
            (Some(own), Some(given)) if own != given => {
                let text = "auth: public and private keys don't match";
                return Err(Error::Config(text.into()));
            }
            (Some(key), _) | (None, Some(key)) => key,
        };
        Ok(Keys::Pair {
            private: private.map(Box::new),
            public: UnparsedPublicKey::new(algorithm.verification()?, public),
        })
    }

    /// Signs.
    ///
    /// Errors: [`Error::Unknown`] with the public key alone.
    pub fn sign(&self, message: &[u8]) -> Result<Vec<u8>> {
        let failed = |_| Error::Internal("a token cannot be signed".into());
        match self {
            Keys::Secret(key) => Ok(hmac::sign(key, message).as_ref().to_vec()),
            Keys::Pair { private: None, .. } => {
                let text = "auth: token signing attempted with verify-only key";
                Err(Error::Unknown(text.into()))
            }
            Keys::Pair {
                private: Some(private),
                ..
            } => private.sign(message).map_err(failed),
        }
    }

    /// Whether `signature` is of `message`, by the key.
    pub fn verify(&self, message: &[u8], signature: &[u8]) -> bool {
        match self {
            Keys::Secret(key) => hmac::verify(key, message, signature).is_ok(),
            Keys::Pair { public, .. } => public.verify(message, signature).is_ok(),
        }
    }
}

impl Private {
    fn read(algorithm: Algorithm, der: &[u8]) -> Result<Private> {
        let bad = |what: &str| Error::Config(format!("auth: the private key is no {what}"));
        match algorithm {
            Algorithm::Rs(_) | Algorithm::Ps(_) => {
                let key = rsa::KeyPair::from_pkcs8(der).or_else(|_| rsa::KeyPair::from_der(der));
                let key = key.map_err(|error| bad(&format!("usable RSA key: {error}")))?;
                Ok(Private::Rsa(key, algorithm.padding()?))
            }
            Algorithm::Es(hash) => {
                let (private, public) = ec_key(der).ok_or_else(|| bad("EC key"))?;
                let curve = hash.curve();
                let key = EcdsaKeyPair::from_private_key_and_public_key(curve, private, public);
                let key = key.map_err(|error| bad(&format!("key of this curve: {error}")))?;
                Ok(Private::Ecdsa(key))
            }
            Algorithm::Ed => {
                let key = Ed25519KeyPair::from_pkcs8_maybe_unchecked(der);
                Ok(Private::Ed(key.map_err(|_| bad("Ed25519 key"))?))
            }
            Algorithm::Hs(_) => Err(bad("key pair")),
        }
    }

    fn public_key(&self) -> Vec<u8> {
        match self {
            Private::Rsa(key, _) => key.public_key().as_ref().to_vec(),
            Private::Ecdsa(key) => key.public_key().as_ref().to_vec(),
            Private::Ed(key) => key.public_key().as_ref().to_vec(),
        }
    }

    fn sign(&self, message: &[u8]) -> std::result::Result<Vec<u8>, aws_lc_rs::error::Unspecified> {
        let random = SystemRandom::new();
        match self {
            Private::Rsa(key, padding) => {
                let mut signature = vec![0; key.public_modulus_len()];
                key.sign(*padding, &random, message, &mut signature)?;
                Ok(signature)
            }
            Private::Ecdsa(key) => Ok(key.sign(&random, message)?.as_ref().to_vec()),
            Private::Ed(key) => Ok(key.sign(message).as_ref().to_vec()),
        }
    }
}

impl Algorithm {
    fn verification(self) -> Result<&'static dyn signature::VerificationAlgorithm> {
        Ok(match self {
            Algorithm::Rs(Hash::Sha256) => &signature::RSA_PKCS1_2048_8192_SHA256,
            Algorithm::Rs(Hash::Sha384) => &signature::RSA_PKCS1_2048_8192_SHA384,
            Algorithm::Rs(Hash::Sha512) => &signature::RSA_PKCS1_2048_8192_SHA512,
            Algorithm::Ps(Hash::Sha256) => &signature::RSA_PSS_2048_8192_SHA256,
            Algorithm::Ps(Hash::Sha384) => &signature::RSA_PSS_2048_8192_SHA384,
            Algorithm::Ps(Hash::Sha512) => &signature::RSA_PSS_2048_8192_SHA512,
            Algorithm::Es(Hash::Sha256) => &signature::ECDSA_P256_SHA256_FIXED,
            Algorithm::Es(Hash::Sha384) => &signature::ECDSA_P384_SHA384_FIXED,
            Algorithm::Es(Hash::Sha512) => &signature::ECDSA_P521_SHA512_FIXED,
            Algorithm::Ed => &signature::ED25519,
            Algorithm::Hs(_) => return Err(unsupported()),
        })
    }

    fn padding(self) -> Result<&'static dyn signature::RsaEncoding> {
        Ok(match self {
            Algorithm::Rs(Hash::Sha256) => &signature::RSA_PKCS1_SHA256,
            Algorithm::Rs(Hash::Sha384) => &signature::RSA_PKCS1_SHA384,
            Algorithm::Rs(Hash::Sha512) => &signature::RSA_PKCS1_SHA512,
            Algorithm::Ps(Hash::Sha256) => &signature::RSA_PSS_SHA256,
            Algorithm::Ps(Hash::Sha384) => &signature::RSA_PSS_SHA384,
            Algorithm::Ps(Hash::Sha512) => &signature::RSA_PSS_SHA512,
            Algorithm::Es(_) | Algorithm::Hs(_) | Algorithm::Ed => return Err(unsupported()),
        })
    }
}

impl Hash {
    fn hmac(self) -> hmac::Algorithm {
        match self {
            Hash::Sha256 => hmac::HMAC_SHA256,
            Hash::Sha384 => hmac::HMAC_SHA384,
            Hash::Sha512 => hmac::HMAC_SHA512,
        }
    }

    fn curve(self) -> &'static signature::EcdsaSigningAlgorithm {
        match self {
            Hash::Sha256 => &signature::ECDSA_P256_SHA256_FIXED_SIGNING,
            Hash::Sha384 => &signature::ECDSA_P384_SHA384_FIXED_SIGNING,
            Hash::Sha512 => &signature::ECDSA_P521_SHA512_FIXED_SIGNING,
        }
    }
}

fn missing() -> Error {
    Error::Config("auth: missing key data".into())
}

fn unsupported() -> Error {
    Error::Config("auth: invalid auth signature method".into())
}

/// The content of the first PEM block that is a key.
fn unarmoured(pem: &[u8]) -> Result<Vec<u8>> {
    let bad = || Error::Config("auth: a key file is no PEM file".into());
    let text = std::str::from_utf8(pem).map_err(|_| bad())?;
    let mut rest = text;
    loop {
        let (_, after) = rest.split_once("-----BEGIN ").ok_or_else(bad)?;
        let (label, after) = after.split_once("-----").ok_or_else(bad)?;
        let (body, after) = after.split_once("-----END ").ok_or_else(bad)?;
        if label == "EC PARAMETERS" {
            rest = after;
            continue;
        }
        let body: String = body.split_ascii_whitespace().collect();
        return STANDARD.decode(body).map_err(|_| bad());
    }
}

// Just enough DER to find keys in the forms that they come in.

const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const OCTET_STRING: u8 = 0x04;
const SEQUENCE: u8 = 0x30;
const CONTEXT_0: u8 = 0xa0;
const CONTEXT_1: u8 = 0xa1;

/// The first element: its tag, its content and what follows it.
fn element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = der.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        0x81..=0x84 => {
            let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            let length = bytes
                .iter()
                .fold(0, |length, byte| length << 8 | usize::from(*byte));
            (length, rest)
        }
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((tag, content, rest))
}

/// The content of the first element, if it has this tag, and what follows it.
fn tagged(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (found, content, rest) = element(der)?;
    (found == tag).then_some((content, rest))
}

fn bits(der: &[u8]) -> Option<&[u8]> {
    // The first byte counts the bits that are not used; keys have none.
    tagged(der, BIT_STRING)?.0.strip_prefix(&[0])
}

/// The public key in a SubjectPublicKeyInfo.
fn subject_public_key(der: &[u8]) -> Option<&[u8]> {
    let (info, _) = tagged(der, SEQUENCE)?;
    let (_, key) = tagged(info, SEQUENCE)?;
    bits(key)
}

/// The public key of a certificate.
fn certificate_key(der: &[u8]) -> Option<&[u8]> {
    let (certificate, _) = tagged(der, SEQUENCE)?;
    let (mut fields, _) = tagged(certificate, SEQUENCE)?;
    if let Some((_, rest)) = tagged(fields, CONTEXT_0) {
        fields = rest;
    }
    // Serial number, signature, issuer, validity, subject.
    for tag in [INTEGER, SEQUENCE, SEQUENCE, SEQUENCE, SEQUENCE] {
        fields = tagged(fields, tag)?.1;
    }
    subject_public_key(fields)
}

fn public_key(der: &[u8]) -> Result<Vec<u8>> {
    let found = subject_public_key(der).or_else(|| certificate_key(der));
    if let Some(key) = found {
        return Ok(key.to_vec());
    }
    // PKCS#1: two integers. It is verified with as it is.
    let pkcs1 = tagged(der, SEQUENCE).and_then(|(key, _)| tagged(key, INTEGER));
    match pkcs1 {
        Some(_) => Ok(der.to_vec()),
        None => Err(Error::Config("auth: the public key is none".into())),
    }
}

/// The private and the public half of a key in SEC 1, plain or in PKCS#8.
fn ec_key(der: &[u8]) -> Option<(&[u8], &[u8])> {
    let (outer, _) = tagged(der, SEQUENCE)?;
    let (_, rest) = tagged(outer, INTEGER)?;
    if let Some((_, rest)) = tagged(rest, SEQUENCE) {
        return ec_key(tagged(rest, OCTET_STRING)?.0);
    }
    let (private, mut rest) = tagged(rest, OCTET_STRING)?;
    if let Some((_, after)) = tagged(rest, CONTEXT_0) {
        rest = after;
    }
    let (public, _) = tagged(rest, CONTEXT_1)?;
    Some((private, bits(public)?))
}
