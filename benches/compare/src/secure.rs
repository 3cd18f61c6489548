//! TLS and users, set up the same on both sides: certificates made here, users made over the API.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::ValueEnum;
use kvd_api::pb::authpb::{Permission, permission};
use kvd_api::pb::etcdserverpb::auth_client::AuthClient;
use kvd_api::pb::etcdserverpb::{
    AuthEnableRequest, AuthRoleAddRequest, AuthRoleGrantPermissionRequest, AuthUserAddRequest,
    AuthUserGrantRoleRequest, AuthenticateRequest,
};
use kvd_tests::pki::{Authority, Issued, Leaf};
use kvd_tests::secure::Identity;
use rcgen::KeyPair;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

/// The user of the loads, and its password and role.
const USER: &str = "bench";
const PASSWORD: &str = "of no worth";
/// What the loads read and write.
const PREFIXES: [&str; 2] = ["key/", "watched/"];

/// How clients say who they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Auth {
    /// There are no users.
    None,
    /// A token that the servers remember.
    Simple,
    /// A signed token, ES256.
    Jwt,
    /// The common name of the client's certificate; with TLS.
    Cn,
}

/// What is in force on every port.
#[derive(Clone, Copy, Debug)]
pub struct Security {
    /// How clients say who they are.
    pub auth: Auth,
    /// Whether clients and members speak TLS.
    pub tls: bool,
}

impl Security {
    /// Whether ports speak TLS.
    pub fn tls(self) -> bool {
        self.tls || self.auth == Auth::Cn
    }

    /// What stands behind the name of a workload in the report; nothing without any of it.
    pub fn suffix(self) -> String {
        let mut suffix = String::new();
        if self.tls() {
            suffix.push_str(" +tls");
        }
        match self.auth {
            Auth::None => {}
            Auth::Simple => suffix.push_str(" +auth simple"),
            Auth::Jwt => suffix.push_str(" +auth jwt"),
            Auth::Cn => suffix.push_str(" +auth cn"),
        }
        suffix
    }

    fn has_passwords(self) -> bool {
        matches!(self.auth, Auth::Simple | Auth::Jwt)
    }
}

/// Adds the token, if there is one.
#[derive(Clone, Debug, Default)]
pub struct Token(Option<MetadataValue<Ascii>>);

impl Interceptor for Token {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(token) = &self.0 {
            request.metadata_mut().insert("token", token.clone());
        }
        Ok(request)
    }
}

/// A connection that says who calls.
pub type Connection = InterceptedService<Channel, Token>;

/// The files that servers are started with, and what clients show.
pub struct Setup {
    security: Security,
    flags: Vec<String>,
    /// Who the load is, and who makes the users; without TLS neither.
    identities: Option<(Identity, Identity)>,
    token: Token,
}

impl Setup {
    /// Writes certificates and keys into `folder`.
    ///
    /// Errors: when they cannot be made or written.
    pub fn new(security: Security, folder: &Path) -> Result<Setup> {
        let mut flags = Vec::new();
        if security.auth == Auth::Jwt {
            let key = KeyPair::generate()?;
            let private = folder.join("jwt.key");
            let public = folder.join("jwt.pub");
            fs::write(&private, key.serialize_pem())?;
            fs::write(&public, key.public_key_pem())?;
            let (private, public) = (private.display(), public.display());
            flags.push("--auth-token".to_owned());
            flags.push(format!(
                "jwt,sign-method=ES256,priv-key={private},pub-key={public},ttl=1h"
            ));
        }
        let identities = match security.tls() {
            true => Some(certificates(security, folder, &mut flags)?),
            false => None,
        };
        Ok(Setup {
            security,
            flags,
            identities,
            token: Token::default(),
        })
    }

    /// The flags of the servers.
    pub fn flags(&self) -> &[String] {
        &self.flags
    }

