//! Which endpoint carries the next request.
//!
//! Each endpoint is a [`Slot`], connected or not. A request takes the next connected slot, round
//! robin. When none is connected all are dialled at once and the first to answer wins; the others
//! go on in the background and join the rotation. So one dead endpoint costs nothing, and one that
//! drops packets costs no more than the others need to connect.
//!
//! A slot that failed leaves the rotation, and is dialled again in the background after a growing
//! pause, or at once when nothing else is connected. Names are resolved at each dial.

use std::error::Error as _;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};
use tonic::codegen::http::Uri;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Channel;
use tonic::{Request, Status};

use crate::dial;
use crate::endpoint::{Endpoint, Security};
use crate::error::{Attempt, Error, Result};
use crate::retry::{jittered, root_cause};
use crate::tls::TlsOptions;

/// Pause before a failed endpoint is dialled again in the background, first and longest.
const REDIAL_PAUSE: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(5));
/// Pause between rounds while no endpoint can be reached, first and longest.
const ROUND_PAUSE: (Duration, Duration) = (Duration::from_millis(25), Duration::from_millis(500));

/// What is said of an endpoint that neither refuses nor answers.
const SILENCE: &str = "no answer to the connection attempt";

/// How connections are made.
#[derive(Clone, Debug)]
pub(crate) struct DialOptions {
    /// Longest time for one connection attempt.
    pub(crate) dial_timeout: Duration,
    /// Interval and answer timeout of HTTP/2 pings.
    pub(crate) keep_alive: Option<(Duration, Duration)>,
    /// For endpoints that want TLS, or that leave it open.
    pub(crate) tls: Option<TlsOptions>,
}

impl DialOptions {
    /// How a connection to `endpoint` is secured, if it is.
    pub(crate) fn tls_for(&self, endpoint: &Endpoint) -> Option<TlsOptions> {
        match endpoint.security() {
            Security::Never => None,
            Security::IfConfigured => self.tls.clone(),
            Security::Always => Some(self.tls.clone().unwrap_or_default()),
        }
    }
}

/// The endpoints of one client and the connections to them.
#[derive(Debug)]
pub(crate) struct Balancer {
    slots: Vec<Arc<Slot>>,
    next: AtomicUsize,
}

#[derive(Debug)]
struct Slot {
    endpoint: Endpoint,
    dialer: tonic::transport::Endpoint,
    tls: Option<TlsOptions>,
    dial_timeout: Duration,
    /// Written by whoever dials or sees a failure; nobody waits while holding it.
    state: Mutex<State>,
    /// Held while dialling, so that an endpoint is dialled once at a time.
    dialling: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct State {
    channel: Option<Channel>,
    /// Grows with each new connection: a late failure of an old one changes nothing.
    generation: u64,
    failures: u32,
    redial_at: Option<Instant>,
}

/// A connection that a request may use.
#[derive(Clone, Debug)]
pub(crate) struct Connection {
    pub(crate) channel: Channel,
    slot: Arc<Slot>,
    generation: u64,
}

impl Connection {
    /// The endpoint as it was given.
    pub(crate) fn endpoint(&self) -> &str {
        self.slot.endpoint.as_str()
    }

    /// Takes this connection out of the rotation.
    pub(crate) fn failed(&self) {
        self.slot.failed(self.generation);
    }
}

impl Balancer {
    pub(crate) fn new(endpoints: Vec<Endpoint>, options: &DialOptions) -> Result<Self> {
        if endpoints.is_empty() {
            return Err(Error::NoEndpoints);
        }
        let slots = endpoints
            .into_iter()
            .map(|endpoint| {
                let tls = options.tls_for(&endpoint);
                let is_secured = tls.is_some();
                let (timeout, keep_alive) = (options.dial_timeout, options.keep_alive);
                let dialer = endpoint.dialer(is_secured, timeout, keep_alive)?;
                if let Some(tls) = &tls {
                    // What is wrong with the files is better told now than at each dial.
                    tls.config(dial::H2)?;
                }
                Ok(Arc::new(Slot {
                    endpoint,
                    dialer,
                    tls,
                    dial_timeout: options.dial_timeout,
                    state: Mutex::default(),
                    dialling: tokio::sync::Mutex::default(),
                }))
            })
            .collect::<Result<Vec<_>>>()?;
        Ok(Balancer {
            slots,
            next: AtomicUsize::new(0),
        })
    }

