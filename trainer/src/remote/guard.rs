//! The client for all that is fetched. A job cannot reach what only its node should: link-local and metadata addresses, and those of
//! loopback unless the server that it was told is itself there, are refused.

use std::fs;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::Duration;

use ureq::http::Uri;
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{DefaultConnector, NextTimeout};

use super::{CONNECTIONS, RemoteError};

/// A client that respects the proxies of the environment and trusts the certificates of this PEM file instead of the system's; `loopback`
/// lets it reach this very machine.
pub(crate) fn agent(certificates: Option<String>, loopback: bool) -> Result<ureq::Agent, RemoteError> {
    let mut tls = TlsConfig::builder();
    if let Some(path) = certificates.map(PathBuf::from) {
        let pem = fs::read(&path).map_err(|source| RemoteError::Io { path, source })?;
        let own: Vec<Certificate<'static>> = parse_pem(&pem)
            .filter_map(|item| match item {
                Ok(PemItem::Certificate(certificate)) => Some(certificate),
                _ => None,
            })
            .collect();
        tls = tls.root_certs(RootCerts::from(own));
    }
    let config = ureq::Agent::config_builder()
        .tls_config(tls.build())
        .http_status_as_error(false)
        .max_idle_connections_per_host(CONNECTIONS)
        .timeout_connect(Some(Duration::from_secs(30)))
        .timeout_recv_response(Some(Duration::from_secs(60)))
        .timeout_per_read(Some(Duration::from_secs(60)));
    Ok(ureq::Agent::with_parts(config.build(), DefaultConnector::default(), Guarded { inner: DefaultResolver::default(), loopback }))
}

/// Whether a server's address is one of this very machine.
pub(crate) fn on_loopback(hub: &str) -> bool {
    let host = hub.parse::<Uri>().ok().and_then(|uri| uri.host().map(str::to_owned)).unwrap_or_default();
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Finds addresses and refuses those that no weights and no data can be at, whatever name or redirect leads there.
struct Guarded {
    inner: DefaultResolver,
    loopback: bool,
}

impl std::fmt::Debug for Guarded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Guarded").field("loopback", &self.loopback).finish_non_exhaustive()
    }
}

impl Resolver for Guarded {
    fn resolve(&self, uri: &Uri, config: &ureq::config::Config, timeout: NextTimeout) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let found = self.inner.resolve(uri, config, timeout)?;
        if found.iter().any(|address| refused(address.ip(), self.loopback)) {
            let text = "the address is link-local, of a metadata service or of this machine itself, from where nothing is fetched";
            return Err(ureq::Error::Io(std::io::Error::new(ErrorKind::PermissionDenied, text)));
        }
        Ok(found)
    }
}

/// Metadata services at addresses that are not link-local: Alibaba Cloud's, Azure's, and Oracle Cloud's.
const METADATA: [Ipv4Addr; 3] = [Ipv4Addr::new(100, 100, 100, 200), Ipv4Addr::new(168, 63, 129, 16), Ipv4Addr::new(192, 0, 0, 192)];

fn refused(address: IpAddr, loopback: bool) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => {
            let here = v4.octets()[0] == 0 || v4.is_broadcast() || (v4.is_loopback() && !loopback);
            here || v4.is_link_local() || METADATA.contains(&v4)
        }
        IpAddr::V6(v6) => {
            let own = v6.is_unicast_link_local() || v6.is_unspecified() || (v6.is_loopback() && !loopback);
            // fd00:ec2::254 is a metadata service with an address that is otherwise private. A translator to IPv4 (RFC 6052) would
            // lead to all of the above.
            own || v6.segments()[..2] == [0xFD00, 0x0EC2] || v6.segments()[..2] == [0x0064, 0xFF9B]
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn nothing_is_fetched_from_where_only_the_node_may_look() {
        let refused = |text: &str, loopback| refused(text.parse().unwrap(), loopback);
        let metadata = ["169.254.169.254", "fd00:ec2::254", "100.100.100.200", "168.63.129.16", "192.0.0.192", "64:ff9b::a9fe:a9fe"];
        for inside in metadata.into_iter().chain(["fe80::1", "0.0.0.0", "0.1.2.3", "::", "::ffff:169.254.169.254"]) {
            assert!(refused(inside, true), "{inside}");
        }
        for own in ["127.0.0.1", "::1", "::ffff:127.0.0.1"] {
            assert!(refused(own, false) && !refused(own, true), "{own}");
        }
        for fine in ["10.0.0.7", "192.168.1.1", "18.154.227.69", "2600:9000::1", "fd12::1"] {
            assert!(!refused(fine, false), "{fine}");
        }
        assert!(on_loopback("http://127.0.0.1:8080") && on_loopback("http://localhost") && !on_loopback("https://huggingface.co"));
    }
}
