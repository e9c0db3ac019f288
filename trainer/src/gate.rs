//! The way to the gang's store from other pods. The store listens on loopback only; index 0's agent stands in front of it
//! and lets in who proves to know the token of the attempt, and the other agents lead their ranks to it. A stranger costs
//! index 0 one connection for a few seconds at most, and of those there are few at a time.
//!
//! Both sides send 32 random bytes; the newcomer answers with HMAC-SHA256 over its role and both (RFC 2104), then index 0
//! does, so that neither side can be replayed, reflected or impersonated. After that, bytes pass unchanged: this is
//! authentication, not encryption.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use graft_crds::contract::ExitReason;
use graft_crds::names::GANG_TOKEN;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::doorstep::{Doorstep, accept};
use crate::event::Failure;

/// A newcomer that has not proved itself by then is sent away.
const PROOF: Duration = Duration::from_secs(5);
/// Newcomers of one address at a time, and of all; more are sent away at once and may come again. Ranks of a pod share an
/// address; a stranger has one or a few.
const NEWCOMERS_OF_ADDRESS: usize = 32;
const NEWCOMERS: usize = 512;
/// The other pods may come long before index 0 does.
const MEETING: Duration = Duration::from_secs(300);
const AGAIN: Duration = Duration::from_millis(200);

const NEWCOMER: &[u8] = b"graft gang 1, newcomer";
const KEEPER: &[u8] = b"graft gang 1, keeper";

type Nonce = [u8; 32];

/// What the members of an attempt know and nobody else.
#[derive(Clone)]
pub(crate) struct Token(Arc<[u8]>);

impl Token {
    /// The token of this pod.
    ///
    /// # Errors
    /// There is none.
    pub(crate) fn of_pod() -> Result<Self, Failure> {
        let text = std::env::var(GANG_TOKEN).unwrap_or_default();
        if text.len() < 16 {
            let text =
                format!("{GANG_TOKEN} is not set, so that the pods of the gang cannot know each other; use an operator of the trainer's release");
            return Err(Failure::new(ExitReason::UserError, "GangTokenMissing", text));
        }
        Ok(Self::new(text.as_bytes()))
    }

    fn new(bytes: &[u8]) -> Self {
        Self(bytes.into())
    }

    fn proof(&self, role: &[u8], newcomer: &Nonce, keeper: &Nonce) -> std::io::Result<Hmac<Sha256>> {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).map_err(std::io::Error::other)?;
        mac.update(role);
        mac.update(newcomer);
        mac.update(keeper);
        Ok(mac)
    }
}

fn nonce() -> std::io::Result<Nonce> {
    let mut bytes = Nonce::default();
    getrandom::fill(&mut bytes).map_err(std::io::Error::other)?;
    Ok(bytes)
}

fn refused() -> std::io::Error {
    std::io::Error::new(std::io::ErrorKind::PermissionDenied, "the other side does not know the gang's token")
}

/// Index 0's side of the proof.
async fn admit(stream: &mut TcpStream, token: &Token) -> std::io::Result<()> {
    let mine = nonce()?;
    stream.write_all(&mine).await?;
    let (mut theirs, mut proof) = (Nonce::default(), [0; 32]);
    stream.read_exact(&mut theirs).await?;
    stream.read_exact(&mut proof).await?;
    // Compared in constant time.
    token.proof(NEWCOMER, &theirs, &mine)?.verify_slice(&proof).map_err(|_| refused())?;
    stream.write_all(&token.proof(KEEPER, &theirs, &mine)?.finalize().into_bytes()).await
}

/// The other side of the proof.
async fn introduce(stream: &mut TcpStream, token: &Token) -> std::io::Result<()> {
    let mine = nonce()?;
    let (mut theirs, mut proof) = (Nonce::default(), [0; 32]);
    stream.read_exact(&mut theirs).await?;
    stream.write_all(&mine).await?;
    stream.write_all(&token.proof(NEWCOMER, &mine, &theirs)?.finalize().into_bytes()).await?;
    stream.read_exact(&mut proof).await?;
    token.proof(KEEPER, &mine, &theirs)?.verify_slice(&proof).map_err(|_| refused())
}

/// Lets members through to the store at a port of loopback; ends with the runtime.
pub(crate) async fn guard(listener: std::net::TcpListener, store: u16, token: Token) {
    let Ok(listener) = from_std(listener) else { return };
    let doorstep = Doorstep::new(NEWCOMERS_OF_ADDRESS, NEWCOMERS);
    loop {
        let (mut stream, from) = accept(&listener).await;
        let Some(place) = doorstep.place(from.ip()) else { continue };
        let token = token.clone();
        tokio::spawn(async move {
            let admitted = timeout(PROOF, admit(&mut stream, &token)).await;
            drop(place);
            if let Ok(Ok(())) = admitted
                && let Ok(inner) = TcpStream::connect((Ipv4Addr::LOCALHOST, store)).await
            {
                pass(stream, inner).await;
            }
        });
    }
}

