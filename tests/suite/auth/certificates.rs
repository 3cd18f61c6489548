//! Users that show a certificate instead of a token.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kvd_api::pb::authpb::UserAddOptions;
use kvd_api::pb::authpb::permission::Type;
use kvd_api::pb::etcdserverpb::{
    AuthEnableRequest, AuthUserAddRequest, AuthUserGrantRoleRequest, AuthUserListRequest,
};
use kvd_tests::cluster::Cluster;
use kvd_tests::member::Member;
use kvd_tests::pki::{Authority, Leaf};
use kvd_tests::secure::Identity;
use tempfile::TempDir;

use super::session::{CHEAP, PASSWORD, Session, refusal};

const PATIENCE: Duration = Duration::from_secs(30);
const DENIED: &str = "etcdserver: permission denied";

/// An authority, and three members that want certificates of it from clients and one another.
struct Setup {
    authority: Authority,
    cluster: Cluster,
    _folder: TempDir,
}

impl Setup {
    async fn start(extra: &[&str]) -> Result<Setup> {
        let authority = Authority::new("authority")?;
        let folder = tempfile::tempdir()?;
        let member = authority.issue(&Leaf::new("member", 1))?;
        let mut line = vec![
            "--client-cert-auth".to_owned(),
            "--peer-client-cert-auth".to_owned(),
        ];
        for (name, content, flags) in [
            ("tls.crt", &member.cert, ["--cert-file", "--peer-cert-file"]),
            ("tls.key", &member.key, ["--key-file", "--peer-key-file"]),
            (
                "ca.crt",
                &authority.pem(),
                ["--trusted-ca-file", "--peer-trusted-ca-file"],
            ),
        ] {
            let path = folder.path().join(name);
            std::fs::write(&path, content)?;
            for flag in flags {
                line.extend([flag.to_owned(), path.display().to_string()]);
            }
        }
        let line = line.iter().map(String::as_str).chain(CHEAP);
        let line: Vec<&str> = line.chain(extra.iter().copied()).collect();
        let mut cluster = Cluster::prepare_with_tls(3, &line, (true, true))?;
        cluster.start_all().await?;
        Ok(Setup {
            authority,
            cluster,
            _folder: folder,
        })
    }

    fn identity(&self, common_name: &str) -> Result<Identity> {
        let shown = self.authority.issue(&Leaf::new(common_name, 100))?;
        Identity::new(&self.authority.pem(), Some(&shown))
    }

    /// A client with a certificate of that name and no token.
    async fn named(&self, common_name: &str, member: &Member) -> Result<Session> {
        let identity = self.identity(common_name)?;
        Ok(Session {
            channel: identity.channel(&member.client_address()).await?,
            token: None,
        })
    }
}

/// A user that no password lets in.
async fn add_user(root: &Session, name: &str, role: &str) -> Result<()> {
    let add = AuthUserAddRequest {
        name: name.into(),
        options: Some(UserAddOptions { no_password: true }),
        ..AuthUserAddRequest::default()
    };
    root.auth().user_add(root.with(add)).await?;
    let grant = AuthUserGrantRoleRequest {
        user: name.into(),
        role: role.into(),
    };
    root.auth().user_grant_role(root.with(grant)).await?;
    Ok(())
}

async fn post(identity: &Identity, member: &Member, headers: &str) -> Result<String> {
    let (address, body) = (member.client_address(), r#"{"key":"aw=="}"#);
    identity.post(&address, "/v3/kv/range", headers, body).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificates_name_is_the_user_except_through_the_gateway() -> Result<()> {
    let setup = Setup::start(&[]).await?;
    let [first, second, _] = &setup.cluster.members[..] else {
        unreachable!("there are three members");
    };
    let root = setup.named("root", first).await?;
    add_user(&root, "root", "root").await?;
    root.add_role("staff").await?;
    root.permit("staff", Type::Readwrite, "k", "").await?;
    add_user(&root, "alice", "staff").await?;
    root.add_user("bob", "staff").await?;
    let enable = root.with(AuthEnableRequest {});
    root.auth().auth_enable(enable).await?;

    // The name decides, on every member; `alice` could not log in.
    let alice = setup.named("alice", second).await?;
    kvd_tests::wait::until("auth on every member", PATIENCE, || async {
        alice.put("k", "v").await?;
        ensure!(
            refusal(alice.put("other", "v").await) == DENIED,
            "no auth yet"
        );
        Ok(())
    })
    .await?;
    ensure!(alice.get("k").await? == 1, "what was put is read");
    let list = AuthUserListRequest {};
    ensure!(
        refusal(alice.auth().user_list(alice.with(list)).await) == DENIED,
        "alice is no root"
    );
    root.auth().user_list(root.with(list)).await?;
    let said = refusal(alice.authenticate("alice", "").await);
    ensure!(said.contains("authentication failed"), "{said}");

    // A name that is no user's.
    let mallory = setup.named("mallory", second).await?;
    ensure!(refusal(mallory.put("k", "v").await) == DENIED, "mallory");
    let nameless = setup.named("", second).await?;
    let said = refusal(nameless.put("k", "v").await);
    ensure!(said == "etcdserver: user name is empty", "{said}");

    // A token goes before the name, a bad one, too.
    let mut bob = mallory.clone();
    bob.token = Some(mallory.authenticate("bob", PASSWORD).await?);
    bob.put("k", "v").await?;
    let mut wrong = alice.clone();
    wrong.token = Some("abcdefghijklmnop.1".into());
    let said = refusal(wrong.put("k", "v").await);
    ensure!(said == "etcdserver: invalid auth token", "{said}");

    // By HTTP the connection may be a proxy's: a certificate with a name is refused in etcd's words,
    // one without lets in and says nothing of users.
    let token = bob.token.as_deref().context("bob's token")?;
    let header = format!("Authorization: {token}\r\n");
    let identity = setup.identity("alice")?;
    for headers in ["", &header] {
        let reply = post(&identity, second, headers).await?;
        ensure!(
            reply.starts_with("HTTP/1.1 400")
                && reply.contains(
                    "CommonName of client sending a request against gateway will be ignored and \
                     not used as expected"
                ),
            "{reply}"
        );
    }
    let nameless = setup.identity("")?;
    let reply = post(&nameless, second, "").await?;
    ensure!(reply.contains("etcdserver: user name is empty"), "{reply}");
    let reply = post(&nameless, second, &header).await?;
    ensure!(reply.contains("\"count\":\"1\""), "{reply}");
    let health = identity.get(&second.client_address(), "/health").await?;
    ensure!(health.contains("\"health\":\"true\""), "{health}");
    Ok(())
}