    /// `http` or `https`.
    pub fn scheme(&self) -> &'static str {
        match self.security.tls() {
            true => "https",
            false => "http",
        }
    }

    /// A connection of the load to `address`.
    ///
    /// Errors: when there is none to be had.
    pub async fn connect(&self, address: &str) -> Result<Connection> {
        let identity = self.identities.as_ref().map(|(load, _)| load);
        let channel = channel(identity, address).await?;
        Ok(InterceptedService::new(channel, self.token.clone()))
    }

    /// Makes the users and turns auth on, where there is to be any.
    ///
    /// Errors: when a server refuses.
    pub async fn make_users(&mut self, address: &str) -> Result<()> {
        if self.security.auth == Auth::None {
            return Ok(());
        }
        let identity = self.identities.as_ref().map(|(_, root)| root);
        let mut auth = AuthClient::new(channel(identity, address).await?);
        for name in ["root", USER] {
            let password = match self.security.has_passwords() {
                true => PASSWORD,
                false => "",
            };
            let user = AuthUserAddRequest {
                name: name.to_owned(),
                password: password.to_owned(),
                options: Some(kvd_api::pb::authpb::UserAddOptions {
                    no_password: password.is_empty(),
                }),
                ..AuthUserAddRequest::default()
            };
            auth.user_add(user).await.context("adding a user")?;
            auth.role_add(AuthRoleAddRequest {
                name: name.to_owned(),
            })
            .await
            .context("adding a role")?;
            auth.user_grant_role(AuthUserGrantRoleRequest {
                user: name.to_owned(),
                role: name.to_owned(),
            })
            .await
            .context("granting a role")?;
        }
        for prefix in PREFIXES {
            auth.role_grant_permission(AuthRoleGrantPermissionRequest {
                name: USER.to_owned(),
                perm: Some(Permission {
                    perm_type: permission::Type::Readwrite as i32,
                    key: prefix.into(),
                    range_end: prefix.replace('/', "0").into(),
                }),
            })
            .await
            .context("granting a permission")?;
        }
        auth.auth_enable(AuthEnableRequest {}).await?;
        self.log_in(address).await
    }

    /// Gets a token, where there are passwords.
    ///
    /// Errors: when the server gives none within a minute: members that have just elected a leader
    /// may not know the user yet.
    async fn log_in(&mut self, address: &str) -> Result<()> {
        if !self.security.has_passwords() {
            return Ok(());
        }
        let identity = self.identities.as_ref().map(|(load, _)| load);
        let mut auth = AuthClient::new(channel(identity, address).await?);
        let request = AuthenticateRequest {
            name: USER.to_owned(),
            password: PASSWORD.to_owned(),
        };
        let asked = tokio::time::timeout(Duration::from_secs(60), auth.authenticate(request));
        let token = asked.await?.context("logging in")?.into_inner().token;
        self.token = Token(Some(token.parse()?));
        Ok(())
    }
}

async fn channel(identity: Option<&Identity>, address: &str) -> Result<Channel> {
    match identity {
        Some(identity) => identity.channel(address).await,
        None => {
            let endpoint = Endpoint::from_shared(format!("http://{address}"))?;
            Ok(endpoint.tcp_nodelay(true).connect().await?)
        }
    }
}

fn certificates(
    security: Security,
    folder: &Path,
    flags: &mut Vec<String>,
) -> Result<(Identity, Identity)> {
    let authority = Authority::new("kvd-compare")?;
    let path = |name: &str| folder.join(name).display().to_string();
    let server = authority.issue(&Leaf::new("server", 1))?;
    fs::write(path("ca.pem"), authority.pem())?;
    fs::write(path("server.pem"), &server.cert)?;
    fs::write(path("server.key"), &server.key)?;
    let mut add = |flag: &str, value: String| flags.extend([flag.to_owned(), value]);
    for prefix in ["--", "--peer-"] {
        add(&format!("{prefix}cert-file"), path("server.pem"));
        add(&format!("{prefix}key-file"), path("server.key"));
        // Whoever has a trusted authority wants certificates from clients, in etcd, too.
        if prefix == "--peer-" || security.auth == Auth::Cn {
            add(&format!("{prefix}trusted-ca-file"), path("ca.pem"));
        }
    }
    flags.push("--peer-client-cert-auth".to_owned());
    if security.auth == Auth::Cn {
        flags.push("--client-cert-auth".to_owned());
    }
    let identity = |name: &str, serial: u64| -> Result<Identity> {
        let shown: Option<Issued> = match security.auth {
            Auth::Cn => Some(authority.issue(&Leaf::new(name, serial))?),
            _ => None,
        };
        Identity::new(&authority.pem(), shown.as_ref())
    };
    Ok((identity(USER, 2)?, identity("root", 3)?))
}
