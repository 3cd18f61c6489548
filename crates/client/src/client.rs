//! The front door: options, and the one way a request takes.

use std::sync::Arc;
use std::time::Duration;

use kvd_api::ETCD_VERSION;
use kvd_api::pb::etcdserverpb::WatchRequest;
use kvd_api::pb::etcdserverpb::cluster_client::ClusterClient;
use kvd_api::pb::etcdserverpb::kv_client::KvClient;
use kvd_api::pb::etcdserverpb::lease_client::LeaseClient;
use kvd_api::pb::etcdserverpb::maintenance_client::MaintenanceClient;
use kvd_api::pb::etcdserverpb::watch_client::WatchClient;
use kvd_api::wire::WatchResponse;
use prost::Message;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};
use tonic::metadata::MetadataValue;
use tonic::transport::Channel;
use tonic::{Request, Response, Status, Streaming};

use crate::auth::{Authenticator, Credentials, Token};
use crate::channel::{Balancer, DialOptions};
use crate::endpoint::Endpoint;
use crate::error::{Error, Result};
use crate::retry::{self, Rule};
use crate::tls::TlsOptions;

/// Largest request by default, as in clientv3.
const SEND_BYTES_MAX: usize = 2 * 1024 * 1024;
/// Most tokens that are tried for one request.
const TOKENS_MAX: usize = 3;
/// Largest answer by default, as in clientv3.
const RECEIVE_BYTES_MAX: usize = i32::MAX as usize;

/// Collects the options of a [`Client`].
#[derive(Clone, Debug)]
pub struct Builder {
    endpoints: Vec<String>,
    dial: DialOptions,
    credentials: Option<Credentials>,
    request_timeout: Duration,
    require_leader: bool,
    send_bytes_max: Option<usize>,
    receive_bytes_max: Option<usize>,
}

impl Builder {
    /// Longest time for one connection attempt. Default 2 s.
    pub fn dial_timeout(mut self, timeout: Duration) -> Self {
        self.dial.dial_timeout = timeout;
        self
    }

    /// Longest time for one request, with connecting and retries. Default 5 s.
    pub fn request_timeout(mut self, timeout: Duration) -> Self {
        self.request_timeout = timeout;
        self
    }

    /// Pings a silent connection after `interval` (at least 10 s) while a request waits on it, and
    /// gives it up when no answer comes within `timeout`. Default off.
    pub fn keep_alive(mut self, interval: Duration, timeout: Duration) -> Self {
        self.dial.keep_alive = Some((interval, timeout));
        self
    }

    /// Lets a member that has no leader refuse at once instead of waiting for one.
    pub fn require_leader(mut self, require: bool) -> Self {
        self.require_leader = require;
        self
    }

    /// How connections are secured to endpoints with `https://` and `unixs:`, and to those that
    /// name no scheme.
    pub fn tls(mut self, options: TlsOptions) -> Self {
        self.dial.tls = Some(options);
        self
    }

    /// The user whose token every request carries.
    pub fn user(mut self, name: impl Into<String>, password: impl Into<String>) -> Self {
        self.credentials = Some(Credentials::Password {
            name: name.into(),
            password: password.into(),
        });
        self
    }

    /// A token that every request carries, made elsewhere: a JWT.
    pub fn token(mut self, token: impl Into<String>) -> Self {
        self.credentials = Some(Credentials::Token(token.into()));
        self
    }

    /// Largest request in bytes. Default 2 MiB.
    pub fn send_bytes_max(mut self, bytes: usize) -> Self {
        self.send_bytes_max = Some(bytes);
        self
    }

    /// Largest answer in bytes. Default 2 GiB - 1.
    pub fn receive_bytes_max(mut self, bytes: usize) -> Self {
        self.receive_bytes_max = Some(bytes);
        self
    }

    /// Checks the options. Nothing is connected yet: that happens with the first request.
    ///
    /// Errors: [`Error::NoEndpoints`], [`Error::BadEndpoint`], [`Error::Tls`],
    /// [`Error::BadLimits`] when an answer must be smaller than a request.
    pub fn build(self) -> Result<Client> {
        let send_bytes_max = self.send_bytes_max.unwrap_or(SEND_BYTES_MAX);
        let receive_bytes_max = self.receive_bytes_max.unwrap_or(RECEIVE_BYTES_MAX);
        if let (Some(receive), Some(send)) = (self.receive_bytes_max, self.send_bytes_max)
            && send > receive
        {
            return Err(Error::BadLimits { receive, send });
        }
        let endpoints = self
            .endpoints
            .iter()
            .map(|text| Endpoint::parse(text))
            .collect::<Result<Vec<_>>>()?;
        let balancer = Balancer::new(endpoints, &self.dial)?;
        Ok(Client {
            balancer: Arc::new(balancer),
            authenticator: Arc::default(),
            require_leader: self.require_leader,
            options: Arc::new(self),
            request_timeout: None,
            send_bytes_max,
            receive_bytes_max,
        })
    }
}

