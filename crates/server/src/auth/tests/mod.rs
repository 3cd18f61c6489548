//! JSON web tokens with keys in every form that etcd takes.

use std::path::PathBuf;
use std::time::Duration;

use super::jwt::{Jwt, JwtSettings};
use crate::error::Error;

fn key(name: &str) -> Option<PathBuf> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/auth/tests/keys");
    (!name.is_empty()).then(|| PathBuf::from(folder).join(name))
}

fn load(sign_method: &str, private: &str, public: &str) -> Result<Jwt, Error> {
    Jwt::load(&JwtSettings {
        sign_method: sign_method.into(),
        public_key: key(public),
        private_key: key(private),
        lifetime: Duration::from_secs(60),
    })
}

#[test]
fn what_one_key_signs_the_other_verifies() {
    for (method, private, public) in [
        ("RS256", "rsa-pkcs1.pem", "rsa-public.pem"),
        ("RS384", "rsa-pkcs8.pem", "rsa-public-pkcs1.pem"),
        ("RS512", "rsa-pkcs8.pem", "rsa-certificate.pem"),
        ("PS256", "rsa-pkcs1.pem", "rsa-public.pem"),
        ("PS384", "rsa-pkcs1.pem", "rsa-public.pem"),
        ("PS512", "rsa-pkcs1.pem", "rsa-public.pem"),
        ("ES256", "p256-sec1.pem", "p256-public.pem"),
        ("ES256", "p256-pkcs8.pem", "p256-public.pem"),
        ("ES384", "p384-pkcs8.pem", "p384-public.pem"),
        ("ES512", "p521-sec1.pem", "p521-public.pem"),
        ("ES512", "p521-pkcs8.pem", "p521-certificate.pem"),
        ("EdDSA", "ed25519.pem", "ed25519-public.pem"),
    ] {
        let row = format!("{method} {private} {public}");
        let both = load(method, private, public).expect(&row);
        let signer = load(method, private, "").expect(&row);
        let verifier = load(method, "", public).expect(&row);
        let token = signer.sign("alice", 7).expect(&row);
        for jwt in [&both, &signer, &verifier] {
            // The second time it is remembered.
            for _ in 0..2 {
                let caller = jwt.caller(&token).expect(&row);
                assert_eq!((&*caller.user, caller.revision), ("alice", 7), "{row}");
            }
        }
        let error = verifier.sign("alice", 7).expect_err(&row);
        assert_eq!(
            error.to_string(),
            "auth: token signing attempted with verify-only key"
        );
        let (signed, signature) = token.rsplit_once('.').expect("a signature");
        let forged = format!("{}x.{signature}", &signed[..signed.len() - 1]);
        assert!(verifier.caller(&forged).is_none(), "{row}");
        assert!(verifier.caller(signed).is_none(), "{row}");
    }
}

#[test]
fn secrets_sign_and_verify() {
    for method in ["HS256", "HS384", "HS512"] {
        let jwt = load(method, "ed25519.pem", "").expect(method);
        let token = jwt.sign("alice", 3).expect(method);
        assert!(jwt.caller(&token).is_some(), "{method}");
        let other = load(method, "p256-sec1.pem", "").expect(method);
        assert!(other.caller(&token).is_none(), "{method}");
    }
    // The method is this member's choice, never the token's.
    let public = load("RS256", "", "rsa-public.pem").expect("a key");
    let mixed = load("HS256", "rsa-public.pem", "").expect("a secret");
    let token = mixed.sign("root", 1).expect("a token");
    assert!(public.caller(&token).is_none());
}

#[test]
fn tokens_end() {
    let settings = |lifetime| JwtSettings {
        sign_method: "HS256".into(),
        public_key: None,
        private_key: key("ed25519.pem"),
        lifetime,
    };
    let short = Jwt::load(&settings(Duration::ZERO)).expect("a secret");
    let token = short.sign("alice", 1).expect("a token");
    assert!(short.caller(&token).is_none());
    let long = Jwt::load(&settings(Duration::from_secs(60))).expect("a secret");
    let token = long.sign("alice", 1).expect("a token");
    assert!(short.caller(&token).is_some());
}

#[test]
fn keys_that_do_not_fit_are_refused() {
    for (method, private, public, complaint) in [
        ("", "rsa-pkcs1.pem", "", "invalid auth signature method"),
        ("none", "rsa-pkcs1.pem", "", "invalid auth signature method"),
        ("ES512", "p256-sec1.pem", "", "key of this curve"),
        ("ES256", "p521-sec1.pem", "", "key of this curve"),
        ("RS256", "", "", "missing key data"),
        ("HS256", "", "rsa-public.pem", "missing key data"),
        ("RS256", "p256-sec1.pem", "", "RSA key"),
        ("ES256", "rsa-pkcs1.pem", "", "EC key"),
        ("ES384", "p256-sec1.pem", "", "key of this curve"),
        ("EdDSA", "rsa-pkcs1.pem", "", "Ed25519 key"),
        (
            "RS256",
            "rsa-pkcs1.pem",
            "p256-public.pem",
            "keys don't match",
        ),
    ] {
        let error = match load(method, private, public) {
            Ok(_) => panic!("{method} {private} {public} is taken"),
            Err(error) => error.to_string(),
        };
        assert!(error.contains(complaint), "{method} {private}: {error}");
    }
    assert!(matches!(
        load("RS256", "none.pem", ""),
        Err(Error::Io { .. })
    ));
}
