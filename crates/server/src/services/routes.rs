//! All gRPC services of the client port as one service.
//!
//! KV, where the calls are, is found by its prefix; a general router finds the others.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body as HttpBody;
use kvd_api::DESCRIPTORS;
use kvd_api::pb::etcdserverpb::auth_server::AuthServer;
use kvd_api::pb::etcdserverpb::cluster_server::ClusterServer;
use kvd_api::pb::etcdserverpb::kv_server::KvServer;
use kvd_api::pb::etcdserverpb::lease_server::LeaseServer;
use kvd_api::pb::etcdserverpb::maintenance_server::MaintenanceServer;
use kvd_api::pb::etcdserverpb::watch_server::WatchServer;
use kvd_api::pb::v3electionpb::election_server::ElectionServer;
use kvd_api::pb::v3lockpb::lock_server::LockServer;
use tonic::body::Body;
use tonic::service::Routes;
use tonic_health::ServingStatus;
use tower::Service;

use crate::core::Core;
use crate::error::{Error, Result};
use crate::limits;
use crate::services::auth::AuthService;
use crate::services::cluster::ClusterService;
use crate::services::election::ElectionService;
use crate::services::kv::KvService;
use crate::services::lease::LeaseService;
use crate::services::lock::LockService;
use crate::services::maintenance::MaintenanceService;
use crate::services::watch::WatchService;

/// What the paths of KV begin with.
const KV_PREFIX: &str = "/etcdserverpb.KV/";

/// The services of the client port. Always ready.
#[derive(Clone)]
pub struct ClientRoutes {
    kv: KvServer<KvService>,
    others: Routes,
}

type Reply = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

impl<B> Service<Request<B>> for ClientRoutes
where
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>> + Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Reply;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Service::<Request<B>>::poll_ready(&mut self.others, context)
    }

    fn call(&mut self, request: Request<B>) -> Reply {
        match request.uri().path().starts_with(KV_PREFIX) {
            true => self.kv.call(request),
            false => Box::pin(self.others.call(request)),
        }
    }
}

/// The services of the member `core`, with gRPC health and reflection.
///
/// Errors: [`Error::Internal`] when the descriptors that the build made cannot be read.
pub async fn client_routes(core: &Arc<Core>) -> Result<ClientRoutes> {
    let limit = core.config().request_bytes_max + limits::REQUEST_OVERHEAD_BYTES;
    let (reporter, health) = tonic_health::server::health_reporter();
    reporter
        .set_service_status("", ServingStatus::Serving)
        .await;
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let unreadable = |error: tonic_reflection::server::Error| {
        Error::Internal(format!("the service descriptors cannot be read: {error}"))
    };
    let mut builder = Routes::builder();
    builder
        .add_service(
            LeaseServer::new(LeaseService::new(Arc::clone(core))).max_decoding_message_size(limit),
        )
        .add_service(
            ClusterServer::new(ClusterService::new(Arc::clone(core)))
                .max_decoding_message_size(limit),
        )
        .add_service(
            MaintenanceServer::new(MaintenanceService::new(Arc::clone(core)))
                .max_decoding_message_size(limit),
        )
        .add_service(
            WatchServer::new(WatchService::new(Arc::clone(core)))
                .max_decoding_message_size(limit)
                .max_encoding_message_size(usize::MAX),
        )
        .add_service(
            LockServer::new(LockService::new(Arc::clone(core))).max_decoding_message_size(limit),
        )
        .add_service(
            ElectionServer::new(ElectionService::new(Arc::clone(core)))
                .max_decoding_message_size(limit),
        )
        .add_service(
            AuthServer::new(AuthService::new(Arc::clone(core))).max_decoding_message_size(limit),
        )
        .add_service(health)
        .add_service(reflection().build_v1().map_err(unreadable)?)
        .add_service(reflection().build_v1alpha().map_err(unreadable)?);
    let kv = KvServer::new(KvService::new(Arc::clone(core)))
        .max_decoding_message_size(limit)
        .max_encoding_message_size(usize::MAX);
    let others = builder.routes().prepare();
    Ok(ClientRoutes { kv, others })
}