/// Leads those who connect to `listener`, this pod's ranks, to the store behind `host`:`port`; `tell` hears of what fails.
pub(crate) async fn lead<F>(listener: std::net::TcpListener, host: String, port: u16, token: Token, tell: F)
where
    F: Fn(String) + Clone + Send + 'static,
{
    let Ok(listener) = from_std(listener) else { return };
    while let Ok((rank, _)) = listener.accept().await {
        let (host, token, tell) = (host.clone(), token.clone(), tell.clone());
        tokio::spawn(async move {
            match reach(&host, port, &token).await {
                Ok(outer) => pass(rank, outer).await,
                // The rank finds its connection closed and reports a lost gang; here is why.
                Err(error) => tell(format!("the gang's store at {host}:{port}: {error}")),
            }
        });
    }
}

/// Tries until index 0 is there and lets us in.
async fn reach(host: &str, port: u16, token: &Token) -> std::io::Result<TcpStream> {
    let until = Instant::now() + MEETING;
    loop {
        let attempt = async {
            let mut stream = TcpStream::connect((host, port)).await?;
            introduce(&mut stream, token).await?;
            Ok(stream)
        };
        match timeout_at(until.min(Instant::now() + PROOF), attempt).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) if Instant::now() >= until => return Err(error),
            Err(_) if Instant::now() >= until => return Err(std::io::ErrorKind::TimedOut.into()),
            Ok(Err(_)) | Err(_) => sleep(AGAIN).await,
        }
    }
}

async fn pass(mut a: TcpStream, mut b: TcpStream) {
    let _ = (a.set_nodelay(true), b.set_nodelay(true));
    // Whichever side ends, the other hears of it when both streams are dropped.
    let _ = copy_bidirectional(&mut a, &mut b).await;
}

fn from_std(listener: std::net::TcpListener) -> std::io::Result<TcpListener> {
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}

/// A listening socket at a free port of loopback, and the port.
pub(crate) fn loopback() -> std::io::Result<(std::net::TcpListener, u16)> {
    let listener = std::net::TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
    let port = listener.local_addr()?.port();
    Ok((listener, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: &[u8] = b"6b3f2c1e-token-of-the-attempt";

    /// An echo behind a guard; gives the guard's port.
    async fn guarded_echo() -> u16 {
        let (inner, store) = loopback().unwrap();
        let inner = from_std(inner).unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = inner.accept().await {
                tokio::spawn(async move {
                    let (mut read, mut write) = stream.split();
                    let _ = tokio::io::copy(&mut read, &mut write).await;
                });
            }
        });
        let (outer, port) = loopback().unwrap();
        tokio::spawn(guard(outer, store, Token::new(KNOWN)));
        port
    }

    /// What comes back from a rank's side of the way.
    async fn echoed(port: u16, text: &[u8]) -> std::io::Result<Vec<u8>> {
        let (listener, local) = loopback().unwrap();
        tokio::spawn(lead(listener, "127.0.0.1".into(), port, Token::new(KNOWN), drop));
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, local)).await?;
        stream.write_all(text).await?;
        let mut back = vec![0; text.len()];
        stream.read_exact(&mut back).await?;
        Ok(back)
    }

    #[tokio::test]
    async fn members_pass() {
        let port = guarded_echo().await;
        let long: Vec<u8> = (0..1_000_000).map(|i| (i % 251) as u8).collect();
        assert_eq!(echoed(port, &long).await.unwrap(), long);
    }

    #[tokio::test]
    async fn who_does_not_know_the_token_gets_nothing() {
        let port = guarded_echo().await;
        for wrong in [b"another attempt's token".as_slice(), b"", &KNOWN[1..]] {
            let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.unwrap();
            introduce(&mut stream, &Token::new(wrong)).await.unwrap_err();
        }
        // Garbage, an answer to another question, and an echo of the keeper's own words.
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.unwrap();
        let mut first = Nonce::default();
        stream.read_exact(&mut first).await.unwrap();
        stream.write_all(&[first, first].concat()).await.unwrap();
        assert!(matches!(stream.read(&mut [0; 8]).await, Ok(0) | Err(_)));
        assert_eq!(echoed(port, b"still here").await.unwrap(), b"still here");
    }

    #[tokio::test]
    async fn a_crowd_of_strangers_does_not_keep_members_out() {
        let port = guarded_echo().await;
        let mut silent = Vec::new();
        for n in 0..10_000 {
            if let Ok(mut stream) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await {
                match n % 3 {
                    0 => drop(stream.write_all(&[7; 20]).await),
                    1 => drop(stream.write_all(b"GET / HTTP/1.1\r\nHost: gang\r\n\r\nand more than a proof is long").await),
                    _ => {}
                }
                // As many as a process may usually have open; the others come and go.
                if n % 20 == 0 {
                    silent.push(stream);
                }
            }
        }
        // From the member's own address, which is worse than they can do from theirs: it is let in when their time is up.
        let back = timeout(4 * PROOF, echoed(port, b"member")).await.expect("a member is kept out").unwrap();
        assert_eq!((back.as_slice(), silent.len()), (b"member".as_slice(), 500));
    }

    #[tokio::test]
    async fn a_keeper_that_does_not_know_the_token_is_not_believed() {
        let (false_keeper, port) = loopback().unwrap();
        let (_inner, store) = loopback().unwrap();
        tokio::spawn(guard(false_keeper, store, Token::new(b"a token of somebody else")));
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.unwrap();
        assert!(introduce(&mut stream, &Token::new(KNOWN)).await.is_err());
    }
}
