//! TLS in front of the HTTP server: hands over connections whose handshake is done. A client that is slow or silent costs
//! nobody but itself. The certificate is read anew when its file has changed: whoever renews it need not restart the operator.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use anyhow::Context;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// How many handshakes may be going on.
const HANDSHAKES: usize = 64;
/// How long one may take.
const PATIENCE: Duration = Duration::from_secs(5);

type Connection = (TlsStream<TcpStream>, SocketAddr);

/// A listener for axum.
pub struct Listener {
    ready: mpsc::Receiver<Connection>,
    address: SocketAddr,
}

impl Listener {
    /// Serve with `tls.crt` and `tls.key` of `folder`, as a Secret of type `kubernetes.io/tls` holds them.
    ///
    /// # Errors
    /// They cannot be read, or do not belong together.
    pub fn new(listener: TcpListener, folder: &Path) -> anyhow::Result<Self> {
        let provider = Arc::new(ring::default_provider());
        let certificate = Certificate::open(folder.to_path_buf(), provider.clone())?;
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(certificate));
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let address = listener.local_addr()?;
        let (sender, ready) = mpsc::channel(1);
        tokio::spawn(accept(listener, TlsAcceptor::from(Arc::new(config)), sender));
        Ok(Self { ready, address })
    }
}

impl axum::serve::Listener for Listener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> Connection {
        match self.ready.recv().await {
            Some(connection) => connection,
            // The task that accepts never ends before this does.
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.address)
    }
}

async fn accept(listener: TcpListener, acceptor: TlsAcceptor, ready: mpsc::Sender<Connection>) {
    let places = Arc::new(Semaphore::new(HANDSHAKES));
    while let Ok(place) = places.clone().acquire_owned().await {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "accept");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let (acceptor, ready) = (acceptor.clone(), ready.clone());
        tokio::spawn(async move {
            let handshake = timeout(PATIENCE, acceptor.accept(stream)).await;
            drop(place);
            match handshake {
                Ok(Ok(stream)) => drop(ready.send((stream, peer)).await),
                Ok(Err(error)) => tracing::debug!(%peer, %error, "TLS handshake"),
                Err(_) => tracing::debug!(%peer, "no TLS handshake in time"),
            }
        });
    }
}

/// The certificate in a folder that may change.
#[derive(Debug)]
struct Certificate {
    folder: PathBuf,
    provider: Arc<CryptoProvider>,
    current: RwLock<(Option<SystemTime>, Arc<CertifiedKey>)>,
}

impl Certificate {
    fn open(folder: PathBuf, provider: Arc<CryptoProvider>) -> anyhow::Result<Self> {
        let current = RwLock::new((changed(&folder), Arc::new(read(&folder, &provider)?)));
        Ok(Self { folder, provider, current })
    }
}

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let now = changed(&self.folder);
        let (known, key) = self.current.read().unwrap_or_else(PoisonError::into_inner).clone();
        if known == now {
            return Some(key);
        }
        // What is half written is tried again at the next handshake; until then the old one serves.
        match read(&self.folder, &self.provider) {
            Ok(fresh) => {
                let fresh = Arc::new(fresh);
                *self.current.write().unwrap_or_else(PoisonError::into_inner) = (now, fresh.clone());
                tracing::info!("the TLS certificate was renewed");
                Some(fresh)
            }
            Err(error) => {
                tracing::warn!(error = format!("{error:#}"), "the new TLS certificate cannot be used");
                Some(key)
            }
        }
    }
}

/// When the certificate was written; the kubelet's links lead to a new file each time.
fn changed(folder: &Path) -> Option<SystemTime> {
    folder.join("tls.crt").metadata().and_then(|file| file.modified()).ok()
}

fn read(folder: &Path, provider: &CryptoProvider) -> anyhow::Result<CertifiedKey> {
    let (certificate, key) = (folder.join("tls.crt"), folder.join("tls.key"));
    let chain = CertificateDer::pem_file_iter(&certificate).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let chain = chain.map_err(anyhow::Error::msg).with_context(|| certificate.display().to_string())?;
    let secret = PrivateKeyDer::from_pem_file(&key).map_err(anyhow::Error::msg).with_context(|| key.display().to_string())?;
    CertifiedKey::from_der(chain, secret, provider).with_context(|| folder.display().to_string())
}
