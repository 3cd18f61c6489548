//! URLs as etcd reads them (`client/pkg/types/urls.go`): the text is kept as it was given.
//!
//! A URL library would normalise (`http://x:80` loses its port, a slash appears), but the member
//! ID is a hash of the very text, and logs and comparisons show it.

use std::collections::BTreeMap;
use std::fmt;

use thiserror::Error;

/// How a URL is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scheme {
    /// TCP without TLS.
    Http,
    /// TCP with TLS.
    Https,
    /// A unix socket without TLS.
    Unix,
    /// A unix socket with TLS.
    Unixs,
}

impl Scheme {
    /// Whether the URL names a unix socket.
    pub fn is_unix(self) -> bool {
        matches!(self, Scheme::Unix | Scheme::Unixs)
    }

    /// Whether the URL wants TLS.
    pub fn is_tls(self) -> bool {
        matches!(self, Scheme::Https | Scheme::Unixs)
    }
}

/// Why a text is not a URL that a member can listen on or advertise.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Error {
    /// The scheme is unknown or missing.
    #[error("URL scheme must be http, https, unix, or unixs: {0}")]
    Scheme(String),
    /// An address without a scheme.
    #[error("parse {0:?}: first path segment in URL cannot contain colon")]
    NoScheme(String),
    /// The host lacks a port.
    #[error("URL address does not have the form \"host:port\": {0}")]
    HostPort(String),
    /// The port is not a number.
    #[error("parse {url:?}: invalid port {port:?} after host")]
    Port {
        /// The whole URL.
        url: String,
        /// The port with its colon.
        port: String,
    },
    /// There is something behind the port.
    #[error("URL must not contain a path: {0}")]
    Path(String),
    /// A member without a URL.
    #[error("no valid URLs given")]
    Missing,
    /// A character that no URL holds.
    #[error("parse {0:?}: invalid character in URL")]
    Character(String),
}

/// One URL of a listener or a member.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Url {
    text: String,
    scheme: Scheme,
    /// `host:port`, or the part of a unix URL before the first slash.
    authority: String,
    path: String,
}

impl Url {
    /// Reads one URL; white space around it is dropped.
    pub fn parse(text: &str) -> Result<Url, Error> {
        let text = text.trim();
        if text.chars().any(|c| c.is_control() || c == ' ') {
            return Err(Error::Character(text.to_owned()));
        }
        let Some((scheme, rest)) = text.split_once(':') else {
            return Err(Error::Scheme(text.to_owned()));
        };
        let lower = scheme.to_ascii_lowercase();
        let kind = match lower.as_str() {
            "http" => Scheme::Http,
            "https" => Scheme::Https,
            "unix" => Scheme::Unix,
            "unixs" => Scheme::Unixs,
            _ if scheme.starts_with(|c: char| c.is_ascii_alphabetic()) => {
                return Err(Error::Scheme(text.to_owned()));
            }
            _ => return Err(Error::NoScheme(text.to_owned())),
        };
        let (authority, path) = match rest.strip_prefix("//") {
            Some(rest) => rest.split_at(rest.find('/').unwrap_or(rest.len())),
            None => ("", rest),
        };
        let url = Url {
            text: format!("{lower}:{rest}"),
            scheme: kind,
            authority: authority.to_owned(),
            path: path.to_owned(),
        };
        if !kind.is_unix() {
            url.check_tcp()?;
        }
        Ok(url)
    }

    fn check_tcp(&self) -> Result<(), Error> {
        let Some((_, port)) = self.host_and_port() else {
            return Err(Error::HostPort(self.text.clone()));
        };
        if !port.bytes().all(|b| b.is_ascii_digit()) {
            let port = format!(":{port}");
            return Err(Error::Port {
                url: self.text.clone(),
                port,
            });
        }
        if !self.path.is_empty() {
            return Err(Error::Path(self.text.clone()));
        }
        Ok(())
    }

    /// The scheme.
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// Whether both are the same address or socket, with TLS or without.
    pub fn is_same_place(&self, other: &Url) -> bool {
        let sockets = (self.scheme.is_unix(), other.scheme.is_unix());
        match sockets {
            (true, true) => self.socket_path() == other.socket_path(),
            (false, false) => self.authority == other.authority,
            _ => false,
        }
    }

    /// The text as it was given, with the scheme in small letters.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// `host:port` of a TCP URL.
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// The host without brackets and the port; `None` where one is missing or for unix URLs.
    pub fn host_and_port(&self) -> Option<(&str, &str)> {
        if self.scheme.is_unix() {
            return None;
        }
        let (host, port) = self.authority.rsplit_once(':')?;
        if let Some(inner) = host.strip_prefix('[') {
            return Some((inner.strip_suffix(']')?, port));
        }
        (!host.contains(':') && !host.contains('@')).then_some((host, port))
    }

