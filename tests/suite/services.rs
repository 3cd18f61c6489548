//! What every client finds beside KV: health, reflection, the names of what is not built; and
//! `kvctl` from end to end against a cluster.
#![allow(missing_docs)]

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use kvd_api::pb::etcdserverpb::alarm_request::AlarmAction;
use kvd_api::pb::etcdserverpb::{AlarmRequest, AlarmType, PutRequest};
use kvd_tests::cluster::Cluster;
use kvd_tests::process::kvctl;
use prost::Message;
use prost_types::FileDescriptorSet;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tonic_prost::ProstCodec;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

/// What stays open; their own suites show that they are built.
const WAITING: [&str; 3] = [
    "etcdserverpb.Watch/Watch",
    "v3lockpb.Lock/Lock",
    "v3electionpb.Election/Observe",
];

/// Every RPC of the descriptors, as `package.Service/Method`.
fn all_rpcs() -> Result<BTreeSet<String>> {
    let files = FileDescriptorSet::decode(kvd_api::DESCRIPTORS)?;
    let mut rpcs = BTreeSet::new();
    for file in &files.file {
        for service in &file.service {
            for method in &service.method {
                rpcs.insert(format!(
                    "{}.{}/{}",
                    file.package(),
                    service.name(),
                    method.name()
                ));
            }
        }
    }
    Ok(rpcs)
}

/// Calls an RPC with an empty message and returns how it ended.
async fn call(channel: &Channel, rpc: &str) -> Result<(), Status> {
    let mut client = tonic::client::Grpc::new(channel.clone());
    let ready = client.ready().await;
    ready.map_err(|error| Status::unavailable(error.to_string()))?;
    let path = format!("/{rpc}").try_into();
    let path = path.map_err(|error| Status::internal(format!("{rpc}: {error}")))?;
    let request = Request::new(tokio_stream::once(()));
    let codec = ProstCodec::<(), ()>::default();
    let mut answers = client.streaming(request, path, codec).await?.into_inner();
    while answers.message().await?.is_some() {}
    Ok(())
}

#[tokio::test]
async fn every_rpc_of_etcd_is_built() -> Result<()> {
    let cluster = Cluster::start(1, &[]).await?;
    let channel = cluster.members[0].channel().await?;
    let rpcs = all_rpcs()?;
    // The list itself must not shrink by accident.
    ensure!(rpcs.len() >= 49, "only {} RPCs", rpcs.len());
    for rpc in &rpcs {
        if WAITING.contains(&rpc.as_str()) {
            continue;
        }
        let answer = call(&channel, rpc).await;
        let code = answer.err().map(|status| status.code());
        ensure!(code != Some(Code::Unimplemented), "{rpc} is not built");
    }
    Ok(())
}

#[tokio::test]
async fn health_and_reflection_answer() -> Result<()> {
    let cluster = Cluster::start(1, &[]).await?;
    let channel = cluster.members[0].channel().await?;
    let mut health = HealthClient::new(channel.clone());
    let service = String::new();
    let answer = health.check(HealthCheckRequest { service }).await?;
    assert_eq!(answer.into_inner().status().as_str_name(), "SERVING");
    let service = "no.such.Service".to_owned();
    let status = health.check(HealthCheckRequest { service }).await.err();
    assert_eq!(status.context("an unknown service")?.code(), Code::NotFound);

    let mut reflection = ServerReflectionClient::new(channel);
    let ask = |what| ServerReflectionRequest {
        host: String::new(),
        message_request: Some(what),
    };
    let requests = tokio_stream::iter([
        ask(MessageRequest::ListServices(String::new())),
        ask(MessageRequest::FileContainingSymbol(
            "etcdserverpb.KV".to_owned(),
        )),
    ]);
    let mut answers = reflection
        .server_reflection_info(requests)
        .await?
        .into_inner();
    let listed = answers.message().await?.context("the services")?;
    let Some(MessageResponse::ListServicesResponse(listed)) = listed.message_response else {
        anyhow::bail!("not a list of services: {listed:?}");
    };
    let names: Vec<&str> = listed.service.iter().map(|one| one.name.as_str()).collect();
    for name in [
        "etcdserverpb.KV",
        "etcdserverpb.Watch",
        "etcdserverpb.Maintenance",
        "grpc.health.v1.Health",
    ] {
        ensure!(names.contains(&name), "{name} is not in {names:?}");
    }
    let file = answers.message().await?.context("a file")?;
    let Some(MessageResponse::FileDescriptorResponse(file)) = file.message_response else {
        anyhow::bail!("not a file: {file:?}");
    };
    let file = file.file_descriptor_proto.first().context("its bytes")?;
    let file = prost_types::FileDescriptorProto::decode(file.as_slice())?;
    ensure!(
        file.service.iter().any(|one| one.name() == "KV"),
        "{file:?}"
    );
    Ok(())
}

