//! The front door: options, and the one way a request takes.

use std::sync::Arc;
use std::time::Duration;

use kvd_api::ETCD_VERSION;
use kvd_api::pb::etcdserverpb::cluster_client::ClusterClient;
use kvd_api::pb::etcdserverpb::kv_client::KvClient;
use kvd_api::pb::etcdserverpb::lease_client::LeaseClient;
use kvd_api::pb::etcdserverpb::maintenance_client::MaintenanceClient;
use prost::Message;
use tokio::time::Instant;
use tonic::metadata::MetadataValue;
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

use crate::channel::{Balancer, DialOptions};
use crate::endpoint::Endpoint;
use crate::error::{Error, Result};
use crate::retry::{self, Rule};

/// Largest request by default, as in clientv3.
const SEND_BYTES_MAX: usize = 2 * 1024 * 1024;
/// Largest answer by default, as in clientv3.
const RECEIVE_BYTES_MAX: usize = i32::MAX as usize;

/// Collects the options of a [`Client`].
#[derive(Clone, Debug)]
pub struct Builder {
    endpoints: Vec<String>,
    dial: DialOptions,
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
    /// Errors: [`Error::NoEndpoints`], [`Error::BadEndpoint`], [`Error::TlsUnsupported`],
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
    options: Arc<Builder>,
    request_timeout: Option<Duration>,
    send_bytes_max: usize,
    receive_bytes_max: usize,
}

impl Client {
    /// Starts with these endpoints: `host:port`, `http://host:port` or `unix://path`.
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
            },
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
            ..(*self.options).clone()
        };
        options.build()
    }

    /// Longest time for one request.
    pub fn request_timeout(&self) -> Duration {
        self.request_timeout.unwrap_or(self.options.request_timeout)
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
        let size = message.encoded_len();
        if size > self.send_bytes_max {
            return Err(Error::TooLarge {
                size,
                limit: self.send_bytes_max,
            });
        }
        let deadline = self.deadline();
        retry::run(&self.balancer, rule, deadline, |channel| {
            let answer = send(channel, self.request(message.clone(), deadline));
            async move { answer.await.map(Response::into_inner) }
        })
        .await
    }

    /// Adds what every request carries.
    fn request<M>(&self, message: M, deadline: Instant) -> Request<M> {
        let mut request = Request::new(message);
        // The server gives up when we do.
        request.set_timeout(deadline.saturating_duration_since(Instant::now()));
        let metadata = request.metadata_mut();
        let (major_minor, _) = ETCD_VERSION.rsplit_once('.').unwrap_or((ETCD_VERSION, ""));
        if let Ok(version) = MetadataValue::try_from(major_minor) {
            metadata.insert("client-api-version", version);
        }
        if self.options.require_leader {
            metadata.insert("hasleader", MetadataValue::from_static("true"));
        }
        request
    }
}
