//! A client with a user.

use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use kvd_api::pb::authpb::Permission;
use kvd_api::pb::authpb::permission::Type;
use kvd_api::pb::etcdserverpb::auth_client::AuthClient;
use kvd_api::pb::etcdserverpb::kv_client::KvClient;
use kvd_api::pb::etcdserverpb::lease_client::LeaseClient;
use kvd_api::pb::etcdserverpb::{
    AuthEnableRequest, AuthRoleAddRequest, AuthRoleGrantPermissionRequest, AuthUserAddRequest,
    AuthUserGrantRoleRequest, AuthenticateRequest, PutRequest, RangeRequest,
};
use kvd_tests::cluster::Cluster;
use kvd_tests::member::Member;
use tonic::metadata::AsciiMetadataValue;
use tonic::transport::Channel;
use tonic::{Request, Status};

/// What a test uses to keep hashing cheap.
pub const CHEAP: [&str; 2] = ["--bcrypt-cost", "4"];

/// The password of every user that these tests make.
pub const PASSWORD: &str = "pw";

/// A connection and the token that goes with each request.
#[derive(Clone)]
pub struct Session {
    pub channel: Channel,
    pub token: Option<String>,
}

impl Session {
    pub async fn anonymous(member: &Member) -> Result<Session> {
        Ok(Session {
            channel: member.channel().await?,
            token: None,
        })
    }

    /// The session of a user with the usual password.
    pub async fn of(member: &Member, user: &str) -> Result<Session> {
        let mut session = Session::anonymous(member).await?;
        session.token = Some(session.authenticate(user, PASSWORD).await?);
        Ok(session)
    }

    /// The same token at another member.
    pub async fn at(&self, member: &Member) -> Result<Session> {
        Ok(Session {
            channel: member.channel().await?,
            token: self.token.clone(),
        })
    }

    pub fn with<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        if let Some(token) = &self.token {
            let value = AsciiMetadataValue::try_from(token.as_str()).expect("a token is text");
            request.metadata_mut().insert("token", value);
        }
        request.set_timeout(Duration::from_secs(20));
        request
    }

    pub fn auth(&self) -> AuthClient<Channel> {
        AuthClient::new(self.channel.clone())
    }

    pub fn kv(&self) -> KvClient<Channel> {
        KvClient::new(self.channel.clone())
    }

    pub fn lease(&self) -> LeaseClient<Channel> {
        LeaseClient::new(self.channel.clone())
    }

    pub async fn authenticate(&self, user: &str, password: &str) -> Result<String, Status> {
        let request = AuthenticateRequest {
            name: user.into(),
            password: password.into(),
        };
        Ok(self.auth().authenticate(request).await?.into_inner().token)
    }

    pub async fn put(&self, key: &str, value: &str) -> Result<i64, Status> {
        let request = PutRequest {
            key: Bytes::copy_from_slice(key.as_bytes()),
            value: Bytes::copy_from_slice(value.as_bytes()),
            ..PutRequest::default()
        };
        let reply = self.kv().put(self.with(request)).await?.into_inner();
        Ok(reply.header.map_or(0, |header| header.revision))
    }

    pub async fn get(&self, key: &str) -> Result<usize, Status> {
        let request = RangeRequest {
            key: Bytes::copy_from_slice(key.as_bytes()),
            ..RangeRequest::default()
        };
        let reply = self.kv().range(self.with(request)).await?;
        Ok(reply.into_inner().kvs.len())
    }

    pub async fn add_user(&self, name: &str, role: &str) -> Result<(), Status> {
        let add = AuthUserAddRequest {
            name: name.into(),
            password: PASSWORD.into(),
            ..AuthUserAddRequest::default()
        };
        self.auth().user_add(self.with(add)).await?;
        let grant = AuthUserGrantRoleRequest {
            user: name.into(),
            role: role.into(),
        };
        self.auth().user_grant_role(self.with(grant)).await?;
        Ok(())
    }

    pub async fn add_role(&self, name: &str) -> Result<(), Status> {
        let add = AuthRoleAddRequest { name: name.into() };
        self.auth().role_add(self.with(add)).await?;
        Ok(())
    }

    pub async fn permit(
        &self,
        role: &str,
        kind: Type,
        key: &str,
        range_end: &str,
    ) -> Result<(), Status> {
        let grant = AuthRoleGrantPermissionRequest {
            name: role.into(),
            perm: Some(Permission {
                perm_type: kind as i32,
                key: Bytes::copy_from_slice(key.as_bytes()),
                range_end: Bytes::copy_from_slice(range_end.as_bytes()),
            }),
        };
        self.auth().role_grant_permission(self.with(grant)).await?;
        Ok(())
    }

    /// Makes root and turns auth on; returns root's session.
    pub async fn enable(member: &Member) -> Result<Session> {
        let session = Session::anonymous(member).await?;
        session.add_user("root", "root").await?;
        let enable = session.with(AuthEnableRequest {});
        session.auth().auth_enable(enable).await?;
        Session::of(member, "root").await
    }
}

/// One member with auth on, root's session, and `alice`, who has the empty role `staff`.
pub async fn one_member() -> Result<(Cluster, Session, Session)> {
    let cluster = Cluster::start(1, &CHEAP).await?;
    let root = Session::enable(&cluster.members[0]).await?;
    root.add_role("staff").await?;
    root.add_user("alice", "staff").await?;
    let alice = Session::of(&cluster.members[0], "alice")
        .await
        .context("alice authenticates")?;
    Ok((cluster, root, alice))
}

/// The text of a refusal.
pub fn refusal<T: std::fmt::Debug>(answer: Result<T, Status>) -> String {
    match answer {
        Ok(answer) => format!("not refused: {answer:?}"),
        Err(status) => status.message().to_owned(),
    }
}