#[tokio::test]
async fn alarms_are_obeyed_and_told_as_etcd_does() -> Result<()> {
    let cluster = Cluster::start(1, &[]).await?;
    let member = &cluster.members[0];
    let (mut kv, mut maintenance) = (member.kv().await?, member.maintenance().await?);
    let put = |key: &'static str| PutRequest {
        key: key.into(),
        ..PutRequest::default()
    };
    let change = |action: AlarmAction, alarm: i32, member_id| AlarmRequest {
        action: action as i32,
        alarm,
        member_id,
    };
    kv.put(put("a")).await?;
    let (nospace, corrupt) = (AlarmType::Nospace as i32, AlarmType::Corrupt as i32);
    for (alarm, member_id) in [(nospace, 0), (nospace, 5), (corrupt, 5), (9, 0)] {
        let request = change(AlarmAction::Activate, alarm, member_id);
        maintenance.alarm(request).await?;
        // The request itself is looked at first, then the graver alarm.
        let status = kv.put(put("")).await.err().context("no key")?;
        assert_eq!(status.message(), "etcdserver: key is not provided");
        let status = kv.put(put("b")).await.err().context("an alarm")?;
        let text = if alarm == nospace {
            "etcdserver: mvcc: database space exceeded"
        } else {
            "etcdserver: corrupt cluster"
        };
        assert_eq!(status.message(), text);
    }
    let mut errors = member.status().await?.errors;
    errors.sort();
    let expected = [
        "alarm:9",
        "alarm:NOSPACE",
        "memberID:5 alarm:CORRUPT",
        "memberID:5 alarm:NOSPACE",
    ];
    assert_eq!(errors, expected);
    for (alarm, member_id) in [(corrupt, 5), (nospace, 5), (nospace, 0)] {
        let request = change(AlarmAction::Deactivate, alarm, member_id);
        maintenance.alarm(request).await?;
    }
    kv.put(put("b")).await?;
    Ok(())
}

/// Runs `kvctl` and wants success.
fn ctl(endpoints: &str, arguments: &[&str], input: &str) -> Result<String> {
    let mut all = vec!["--endpoints", endpoints];
    all.extend(arguments);
    let output = kvctl(&all, input)?;
    ensure!(output.status.success(), "{arguments:?}: {output:?}");
    Ok(String::from_utf8(output.stdout)?)
}

#[tokio::test(flavor = "multi_thread")]
async fn kvctl_passes_over_a_member_that_is_down() -> Result<()> {
    let mut cluster = Cluster::start(3, &[]).await?;
    let addresses: Vec<String> = cluster.members.iter().map(|m| m.client_address()).collect();
    let all = addresses.join(",");
    let down = cluster.leader().await?;
    cluster.members[down].kill()?;
    // The one that is down comes first.
    let mut order = addresses.clone();
    order.rotate_left(down);
    let order = order.join(",");

    // A put whose fate is unknown is not repeated: what is put here waits for the new leader.
    cluster.members[(down + 1) % 3]
        .wait_leader(std::time::Duration::from_secs(10))
        .await?;
    assert_eq!(ctl(&order, &["put", "foo", "bar"], "")?, "OK\n");
    assert_eq!(ctl(&order, &["get", "foo"], "")?, "foo\nbar\n");
    let script = "value(\"foo\") = \"bar\"\n\nput foo baz\nget foo\n\nget foo\n\n";
    let said = ctl(&order, &["txn"], script)?;
    assert_eq!(said, "SUCCESS\n\nOK\n\nfoo\nbaz\n");
    let said = ctl(&order, &["compaction", "3", "--physical"], "")?;
    assert_eq!(said, "compacted revision 3\n");
    assert_eq!(ctl(&order, &["alarm", "list"], "")?, "");
    assert_eq!(ctl(&order, &["alarm", "disarm"], "")?, "");
    assert_eq!(ctl(&order, &["del", "foo"], "")?, "1\n");
    assert_eq!(ctl(&order, &["member", "list"], "")?.lines().count(), 3);

    // Commands that ask each endpoint tell of those that answer, and fail for the other.
    for command in ["status", "health", "hashkv"] {
        let arguments = [
            "--endpoints",
            &all,
            "--command-timeout=2s",
            "endpoint",
            command,
        ];
        let output = kvctl(&arguments, "")?;
        assert_eq!(output.status.code(), Some(1), "{command}: {output:?}");
        let said = String::from_utf8(output.stdout)? + &String::from_utf8(output.stderr)?;
        for address in &addresses {
            ensure!(said.contains(address.as_str()), "{command}: {said}");
        }
    }
    cluster.restart(down).await?;
    for command in ["status", "health", "hashkv"] {
        let said = ctl(
            &order,
            &["endpoint", command, "--cluster", "-w", "json"],
            "",
        )?;
        let said: serde_json::Value = serde_json::from_str(&said)?;
        assert_eq!(said.as_array().map(Vec::len), Some(3), "{command}: {said}");
    }
    Ok(())
}

#[test]
fn kvctl_says_what_to_do_when_nothing_listens() -> Result<()> {
    let port = kvd_tests::ports::Port::reserve()?;
    let address = format!("127.0.0.1:{}", port.number());
    let arguments = [
        "--endpoints",
        &address,
        "--command-timeout=1s",
        "get",
        "foo",
    ];
    let output = kvctl(&arguments, "")?;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said = String::from_utf8(output.stderr)?;
    for text in [
        &address,
        "Connection refused",
        "Is a server running there?",
        "--endpoints",
    ] {
        ensure!(said.contains(text), "{text:?} is not in {said:?}");
    }
    Ok(())
}