    pub(crate) fn endpoints(&self) -> impl Iterator<Item = &Endpoint> {
        self.slots.iter().map(|slot| &slot.endpoint)
    }

    /// The first endpoint, of which there is always one.
    pub(crate) fn first(&self) -> &Endpoint {
        &self.slots[0].endpoint
    }

    /// How connections to the first endpoint are secured.
    pub(crate) fn first_tls(&self) -> Option<&TlsOptions> {
        self.slots[0].tls.as_ref()
    }

    /// Number of endpoints that make a majority: after so many failures in a row it pays to pause.
    pub(crate) fn quorum(&self) -> usize {
        self.slots.len() / 2 + 1
    }

    /// A connection, at the latest at `deadline`.
    ///
    /// Errors: [`Error::NoConnection`] when no endpoint could be reached by then.
    pub(crate) async fn connect(&self, deadline: Instant) -> Result<Connection> {
        let started = Instant::now();
        let mut pause = ROUND_PAUSE.0;
        let mut tried = Vec::new();
        loop {
            if let Some(connection) = self.connected() {
                return Ok(connection);
            }
            match self.dial_all(deadline).await {
                Ok(connection) => return Ok(connection),
                Err(round) => keep_last_reasons(&mut tried, round),
            }
            let wake = Instant::now() + jittered(pause);
            if wake >= deadline {
                sleep_until(deadline).await;
                return Err(Error::NoConnection {
                    waited: started.elapsed(),
                    tried,
                });
            }
            sleep_until(wake).await;
            pause = (pause * 2).min(ROUND_PAUSE.1);
        }
    }

    /// The next connected slot; slots that are due are dialled meanwhile.
    fn connected(&self) -> Option<Connection> {
        let start = self.next.fetch_add(1, Ordering::Relaxed);
        let mut found = None;
        let now = Instant::now();
        for step in 0..self.slots.len() {
            let slot = &self.slots[(start.wrapping_add(step)) % self.slots.len()];
            match slot.connection() {
                Some(connection) if found.is_none() => found = Some(connection),
                Some(_) => {}
                None if slot.is_due(now) => slot.dial_in_background(None),
                None => {}
            }
        }
        found
    }

    /// Dials every endpoint at once; the first connection wins and the other dials go on.
    async fn dial_all(&self, deadline: Instant) -> std::result::Result<Connection, Vec<Attempt>> {
        let (report, mut reports) = mpsc::channel(self.slots.len());
        for slot in &self.slots {
            slot.dial_in_background(Some(report.clone()));
        }
        drop(report);
        let mut failed = Vec::new();
        loop {
            tokio::select! {
                one = reports.recv() => match one {
                    Some(Ok(connection)) => return Ok(connection),
                    Some(Err(attempt)) => failed.push(attempt),
                    None => return Err(failed),
                },
                () = sleep_until(deadline) => {
                    for slot in &self.slots {
                        let endpoint = slot.endpoint.as_str();
                        if !failed.iter().any(|at| at.endpoint == endpoint) {
                            failed.push(Attempt {
                                endpoint: endpoint.to_owned(),
                                reason: SILENCE.to_owned(),
                            });
                        }
                    }
                    return Err(failed);
                }
            }
        }
    }
}

/// Replaces what is known about an endpoint by what was seen last, except that silence says less
/// than an earlier refusal.
fn keep_last_reasons(known: &mut Vec<Attempt>, round: Vec<Attempt>) {
    for attempt in round {
        match known.iter_mut().find(|at| at.endpoint == attempt.endpoint) {
            None => known.push(attempt),
            Some(_) if attempt.reason == SILENCE => {}
            Some(at) => at.reason = attempt.reason,
        }
    }
}

type Report = mpsc::Sender<std::result::Result<Connection, Attempt>>;

impl Slot {
    fn state(&self) -> MutexGuard<'_, State> {
        // The state is whole after every statement that changes it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn connection(self: &Arc<Self>) -> Option<Connection> {
        let state = self.state();
        let channel = state.channel.clone()?;
        Some(Connection {
            channel,
            slot: Arc::clone(self),
            generation: state.generation,
        })
    }

