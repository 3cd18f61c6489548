//! Calls whose message comes later than their head.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kvd_api::pb::etcdserverpb::{
    AuthStatusRequest, AuthUserChangePasswordRequest, AuthUserGrantRoleRequest,
};
use kvd_tests::member::Member;
use kvd_tests::{http, wait};

use super::session::one_member;

const PATIENCE: Duration = Duration::from_secs(30);

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// A frame of HTTP/2.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("short");
    let mut frame = length.to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// A header as HPACK has it without table and Huffman code.
fn header(block: &mut Vec<u8>, name: &str, value: &str) {
    block.push(0);
    for text in [name, value] {
        block.push(u8::try_from(text.len()).expect("short"));
        block.extend(text.as_bytes());
    }
}

/// A call without its message.
fn begin(member: &Member, path: &str, token: &str) -> Result<TcpStream> {
    let mut stream = TcpStream::connect(member.client_address())?;
    stream.set_read_timeout(Some(PATIENCE))?;
    // POST, and http.
    let mut block = vec![0x83, 0x86];
    header(&mut block, ":path", path);
    header(&mut block, ":authority", "member");
    header(&mut block, "content-type", "application/grpc");
    header(&mut block, "te", "trailers");
    header(&mut block, "token", token);
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")?;
    stream.write_all(&frame(SETTINGS, 0, 0, &[]))?;
    stream.write_all(&frame(HEADERS, END_HEADERS, 1, &block))?;
    Ok(stream)
}

/// Sends an empty message, and waits for the end of the answer.
fn finish(mut stream: TcpStream) -> Result<()> {
    stream.write_all(&frame(DATA, END_STREAM, 1, &[0; 5]))?;
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head)?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; length as usize];
        stream.read_exact(&mut payload)?;
        if head[3] == HEADERS && head[4] & END_STREAM != 0 {
            return Ok(());
        }
    }
}

/// Whether a metric of `member` that begins with `name` and has all `labels` says 1.
fn is_one(member: &Member, name: &str, labels: &[&str]) -> Result<bool> {
    let text = http::get(&member.client_address(), "/metrics")?.body;
    Ok(text.lines().any(|line| {
        line.starts_with(name)
            && line.ends_with(" 1")
            && labels.iter().all(|label| line.contains(label))
    }))
}

/// Nobody keeps calls ready for the time when the password is another one.
#[tokio::test(flavor = "multi_thread")]
async fn a_call_whose_message_comes_after_a_new_password_is_refused() -> Result<()> {
    let (cluster, root, alice) = one_member().await?;
    let member = &cluster.members[0];
    let grant = AuthUserGrantRoleRequest {
        user: "alice".into(),
        role: "root".into(),
    };
    root.auth().user_grant_role(root.with(grant)).await?;
    let token = alice.token.context("alice's token")?;
    let disable = begin(member, "/etcdserverpb.Auth/AuthDisable", &token)?;
    let defragment = begin(member, "/etcdserverpb.Maintenance/Defragment", &token)?;
    for method in ["\"AuthDisable\"", "\"Defragment\""] {
        wait::until("it has begun", PATIENCE, || async {
            ensure!(is_one(member, "grpc_server_started_total", &[method])?);
            Ok(())
        })
        .await?;
    }
    let change = AuthUserChangePasswordRequest {
        name: "alice".into(),
        password: "other".into(),
        ..AuthUserChangePasswordRequest::default()
    };
    root.auth().user_change_password(root.with(change)).await?;
    finish(disable)?;
    finish(defragment)?;
    for method in ["\"AuthDisable\"", "\"Defragment\""] {
        let labels = [method, "\"Unauthenticated\""];
        ensure!(is_one(member, "grpc_server_handled_total", &labels)?);
    }
    let ask = root.with(AuthStatusRequest {});
    ensure!(root.auth().auth_status(ask).await?.into_inner().enabled);
    Ok(())
}
