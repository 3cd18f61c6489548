//! Endpoints from DNS: the SRV records `_etcd-client-ssl._tcp` and `_etcd-client._tcp` of a domain.
//!
//! Source: etcd `client/pkg/srv/srv.go`, `etcdctl/ctlv3/command/global.go`.

use hickory_resolver::TokioResolver;
use hickory_resolver::config::LookupIpStrategy;
use hickory_resolver::proto::rr::RData;
use hickory_resolver::proto::rr::rdata::SRV;

use crate::failure::{Failure, Outcome};
use crate::go_text::quote::quote;
use crate::print::Streams;

/// What `--discovery-srv` and its companions say.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Discovery<'g> {
    pub(crate) domain: &'g str,
    /// Distinguishes clusters of one domain; may be empty.
    pub(crate) name: &'g str,
    /// Whether endpoints without TLS are taken as well.
    pub(crate) is_insecure: bool,
}

/// The endpoints that the domain names, those with TLS first.
pub(crate) async fn endpoints(
    of: Discovery<'_>,
    to: &mut Streams<'_>,
) -> Result<Vec<String>, Failure> {
    let cannot = |err: &dyn std::fmt::Display| {
        Failure::error(format!(
            "dns lookup errors: the system's resolver is not usable: {err}"
        ))
    };
    let mut builder = TokioResolver::builder_tokio().map_err(|err| cannot(&err))?;
    builder.options_mut().ip_strategy = LookupIpStrategy::Ipv4thenIpv6;
    let resolver = builder.build().map_err(|err| cannot(&err))?;
    let suffix = match of.name {
        "" => String::new(),
        name => format!("-{name}"),
    };
    let mut found = Vec::new();
    let mut errors = Vec::new();
    for (service, scheme) in [("etcd-client-ssl", "https"), ("etcd-client", "http")] {
        let name = format!(
            "_{service}{suffix}._tcp.{}.",
            of.domain.trim_end_matches('.')
        );
        match resolver.srv_lookup(name.clone()).await {
            Err(err) => {
                let name = name.trim_end_matches('.');
                errors.push(if err.is_no_records_found() {
                    format!("lookup {name}: no such host")
                } else {
                    format!("lookup {name}: {err}")
                });
            }
            Ok(records) => {
                let records = records.answers().iter();
                let mut records: Vec<&SRV> = records
                    .filter_map(|record| match &record.data {
                        RData::SRV(record) => Some(record),
                        // Another name on the way there.
                        _ => None,
                    })
                    .collect();
                records.sort_by_key(|record| (record.priority, std::cmp::Reverse(record.weight)));
                for record in records {
                    let target = record.target.to_utf8();
                    let target = target.trim_end_matches('.');
                    found.push(format!("{scheme}://{target}:{}", record.port));
                }
            }
        }
    }
    if errors.len() == 2 {
        let errors = errors.join(" and ");
        return Err(Failure::error(format!("dns lookup errors: {errors}")));
    }
    if !of.is_insecure {
        drop_insecure(&mut found, to)?;
    }
    Ok(found)
}

fn drop_insecure(found: &mut Vec<String>, to: &mut Streams<'_>) -> Outcome {
    let (insecure, secure) = std::mem::take(found)
        .into_iter()
        .partition::<Vec<_>, _>(|endpoint| endpoint.starts_with("http://"));
    for endpoint in insecure {
        let endpoint = quote(endpoint.as_bytes());
        writeln!(to.err, "ignoring discovered insecure endpoint {endpoint}")?;
    }
    *found = secure;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_without_tls_are_left_out_and_told() {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let mut to = Streams {
            out: &mut out,
            err: &mut err,
        };
        let mut found = vec!["https://a:1".to_owned(), "http://b:2".to_owned()];
        drop_insecure(&mut found, &mut to).expect("written");
        assert_eq!(found, ["https://a:1"]);
        assert_eq!(
            String::from_utf8(err).expect("text"),
            "ignoring discovered insecure endpoint \"http://b:2\"\n"
        );
    }
}
