//! All gRPC services of the client port as one service.

use std::sync::Arc;

use kvd_api::DESCRIPTORS;
use kvd_api::pb::etcdserverpb::cluster_server::ClusterServer;
use kvd_api::pb::etcdserverpb::kv_server::KvServer;
use kvd_api::pb::etcdserverpb::maintenance_server::MaintenanceServer;
use kvd_api::pb::etcdserverpb::watch_server::WatchServer;
use tonic::service::Routes;
use tonic_health::ServingStatus;

use crate::core::Core;
use crate::error::{Error, Result};
use crate::limits;
use crate::services::cluster::ClusterService;
use crate::services::kv::KvService;
use crate::services::maintenance::MaintenanceService;
use crate::services::watch::WatchService;

/// The services of the member `core`, with gRPC health and reflection.
///
/// Errors: [`Error::Internal`] when the descriptors that the build made cannot be read.
pub async fn client_routes(core: &Arc<Core>) -> Result<Routes> {
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
            KvServer::new(KvService::new(Arc::clone(core)))
                .max_decoding_message_size(limit)
                .max_encoding_message_size(usize::MAX),
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
        .add_service(health)
        .add_service(reflection().build_v1().map_err(unreadable)?)
        .add_service(reflection().build_v1alpha().map_err(unreadable)?);
    Ok(builder.routes().prepare())
}
