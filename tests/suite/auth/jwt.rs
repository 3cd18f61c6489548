//! JSON web tokens on real members: who may make them, and what makes them old.

use anyhow::{Context, Result, ensure};
use kvd_api::pb::authpb::permission::Type;
use kvd_api::pb::etcdserverpb::{
    AuthStatusRequest, AuthUserAddRequest, AuthUserChangePasswordRequest, AuthUserDeleteRequest,
};
use kvd_tests::cluster::Cluster;
use kvd_tests::http;
use rcgen::{KeyPair, PKCS_ECDSA_P521_SHA512, SignatureAlgorithm};

use super::session::{CHEAP, PASSWORD, Session, refusal};

const OLD: &str = "etcdserver: revision of auth store is old";

/// A new key pair in `NAME.key` and `NAME.pub` of `folder`.
fn keys(
    folder: &std::path::Path,
    name: &str,
    curve: &'static SignatureAlgorithm,
) -> Result<(String, String)> {
    let key = KeyPair::generate_for(curve)?;
    let path = |kind: &str| folder.join(format!("{name}.{kind}")).display().to_string();
    let (private, public) = (path("key"), path("pub"));
    std::fs::write(&private, key.serialize_pem())?;
    std::fs::write(&public, key.public_key_pem())?;
    Ok((private, public))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_web_token_is_as_old_as_the_users_and_as_good_as_its_key() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (private, public) = keys(folder.path(), "own", &PKCS_ECDSA_P521_SHA512)?;
    let (foreign, _) = keys(folder.path(), "foreign", &PKCS_ECDSA_P521_SHA512)?;
    let flag = |keys: String| format!("--auth-token=jwt,sign-method=ES512,ttl=10m,{keys}");
    let mut cluster = Cluster::prepare(3, &CHEAP)?;
    // The first can make tokens, the second only verify them, and the third is somebody else's.
    for (member, keys) in cluster.members.iter_mut().zip([
        format!("priv-key={private},pub-key={public}"),
        format!("pub-key={public}"),
        format!("priv-key={foreign}"),
    ]) {
        member.add_arguments(&[&flag(keys)]);
    }
    cluster.start_all().await?;
    let [maker, reader, other] = &cluster.members[..] else {
        anyhow::bail!("there are three members");
    };
    let nobody = Session::anonymous(maker).await?;
    nobody.add_role("staff").await?;
    nobody.permit("staff", Type::Readwrite, "k", "").await?;
    nobody.add_user("alice", "staff").await?;
    let root = Session::enable(maker).await?;
    for member in [reader, other] {
        // Behind a read barrier: afterwards the member knows that auth is on.
        let session = Session::anonymous(member).await?;
        session.auth().auth_status(AuthStatusRequest {}).await?;
    }

    let alice = Session::of(maker, "alice").await?;
    alice.put("k", "v").await?;
    ensure!(alice.at(reader).await?.get("k").await? == 1, "verified");
    let said = refusal(alice.at(other).await?.get("k").await);
    ensure!(said == "etcdserver: invalid auth token", "{said}");
    let said = refusal(
        alice
            .at(reader)
            .await?
            .authenticate("alice", PASSWORD)
            .await,
    );
    ensure!(said.contains("verify-only key"), "{said}");

    // The gateway takes them, too.
    let token = alice.token.clone().context("a token")?;
    let headers = format!("Authorization: {token}\r\n");
    let ask = |address: &str| {
        http::request_with(
            address,
            "POST",
            "/v3/kv/range",
            &headers,
            r#"{"key":"aw=="}"#,
        )
    };
    ensure!(ask(&reader.client_address())?.status == 200, "by JSON");

    // Another password; then another user of the same name.
    let change = AuthUserChangePasswordRequest {
        name: "alice".into(),
        password: "other".into(),
        ..AuthUserChangePasswordRequest::default()
    };
    root.auth().user_change_password(root.with(change)).await?;
    ensure!(refusal(alice.get("k").await) == OLD, "after a new password");
    ensure!(
        refusal(alice.put("k", "w").await) == OLD,
        "nor can it write"
    );
    ensure!(ask(&maker.client_address())?.body.contains(OLD), "by JSON");
    let mut again = alice.clone();
    again.token = Some(alice.authenticate("alice", "other").await?);
    again.put("k", "x").await?;
    ensure!(
        refusal(root.add_role("late").await) == OLD,
        "an administrator's token is no better"
    );
    let root = Session::of(maker, "root").await?;
    let delete = AuthUserDeleteRequest {
        name: "alice".into(),
    };
    root.auth().user_delete(root.with(delete)).await?;
    let said = refusal(again.get("k").await);
    ensure!(said == OLD, "{said}");
    let root = Session::of(maker, "root").await?;
    let add = AuthUserAddRequest {
        name: "alice".into(),
        password: PASSWORD.into(),
        ..AuthUserAddRequest::default()
    };
    root.auth().user_add(root.with(add)).await?;
    for session in [&alice, &again] {
        ensure!(refusal(session.get("k").await) == OLD, "of who is gone");
    }
    for member in &cluster.members {
        ensure!(!member.log().contains(&token), "a token in the log");
    }
    Ok(())
}
