//! Three members: what one knows of users and tokens, all do.

use std::time::Duration;

use anyhow::{Result, ensure};
use kvd_api::pb::authpb::permission::Type;
use kvd_api::pb::etcdserverpb::{
    AuthDisableRequest, AuthStatusRequest, AuthUserChangePasswordRequest, AuthUserDeleteRequest,
};
use kvd_tests::cluster::Cluster;
use kvd_tests::{http, wait};

use super::session::{CHEAP, PASSWORD, Session, refusal};

const INVALID: &str = "etcdserver: invalid auth token";

/// Waits until a member has applied what was done before.
async fn settled(session: &Session) -> Result<()> {
    wait::until("an answer", Duration::from_secs(20), || async {
        session.auth().auth_status(AuthStatusRequest {}).await?;
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_and_users_are_those_of_the_cluster() -> Result<()> {
    let mut cluster = Cluster::start(3, &CHEAP).await?;
    // Asked before auth is on: status wants a user then.
    let leader = cluster.leader().await?;
    let root = Session::enable(&cluster.members[0]).await?;
    root.add_role("staff").await?;
    root.permit("staff", Type::Readwrite, "k", "").await?;
    root.add_user("alice", "staff").await?;
    let alice = Session::of(&cluster.members[1], "alice").await?;
    // At once, whichever member learns of it last.
    for member in &cluster.members {
        alice.at(member).await?.put("k", "v").await?;
        let token = alice.token.clone().unwrap_or_default();
        ensure!(!member.log().contains(&token), "a token in the log");
        ensure!(!member.log().contains("\"pw\""), "a password in the log");
    }

    cluster.members[leader].kill()?;
    let other = (leader + 1) % 3;
    let elsewhere = alice.at(&cluster.members[other]).await?;
    wait::until(
        "a put by another leader",
        Duration::from_secs(20),
        || async { Ok(elsewhere.put("k", "w").await?) },
    )
    .await?;
    cluster.restart(leader).await?;
    let again = Session::of(&cluster.members[leader], "alice").await?;
    assert_eq!(again.get("k").await?, 1);
    let denied = refusal(again.put("other", "").await);
    assert_eq!(denied, "etcdserver: permission denied");

    // Another password: the tokens of the user are gone everywhere, those of others are not.
    let root = Session::of(&cluster.members[leader], "root").await?;
    let change = AuthUserChangePasswordRequest {
        name: "alice".into(),
        password: "other".into(),
        ..AuthUserChangePasswordRequest::default()
    };
    root.auth().user_change_password(root.with(change)).await?;
    for member in &cluster.members {
        let old = again.at(member).await?;
        settled(&Session::anonymous(member).await?).await?;
        assert_eq!(refusal(old.get("k").await), INVALID);
        assert_eq!(root.at(member).await?.get("k").await?, 1);
        let refused = refusal(old.authenticate("alice", PASSWORD).await);
        assert_eq!(
            refused,
            "etcdserver: authentication failed, invalid user ID or password"
        );
    }
    let mut alice = again.clone();
    alice.token = Some(again.authenticate("alice", "other").await?);
    assert_eq!(alice.get("k").await?, 1);

    let delete = AuthUserDeleteRequest {
        name: "alice".into(),
    };
    root.auth().user_delete(root.with(delete)).await?;
    root.add_user("alice", "staff").await?;
    for member in &cluster.members {
        settled(&Session::anonymous(member).await?).await?;
        let old = alice.at(member).await?;
        assert_eq!(refusal(old.get("k").await), INVALID);
    }
    cluster.equal_revisions(&root).await?;
    Ok(())
}

/// Compares what members say of auth.
trait EqualAuth {
    async fn equal_revisions(&self, root: &Session) -> Result<()>;
}

impl EqualAuth for Cluster {
    async fn equal_revisions(&self, root: &Session) -> Result<()> {
        let mut revisions = Vec::new();
        for member in &self.members {
            let session = root.at(member).await?;
            let status = session.with(AuthStatusRequest {});
            let status = session.auth().auth_status(status).await?.into_inner();
            ensure!(status.enabled, "auth is on at {}", member.name());
            let metrics = http::get(&member.client_address(), "/metrics")?.body;
            let line = format!("etcd_debugging_auth_revision {}", status.auth_revision);
            ensure!(metrics.contains(&line), "no {line:?}");
            revisions.push(status.auth_revision);
        }
        ensure!(
            revisions.windows(2).all(|pair| pair[0] == pair[1]),
            "{revisions:?}"
        );
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn users_survive_restarts_and_arrive_with_snapshots() -> Result<()> {
    let arguments = [
        CHEAP[0],
        CHEAP[1],
        "--snapshot-count",
        "20",
        "--snapshot-catchup-entries",
        "5",
    ];
    let mut cluster = Cluster::start(3, &arguments).await?;
    let leader = cluster.leader().await?;
    let behind = (leader + 1) % 3;
    cluster.members[behind].kill()?;
    let root = Session::enable(&cluster.members[leader]).await?;
    root.add_role("staff").await?;
    root.permit("staff", Type::Read, "k", "").await?;
    root.add_user("alice", "staff").await?;
    for number in 0..200 {
        root.put("k", &number.to_string()).await?;
    }
    cluster.restart(behind).await?;
    let alice = Session::of(&cluster.members[behind], "alice").await?;
    assert_eq!(alice.get("k").await?, 1);
    assert_eq!(
        refusal(alice.put("k", "").await),
        "etcdserver: permission denied"
    );

    for index in 0..3 {
        cluster.members[index].kill()?;
    }
    cluster.start_all().await?;
    let member = &cluster.members[behind];
    let nobody = Session::anonymous(member).await?;
    let unnamed = wait::until("an answer", Duration::from_secs(20), || async {
        let text = refusal(nobody.get("k").await);
        ensure!(text.contains("user name is empty"), "{text}");
        Ok(text)
    });
    unnamed.await?;
    let root = Session::of(member, "root").await?;
    assert_eq!(root.get("k").await?, 1);
    root.auth()
        .auth_disable(root.with(AuthDisableRequest {}))
        .await?;
    assert_eq!(nobody.get("k").await?, 1);
    Ok(())
}
