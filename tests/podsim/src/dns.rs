//! The cluster's name server: A and SRV records over UDP and TCP, and what it does when it is ill.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

/// The address that every `resolv.conf` names.
pub const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);

const TYPE_A: u16 = 1;
const TYPE_SRV: u16 = 33;
const CLASS_IN: u16 = 1;
const NAME_ERROR: u8 = 3;
const TTL_SECONDS: u32 = 5;

/// How the server behaves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mood {
    /// It answers.
    #[default]
    Well,
    /// It does not answer at all.
    Down,
    /// It answers that there is no such name, whatever the name.
    KnowsNobody,
}

/// Names, without a final dot and in lower case, with their addresses.
pub type Records = BTreeMap<String, Vec<Ipv4Addr>>;

/// Names of services, as `_service._tcp.domain`, with the hosts and ports that offer them.
pub type Services = BTreeMap<String, Vec<(String, u16)>>;

/// What the server answers from.
#[derive(Debug, Default)]
pub struct Zone {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    records: Records,
    services: Services,
    /// Those of Services' named ports.
    ports: Services,
    mood: Mood,
}

impl Zone {
    /// Replaces all addresses.
    pub fn publish(&self, records: Records) {
        self.lock().records = records;
    }

    /// Replaces the services that Services' named ports are.
    pub fn publish_ports(&self, ports: Services) {
        self.lock().ports = ports;
    }

    /// Replaces all further services.
    pub fn publish_services(&self, services: Services) {
        self.lock().services = services;
    }

    /// Sets how the server behaves from now on.
    pub fn set_mood(&self, mood: Mood) {
        self.lock().mood = mood;
    }