    fn is_due(&self, now: Instant) -> bool {
        self.state().redial_at.is_none_or(|at| at <= now)
    }

    fn failed(&self, generation: u64) {
        let mut state = self.state();
        if state.generation == generation {
            state.channel = None;
            state.count_failure();
        }
    }

    /// Dials unless somebody already does; `report` hears the outcome either way.
    fn dial_in_background(self: &Arc<Self>, report: Option<Report>) {
        if report.is_none() && self.dialling.try_lock().is_err() {
            return;
        }
        let slot = Arc::clone(self);
        tokio::spawn(async move {
            let outcome = slot.dial().await;
            if let Some(report) = report {
                // Nobody listens any more when another endpoint was quicker.
                drop(report.try_send(outcome));
            }
        });
    }

    async fn dial(self: &Arc<Self>) -> std::result::Result<Connection, Attempt> {
        let _one_at_a_time = self.dialling.lock().await;
        if let Some(connection) = self.connection() {
            return Ok(connection);
        }
        match self.open().await {
            Ok(channel) => {
                let mut state = self.state();
                state.generation += 1;
                state.failures = 0;
                state.redial_at = None;
                state.channel = Some(channel.clone());
                let generation = state.generation;
                drop(state);
                Ok(Connection {
                    channel,
                    slot: Arc::clone(self),
                    generation,
                })
            }
            Err(reason) => {
                self.state().count_failure();
                Err(Attempt {
                    endpoint: self.endpoint.as_str().to_owned(),
                    reason,
                })
            }
        }
    }

    async fn connect(&self) -> std::result::Result<Channel, tonic::transport::Error> {
        let Some(tls) = &self.tls else {
            return self.dialer.connect().await;
        };
        let (endpoint, tls) = (self.endpoint.clone(), tls.clone());
        let connector = tower::service_fn(move |_: Uri| {
            let (endpoint, tls) = (endpoint.clone(), tls.clone());
            async move {
                let stream = dial::open(&endpoint, Some(&tls), dial::H2).await?;
                Ok::<_, std::io::Error>(TokioIo::new(stream))
            }
        });
        self.dialer.connect_with_connector(connector).await
    }

    /// Connects and waits for a first sign of life, all within twice the dial timeout.
    ///
    /// A connection alone says little: the kernel accepts it for a process that is stopped, or that
    /// speaks another protocol. No request is sent before something answered.
    async fn open(&self) -> std::result::Result<Channel, String> {
        let channel = self.connect().await.map_err(|err| root_cause(&err))?;
        match timeout(self.dial_timeout, greet(channel.clone())).await {
            Ok(Ok(())) => Ok(channel),
            Ok(Err(status)) if self.tls.is_none() => {
                let cause = root_cause(&status);
                Err(format!("{cause}; if it speaks TLS, write https://"))
            }
            Ok(Err(status)) => Err(root_cause(&status)),
            Err(_) => Err(SILENCE.to_owned()),
        }
    }
}

/// Asks for the server's health. Any answer will do, even that there is no such service.
async fn greet(channel: Channel) -> std::result::Result<(), Status> {
    let mut grpc = tonic::client::Grpc::new(channel);
    if grpc.ready().await.is_err() {
        return Err(kvd_api::error::unknown("the connection was closed"));
    }
    let path = PathAndQuery::from_static("/grpc.health.v1.Health/Check");
    let codec = tonic_prost::ProstCodec::<(), ()>::default();
    match grpc.unary(Request::new(()), path, codec).await {
        Err(status) if status.source().is_some() => Err(status),
        _ => Ok(()),
    }
}

impl State {
    fn count_failure(&mut self) {
        let pause = REDIAL_PAUSE.0 * 2u32.pow(self.failures.min(8));
        self.failures = self.failures.saturating_add(1);
        self.redial_at = Some(Instant::now() + jittered(pause.min(REDIAL_PAUSE.1)));
    }
}
