//! One attempt of a probe or hook.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::container::Handle;
use crate::manifest::{Handler, PortName};

/// Asks once.
///
/// Errors: any answer that is no success, or none in time.
pub async fn ask(
    handler: &Handler,
    ip: Ipv4Addr,
    port: impl Fn(&PortName) -> Option<u16>,
    container: &Handle,
    timeout: Duration,
) -> Result<()> {
    let port = |name| port(name).context("the container has no such port");
    let asking = async {
        if let Some(get) = &handler.http_get {
            http_get(ip, port(&get.port)?, &get.path).await
        } else if let Some(tcp) = &handler.tcp_socket {
            TcpStream::connect((ip, port(&tcp.port)?)).await?;
            Ok(())
        } else if let Some(exec) = &handler.exec {
            let output = container.exec(&exec.command).output().await?;
            ensure!(output.status.success(), "{:?}: {output:?}", exec.command);
            Ok(())
        } else if let Some(sleep) = &handler.sleep {
            tokio::time::sleep(Duration::from_secs(sleep.seconds)).await;
            Ok(())
        } else {
            bail!("a probe or hook of a kind that is not run here")
        }
    };
    tokio::time::timeout(timeout, asking)
        .await
        .context("no answer in time")?
}

/// As kubelet asks: any status from 200 to 399 is good.
async fn http_get(ip: Ipv4Addr, port: u16, path: &str) -> Result<()> {
    let mut stream = TcpStream::connect((ip, port)).await?;
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {ip}:{port}\r\nUser-Agent: kube-probe/1.32\r\n\
         Accept: */*\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(64 * 1024).read_to_end(&mut answer).await?;
    let answer = String::from_utf8_lossy(&answer);
    let status: u16 = answer
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok())
        .with_context(|| format!("no HTTP: {answer}"))?;
    ensure!((200..400).contains(&status), "{answer}");
    Ok(())
}
