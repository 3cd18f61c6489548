//! Generated from `proto/`, one module per protobuf package, under etcd's names.
#![allow(missing_docs, clippy::all, clippy::pedantic, unreachable_pub)]

/// etcd's KV, Watch, Lease, Cluster, Maintenance and Auth services.
pub mod etcdserverpb {
    tonic::include_proto!("etcdserverpb");
}
/// Keys with their revisions, and events.
pub mod mvccpb {
    tonic::include_proto!("mvccpb");
}
/// Users, roles and permissions as stored.
pub mod authpb {
    tonic::include_proto!("authpb");
}
/// etcd's lock service.
pub mod v3lockpb {
    tonic::include_proto!("v3lockpb");
}
/// etcd's election service.
pub mod v3electionpb {
    tonic::include_proto!("v3electionpb");
}
/// Member to member, private to kvd.
pub mod kvdpeerpb {
    tonic::include_proto!("kvdpeerpb");
}
/// The content of log entries, private to kvd.
pub mod kvdcommandpb {
    tonic::include_proto!("kvdcommandpb");
}