    /// The file of a unix socket: etcd joins host and path, so `unix://localhost:m1` is the file
    /// `localhost:m1` in the working directory.
    pub fn socket_path(&self) -> String {
        format!("{}{}", self.authority, self.path)
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Reads URLs split by commas: sorted, each once, as etcd keeps them. Empty text is no URL.
pub fn parse_list(text: &str) -> Result<Vec<Url>, Error> {
    if text.is_empty() {
        return Ok(Vec::new());
    }
    let mut urls = text
        .split(',')
        .map(Url::parse)
        .collect::<Result<Vec<_>, _>>()?;
    urls.sort();
    urls.dedup();
    Ok(urls)
}

/// Checks the URLs of a member and returns their texts, sorted, as etcd keeps them.
///
/// Errors: [`Error::Missing`] when there is none, and those of [`Url::parse`].
pub fn canonical(texts: &[String]) -> Result<Vec<String>, Error> {
    if texts.is_empty() {
        return Err(Error::Missing);
    }
    let urls: Result<Vec<Url>, Error> = texts.iter().map(|text| Url::parse(text)).collect();
    let mut texts: Vec<String> = urls?.iter().map(Url::to_string).collect();
    texts.sort();
    Ok(texts)
}

/// The texts of `urls` joined by commas.
pub fn join(urls: &[Url]) -> String {
    urls.iter().map(Url::as_str).collect::<Vec<_>>().join(",")
}

/// The initial members: name to peer URLs.
pub type Members = BTreeMap<String, Vec<Url>>;

/// Reads `a=http://x:1,a=http://y:1,b=http://z:1` (`client/pkg/types/urlsmap.go`).
pub fn parse_members(text: &str) -> Result<Members, Error> {
    let mut members = Members::new();
    for pair in text.split(',').filter(|pair| !pair.is_empty()) {
        let (name, url) = pair.split_once('=').unwrap_or((pair, ""));
        members
            .entry(name.to_owned())
            .or_default()
            .push(Url::parse(url)?);
    }
    for urls in members.values_mut() {
        urls.sort();
    }
    Ok(members)
}

/// `members` as `name=URL` pairs, sorted.
pub fn join_members(members: &Members) -> String {
    let mut pairs: Vec<String> = members
        .iter()
        .flat_map(|(name, urls)| urls.iter().map(move |url| format!("{name}={url}")))
        .collect();
    pairs.sort();
    pairs.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_text_and_splits_it() {
        let url = Url::parse(" HTTP://Etcd-0.etcd:80 ").expect("parse");
        assert_eq!(url.as_str(), "http://Etcd-0.etcd:80");
        assert_eq!(url.host_and_port(), Some(("Etcd-0.etcd", "80")));
        let six = Url::parse("http://[::1]:2379").expect("parse");
        assert_eq!(six.host_and_port(), Some(("::1", "2379")));
    }

    #[test]
    fn names_files_of_unix_sockets() {
        for (text, path) in [
            ("unix:///run/kvd.sock", "/run/kvd.sock"),
            ("unix:/run/kvd.sock", "/run/kvd.sock"),
            ("unix://localhost:m1", "localhost:m1"),
        ] {
            assert_eq!(Url::parse(text).expect("parse").socket_path(), path);
        }
    }

    #[test]
    fn complains_in_etcds_words() {
        for (text, complaint) in [
            (
                "localhost:2380",
                "URL scheme must be http, https, unix, or unixs: localhost:2380",
            ),
            (
                "127.0.0.1:2380",
                "parse \"127.0.0.1:2380\": first path segment in URL cannot contain colon",
            ),
            (
                "http://a:b",
                "parse \"http://a:b\": invalid port \":b\" after host",
            ),
            (
                "http://a",
                "URL address does not have the form \"host:port\": http://a",
            ),
            ("http://a:1/x", "URL must not contain a path: http://a:1/x"),
            ("http://a:1/", "URL must not contain a path: http://a:1/"),
            ("", "URL scheme must be http, https, unix, or unixs: "),
        ] {
            assert_eq!(Url::parse(text).expect_err(text).to_string(), complaint);
        }
        for text in ["http://[::1:1", "http://u@h:1", "http://::1:1"] {
            assert!(
                matches!(Url::parse(text), Err(Error::HostPort(_))),
                "{text}"
            );
        }
    }

    #[test]
    fn lists_are_sorted_and_each_once() {
        let urls = parse_list("http://b:1,http://a:1,http://b:1").expect("parse");
        assert_eq!(join(&urls), "http://a:1,http://b:1");
        assert_eq!(parse_list(""), Ok(Vec::new()));
    }

    #[test]
    fn members_may_have_several_urls() {
        let members = parse_members("b=http://z:1,a=http://y:1,a=http://x:1,").expect("parse");
        assert_eq!(
            join_members(&members),
            "a=http://x:1,a=http://y:1,b=http://z:1"
        );
        assert!(parse_members("a").is_err());
    }
}