    /// The addresses of a name.
    pub fn addresses(&self, name: &str) -> Vec<Ipv4Addr> {
        self.lock().records.get(name).cloned().unwrap_or_default()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The answer to a query; `None` when there is none.
    fn answer(&self, query: &[u8]) -> Option<Vec<u8>> {
        let inner = self.lock();
        if inner.mood == Mood::Down {
            return None;
        }
        let (name, kind, question) = question(query)?;
        let is_well = inner.mood == Mood::Well;
        let addresses = inner.records.get(&name).filter(|_| is_well);
        let services = inner.services.get(&name).or(inner.ports.get(&name));
        let services = services.filter(|_| is_well);
        let is_known = addresses.is_some() || services.is_some();
        let mut data: Vec<Vec<u8>> = Vec::new();
        match kind {
            TYPE_A => {
                let addresses = addresses.into_iter().flatten();
                data.extend(addresses.map(|address| address.octets().to_vec()));
            }
            TYPE_SRV => {
                let services = services.into_iter().flatten();
                data.extend(services.map(|(host, port)| service(host, *port)));
            }
            _ => {}
        }
        let code = if is_known { 0 } else { NAME_ERROR };
        let mut answer = Vec::with_capacity(512);
        answer.extend(&query[..2]);
        // A response, authoritative, recursion desired as asked and available.
        answer.extend([0x84 | (query[2] & 1), 0x80 | code]);
        answer.extend(1_u16.to_be_bytes());
        answer.extend(u16::try_from(data.len()).ok()?.to_be_bytes());
        answer.extend([0; 4]);
        answer.extend(question);
        for data in data {
            // The name is the question's, twelve bytes from the start.
            answer.extend([0xc0, 12]);
            answer.extend(kind.to_be_bytes());
            answer.extend(CLASS_IN.to_be_bytes());
            answer.extend(TTL_SECONDS.to_be_bytes());
            answer.extend(u16::try_from(data.len()).ok()?.to_be_bytes());
            answer.extend(data);
        }
        Some(answer)
    }
}

/// The data of an SRV record: priority, weight, port, host.
fn service(host: &str, port: u16) -> Vec<u8> {
    let mut data = vec![0, 0, 0, 1];
    data.extend(port.to_be_bytes());
    for label in host.split('.') {
        // Hosts are the tests' own, with labels of at most 63 bytes.
        data.push(label.len() as u8);
        data.extend(label.bytes());
    }
    data.push(0);
    data
}

/// The name, type and bytes of the one question of a query.
fn question(query: &[u8]) -> Option<(String, u16, &[u8])> {
    let mut labels = Vec::new();
    let mut at = 12;
    loop {
        let length = usize::from(*query.get(at)?);
        at += 1;
        if length == 0 {
            break;
        }
        if length > 63 {
            return None;
        }
        let label = query.get(at..at + length)?;
        labels.push(String::from_utf8_lossy(label).to_lowercase());
        at += length;
    }
    let kind = u16::from_be_bytes([*query.get(at)?, *query.get(at + 1)?]);
    Some((labels.join("."), kind, query.get(12..at + 4)?))
}

/// Serves `zone` on port 53 of [`ADDRESS`] until the process ends.
///
/// Errors: when the address is not this machine's.
pub async fn serve(zone: Arc<Zone>) -> Result<()> {
    let address = SocketAddr::from((ADDRESS, 53));
    let udp = UdpSocket::bind(address).await.context("DNS over UDP")?;
    let tcp = TcpListener::bind(address).await.context("DNS over TCP")?;
    let datagrams = Arc::clone(&zone);
    tokio::spawn(async move {
        let mut buffer = [0; 4096];
        while let Ok((length, from)) = udp.recv_from(&mut buffer).await {
            if let Some(answer) = datagrams.answer(&buffer[..length]) {
                // A client that is gone asks again or does not care.
                drop(udp.send_to(&answer, from).await);
            }
        }
    });
    tokio::spawn(async move {
        while let Ok((stream, _)) = tcp.accept().await {
            tokio::spawn(converse(Arc::clone(&zone), stream));
        }
    });
    Ok(())
}

async fn converse(zone: Arc<Zone>, mut stream: TcpStream) -> Result<()> {
    loop {
        let mut query = vec![0; usize::from(stream.read_u16().await?)];
        stream.read_exact(&mut query).await?;
        let Some(answer) = zone.answer(&query) else {
            return Ok(());
        };
        stream.write_u16(u16::try_from(answer.len())?).await?;
        stream.write_all(&answer).await?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(name: &str, kind: u16) -> Vec<u8> {
        let mut query = vec![7, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        for label in name.split('.') {
            query.push(u8::try_from(label.len()).expect("short"));
            query.extend(label.bytes());
        }
        query.push(0);
        query.extend(kind.to_be_bytes());
        query.extend(CLASS_IN.to_be_bytes());
        query
    }

    #[test]
    fn names_have_addresses_and_moods_change_the_answer() {
        let zone = Zone::default();
        let one = Ipv4Addr::new(10, 244, 0, 9);
        zone.publish(Records::from([("etcd-0.etcd".to_owned(), vec![one])]));
        let answer = zone.answer(&query("ETCD-0.etcd", TYPE_A)).expect("one");
        assert_eq!(answer[3] & 15, 0);
        assert!(answer.ends_with(&one.octets()));
        let other_type = zone.answer(&query("etcd-0.etcd", 28)).expect("empty");
        assert_eq!((other_type[3] & 15, other_type[7]), (0, 0));
        let nobody = zone.answer(&query("etcd-1.etcd", TYPE_A)).expect("no");
        assert_eq!(nobody[3] & 15, NAME_ERROR);
        zone.set_mood(Mood::KnowsNobody);
        let answer = zone.answer(&query("etcd-0.etcd", TYPE_A)).expect("no");
        assert_eq!(answer[3] & 15, NAME_ERROR);
        zone.set_mood(Mood::Down);
        assert!(zone.answer(&query("etcd-0.etcd", TYPE_A)).is_none());
    }

    #[test]
    fn services_have_hosts_and_ports() {
        let zone = Zone::default();
        let offered = vec![("a.x".to_owned(), 2380)];
        zone.publish_services(Services::from([(
            "_etcd-server._tcp.x".to_owned(),
            offered,
        )]));
        let asked = query("_etcd-server._tcp.x", TYPE_SRV);
        let answer = zone.answer(&asked).expect("one");
        assert_eq!((answer[3] & 15, answer[7]), (0, 1));
        assert!(answer.ends_with(b"\x09\x4c\x01a\x01x\0"), "{answer:?}");
        let address = zone
            .answer(&query("_etcd-server._tcp.x", TYPE_A))
            .expect("empty");
        assert_eq!((address[3] & 15, address[7]), (0, 0));
    }

    #[test]
    fn a_query_that_is_cut_short_has_no_answer() {
        let whole = query("etcd-0.etcd", TYPE_A);
        for length in 0..whole.len() {
            assert!(question(&whole[..length]).is_none(), "{length}");
        }
    }
}
