//! A KV server that does nothing, on one runtime a core: what the transport alone costs.

use std::net::SocketAddr;

use anyhow::Result;
use kvd_api::pb::etcdserverpb::kv_server::{Kv, KvServer};
use kvd_api::pb::etcdserverpb::{
    CompactionRequest, CompactionResponse, DeleteRangeRequest, DeleteRangeResponse, PutRequest,
    PutResponse, RangeRequest, RangeStreamResponse, ResponseHeader, TxnRequest, TxnResponse,
};
use kvd_api::pb::mvccpb::KeyValue;
use kvd_api::wire::RangeResponse;
use prost::Message;
use tokio_stream::StreamExt;
use tonic::{Request, Response, Status};

#[derive(Clone)]
struct Noop {
    pair: bytes::Bytes,
}

const HEADER: ResponseHeader = ResponseHeader {
    cluster_id: 1 << 60,
    member_id: 1 << 61,
    revision: 1 << 20,
    raft_term: 2,
};

#[tonic::async_trait]
impl Kv for Noop {
    type RangeStreamStream = tokio_stream::Empty<Result<RangeStreamResponse, Status>>;

    async fn range(&self, _: Request<RangeRequest>) -> Result<Response<RangeResponse>, Status> {
        let kvs = vec![self.pair.clone()];
        Ok(Response::new(RangeResponse {
            header: Some(HEADER),
            kvs,
            more: false,
            count: 1,
        }))
    }

    async fn range_stream(
        &self,
        _: Request<RangeRequest>,
    ) -> Result<Response<Self::RangeStreamStream>, Status> {
        Ok(Response::new(tokio_stream::empty()))
    }

    async fn put(&self, _: Request<PutRequest>) -> Result<Response<PutResponse>, Status> {
        Ok(Response::new(PutResponse {
            header: Some(HEADER),
            prev_kv: None,
        }))
    }

    async fn delete_range(
        &self,
        _: Request<DeleteRangeRequest>,
    ) -> Result<Response<DeleteRangeResponse>, Status> {
        Ok(Response::new(DeleteRangeResponse::default()))
    }

    async fn txn(&self, _: Request<TxnRequest>) -> Result<Response<TxnResponse>, Status> {
        Ok(Response::new(TxnResponse::default()))
    }

    async fn compact(
        &self,
        _: Request<CompactionRequest>,
    ) -> Result<Response<CompactionResponse>, Status> {
        Ok(Response::new(CompactionResponse::default()))
    }
}

/// Serves until the process is killed.
///
/// Errors: when the address cannot be bound.
pub fn serve(address: SocketAddr) -> Result<()> {
    let pair = KeyValue {
        key: bytes::Bytes::from_static(b"key/00000000"),
        create_revision: 2,
        mod_revision: 1 << 20,
        version: 3,
        value: bytes::Bytes::from(vec![7; 256]),
        lease: 0,
    };
    let pair = bytes::Bytes::from(pair.encode_to_vec());
    let listener = std::net::TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    let cores = std::thread::available_parallelism()?.get();
    let mut queues = Vec::new();
    for _ in 0..cores {
        let (sender, receiver) = tokio::sync::mpsc::unbounded_channel();
        queues.push(sender);
        let service = Noop { pair: pair.clone() };
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            runtime.block_on(async {
                let sockets = tokio_stream::wrappers::UnboundedReceiverStream::new(receiver)
                    .filter_map(|socket: std::net::TcpStream| {
                        Some(tokio::net::TcpStream::from_std(socket))
                    });
                tonic::transport::Server::builder()
                    .add_service(KvServer::new(service))
                    .serve_with_incoming(sockets)
                    .await
            })?;
            anyhow::Ok(())
        });
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        for queue in queues.iter().cycle() {
            let (socket, _) = listener.accept().await?;
            socket.set_nodelay(true)?;
            queue.send(socket.into_std()?)?;
        }
        Ok(())
    })
}