/// A client; cheap to clone, and all clones share their connections.
#[derive(Clone, Debug)]
pub struct Client {
    balancer: Arc<Balancer>,
    authenticator: Arc<Authenticator>,
    options: Arc<Builder>,
    request_timeout: Option<Duration>,
    require_leader: bool,
    send_bytes_max: usize,
    receive_bytes_max: usize,
}

impl Client {
    /// Starts with these endpoints: the forms of [`Endpoint`].
    pub fn builder<I>(endpoints: I) -> Builder
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        Builder {
            endpoints: endpoints.into_iter().map(Into::into).collect(),
            dial: DialOptions {
                dial_timeout: Duration::from_secs(2),
                keep_alive: None,
                tls: None,
            },
            credentials: None,
            request_timeout: Duration::from_secs(5),
            require_leader: false,
            send_bytes_max: None,
            receive_bytes_max: None,
        }
    }

    /// The same client with another time limit for its requests.
    pub fn with_timeout(&self, timeout: Duration) -> Self {
        Client {
            request_timeout: Some(timeout),
            ..self.clone()
        }
    }

    /// The same client, which asks members without a leader to refuse at once.
    pub fn with_required_leader(&self) -> Self {
        Client {
            require_leader: true,
            ..self.clone()
        }
    }

    /// The endpoints as they were given.
    pub fn endpoints(&self) -> impl Iterator<Item = &str> {
        self.balancer.endpoints().map(Endpoint::as_str)
    }

    /// A client with the same options that talks to `endpoint` alone.
    ///
    /// Errors: as [`Builder::build`].
    pub fn only(&self, endpoint: &str) -> Result<Self> {
        let options = Builder {
            endpoints: vec![endpoint.to_owned()],
            request_timeout: self.request_timeout(),
            require_leader: self.require_leader,
            ..(*self.options).clone()
        };
        options.build()
    }

    /// Longest time for one request.
    pub fn request_timeout(&self) -> Duration {
        self.request_timeout.unwrap_or(self.options.request_timeout)
    }

    pub(crate) fn balancer(&self) -> &Balancer {
        &self.balancer
    }

    pub(crate) fn dial_timeout(&self) -> Duration {
        self.options.dial.dial_timeout
    }

    pub(crate) fn kv_stub(&self, channel: Channel) -> KvClient<Channel> {
        KvClient::new(channel)
            .max_decoding_message_size(self.receive_bytes_max)
            .max_encoding_message_size(self.send_bytes_max)
    }

    pub(crate) fn cluster_stub(&self, channel: Channel) -> ClusterClient<Channel> {
        ClusterClient::new(channel)
            .max_decoding_message_size(self.receive_bytes_max)
            .max_encoding_message_size(self.send_bytes_max)
    }

    pub(crate) fn lease_stub(&self, channel: Channel) -> LeaseClient<Channel> {
        LeaseClient::new(channel)
            .max_decoding_message_size(self.receive_bytes_max)
            .max_encoding_message_size(self.send_bytes_max)
    }

    pub(crate) fn maintenance_stub(&self, channel: Channel) -> MaintenanceClient<Channel> {
        MaintenanceClient::new(channel)
            .max_decoding_message_size(self.receive_bytes_max)
            .max_encoding_message_size(self.send_bytes_max)
    }

    /// Sends one message under `rule` and waits for its answer.
    pub(crate) async fn unary<M, T, F>(
        &self,
        rule: Rule,
        message: M,
        send: impl Fn(Channel, Request<M>) -> F,
    ) -> Result<T>
    where
        M: Message + Clone,
        F: Future<Output = std::result::Result<Response<T>, Status>>,
    {
        for _ in 1..TOKENS_MAX {
            let token = self.who().await?;
            let answer = self
                .unary_as(rule, message.clone(), &send, token.as_ref())
                .await;
            match answer {
                Err(error) if self.is_outdated(&error, token.as_ref()).await => {}
                other => return other,
            }
        }
        let token = self.who().await?;
        self.unary_as(rule, message, &send, token.as_ref()).await
    }

    /// As [`Client::unary`], without saying who asks.
    pub(crate) async fn unary_as_nobody<M, T, F>(
        &self,
        rule: Rule,
        message: M,
        send: impl Fn(Channel, Request<M>) -> F,
    ) -> Result<T>
    where
        M: Message + Clone,
        F: Future<Output = std::result::Result<Response<T>, Status>>,
    {
        self.unary_as(rule, message, &send, None).await
    }

    async fn who(&self) -> Result<Option<Token>> {
        // Boxed, since authenticating is a request itself.
        Box::pin(
            self.authenticator
                .token(self, self.options.credentials.as_ref()),
        )
        .await
    }

    /// Whether another token than the one attached would cure `error`; the next request gets one.
    pub(crate) async fn is_outdated(&self, error: &Error, token: Option<&Token>) -> bool {
        let credentials = self.options.credentials.as_ref();
        self.authenticator.outdated(error, token, credentials).await
    }

    async fn unary_as<M, T, F>(
        &self,
        rule: Rule,
        message: M,
        send: &impl Fn(Channel, Request<M>) -> F,
        token: Option<&Token>,
    ) -> Result<T>
    where
        M: Message + Clone,
        F: Future<Output = std::result::Result<Response<T>, Status>>,
    {
        let size = message.encoded_len();
        if size > self.send_bytes_max {
            return Err(Error::TooLarge {
                size,
                limit: self.send_bytes_max,
            });
        }
        let deadline = self.deadline();
        retry::run(&self.balancer, rule, deadline, |channel| {
            let answer = send(channel, self.request(message.clone(), deadline, token));
            async move { answer.await.map(Response::into_inner) }
        })
        .await
    }

    /// Sends one message that is answered by a stream. Only connecting is bounded in time: a
    /// server may have much to prepare before it answers.
    pub(crate) async fn streaming<M, T, F>(
        &self,
        message: M,
        send: impl Fn(Channel, Request<M>) -> F,
    ) -> Result<T>
    where
        M: Message + Clone,
        F: Future<Output = std::result::Result<Response<T>, Status>>,
    {
        let deadline = self.deadline();
        let mut tokens = 0;
        loop {
            let token = self.who().await?;
            let connection = self.balancer.connect(deadline).await?;
            let request = self.metadata(Request::new(message.clone()), token.as_ref());
            match send(connection.channel.clone(), request).await {
                Ok(answer) => return Ok(answer.into_inner()),
                Err(status) if retry::never_answered(&status) => {
                    connection.failed();
                    if Instant::now() >= deadline {
                        return Err(retry::stream_failed(&status, connection.endpoint()));
                    }
                }
                Err(status) => {
                    let error = retry::from_status(&status);
                    tokens += 1;
                    if tokens >= TOKENS_MAX || !self.is_outdated(&error, token.as_ref()).await {
                        return Err(error);
                    }
                }
            }
        }
    }

    /// Opens a watch stream on whatever member can be reached, however long that takes, and tells
    /// the token that it carries. What is in `requests` is sent at once: some servers answer nothing
    /// before they were asked something.
    pub(crate) async fn open_watch(
        &self,
        requests: mpsc::Receiver<WatchRequest>,
    ) -> Result<(Streaming<WatchResponse>, Option<Token>)> {
        let token = self.who().await?;
        let connection = loop {
            match self.balancer.connect(self.deadline()).await {
                Ok(connection) => break connection,
                Err(Error::NoConnection { .. }) => {}
                Err(error) => return Err(error),
            }
        };
        let requests = futures_util::stream::unfold(requests, |mut requests| async move {
            requests.recv().await.map(|request| (request, requests))
        });
        let request = self.metadata(Request::new(requests), token.as_ref());
        let mut stub = WatchClient::new(connection.channel.clone())
            .max_decoding_message_size(self.receive_bytes_max)
            .max_encoding_message_size(self.send_bytes_max);
        let deadline = self.deadline();
        let opened = timeout_at(deadline, stub.watch(request)).await;
        let lost = |reason: String| Error::ConnectionLost {
            endpoint: connection.endpoint().to_owned(),
            reason,
        };
        match opened {
            Ok(Ok(response)) => Ok((response.into_inner(), token)),
            Ok(Err(status)) if retry::never_answered(&status) => {
                connection.failed();
                Err(lost(retry::root_cause(&status)))
            }
            Ok(Err(status)) => {
                let error = retry::from_status(&status);
                if self.is_outdated(&error, token.as_ref()).await {
                    return Err(lost("the token is out of date".to_owned()));
                }
                Err(error)
            }
            Err(_) => {
                connection.failed();
                Err(lost("no answer to the watch".to_owned()))
            }
        }
    }

    /// The endpoints as one text, for errors that cannot name one.
    pub(crate) fn endpoint_list(&self) -> String {
        self.endpoints().collect::<Vec<_>>().join(",")
    }

    /// Adds what every request carries.
    fn request<M>(&self, message: M, deadline: Instant, token: Option<&Token>) -> Request<M> {
        let mut request = Request::new(message);
        // The server gives up when we do.
        request.set_timeout(deadline.saturating_duration_since(Instant::now()));
        self.metadata(request, token)
    }

    fn metadata<M>(&self, mut request: Request<M>, token: Option<&Token>) -> Request<M> {
        let metadata = request.metadata_mut();
        if let Some(token) = token {
            metadata.insert("token", token.clone());
        }
        let (major_minor, _) = ETCD_VERSION.rsplit_once('.').unwrap_or((ETCD_VERSION, ""));
        if let Ok(version) = MetadataValue::try_from(major_minor) {
            metadata.insert("client-api-version", version);
        }
        if self.require_leader {
            metadata.insert("hasleader", MetadataValue::from_static("true"));
        }
        request
    }
}
