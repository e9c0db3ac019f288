//! Who may wait at a port that everybody in the cluster can reach: few of one address, not many of all, and none for long.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Sleep, sleep};

/// Guests by address.
#[derive(Clone)]
pub(crate) struct Doorstep {
    guests: Arc<Mutex<HashMap<IpAddr, usize>>>,
    of_address: usize,
    of_all: usize,
}

/// A place on the doorstep, free again when this is dropped.
pub(crate) struct Place(Doorstep, IpAddr);

impl Doorstep {
    /// Room for so many guests of one address, and of all.
    pub(crate) fn new(of_address: usize, of_all: usize) -> Self {
        Self { guests: Arc::default(), of_address, of_all }
    }

    /// A place, if there is one.
    pub(crate) fn place(&self, address: IpAddr) -> Option<Place> {
        let mut guests = self.guests.lock().ok()?;
        if guests.values().sum::<usize>() >= self.of_all || guests.get(&address).is_some_and(|n| *n >= self.of_address) {
            return None;
        }
        *guests.entry(address).or_default() += 1;
        Some(Place(self.clone(), address))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Ok(mut guests) = self.0.guests.lock() else { return };
        if let Some(n) = guests.get_mut(&self.1) {
            *n -= 1;
            if *n == 0 {
                guests.remove(&self.1);
            }
        }
    }
}

/// The next connection, also when file descriptors have run out: those of strangers come free in a moment.
pub(crate) async fn accept(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    loop {
        match listener.accept().await {
            Ok(connection) => return connection,
            Err(_) => sleep(Duration::from_millis(50)).await,
        }
    }
}

/// A listener for axum whose connections end after some time, whatever they are doing: who asks again connects again.
pub(crate) struct Limited {
    pub(crate) listener: TcpListener,
    pub(crate) doorstep: Doorstep,
    /// How long a connection lasts.
    pub(crate) visit: Duration,
}

impl axum::serve::Listener for Limited {
    type Io = Visit;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Visit, SocketAddr) {
        loop {
            let (stream, from) = accept(&self.listener).await;
            if let Some(place) = self.doorstep.place(from.ip()) {
                return (Visit { stream, end: Box::pin(sleep(self.visit)), _place: place }, from);
            }
        }
    }

    fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A connection that ends.
pub(crate) struct Visit {
    stream: TcpStream,
    end: Pin<Box<Sleep>>,
    _place: Place,
}

impl Visit {
    /// What is asked for, unless time is up.
    fn in_time<T>(
        &mut self,
        context: &mut Context<'_>,
        ask: impl FnOnce(Pin<&mut TcpStream>, &mut Context<'_>) -> Poll<std::io::Result<T>>,
    ) -> Poll<std::io::Result<T>> {
        match ask(Pin::new(&mut self.stream), context) {
            Poll::Ready(done) => Poll::Ready(done),
            Poll::Pending => {
                ready!(self.end.as_mut().poll(context));
                Poll::Ready(Err(std::io::ErrorKind::TimedOut.into()))
            }
        }
    }
}

impl AsyncRead for Visit {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        self.in_time(context, |stream, context| stream.poll_read(context, buffer))
    }
}

impl AsyncWrite for Visit {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        self.in_time(context, |stream, context| stream.poll_write(context, bytes))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        self.in_time(context, |stream, context| stream.poll_flush(context))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        self.in_time(context, |stream, context| stream.poll_shutdown(context))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::time::timeout;

    const VISIT: Duration = Duration::from_secs(1);

    async fn server() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let routes = axum::Router::new().route("/", get(|| async { "here\n" }));
        let limited = Limited { listener, doorstep: Doorstep::new(4, 8), visit: VISIT };
        tokio::spawn(axum::serve(limited, routes).into_future());
        address
    }

    /// What a request gets, or how the connection ended.
    async fn ask(address: SocketAddr) -> std::io::Result<String> {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(b"GET / HTTP/1.1\r\nHost: pod\r\nConnection: close\r\n\r\n").await?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await?;
        Ok(text)
    }

    #[tokio::test]
    async fn silent_and_slow_guests_leave_and_the_next_is_served() {
        let address = server().await;
        let mut guests = Vec::new();
        for n in 0..100 {
            let Ok(mut stream) = TcpStream::connect(address).await else { continue };
            // Half a request, or nothing at all.
            if n % 2 == 0 {
                let _ = stream.write_all(b"GET / HTTP/1.1\r\nHost: p").await;
            }
            guests.push(stream);
        }
        // One byte now and then does not buy more time.
        let mut slow = guests.remove(0);
        tokio::spawn(async move {
            while slow.write_all(b"o").await.is_ok() {
                sleep(VISIT / 10).await
            }
        });
        let served = timeout(10 * VISIT, async {
            loop {
                match ask(address).await {
                    Ok(text) if text.ends_with("here\n") => return,
                    Ok(_) | Err(_) => sleep(VISIT / 10).await,
                }
            }
        });
        served.await.expect("guests that say nothing keep others out");
        assert!(guests.len() > 90);
    }

    #[test]
    fn places_are_few_of_one_address_and_free_again() {
        let (doorstep, [a, b, c]) = (Doorstep::new(2, 3), ["10.0.0.1", "10.0.0.2", "10.0.0.3"].map(|text| text.parse::<IpAddr>().unwrap()));
        let first = doorstep.place(a);
        let others = [doorstep.place(a), doorstep.place(b)];
        assert!(first.is_some() && others.iter().all(Option::is_some) && doorstep.place(a).is_none() && doorstep.place(c).is_none());
        drop(first);
        assert!(doorstep.place(c).is_some());
    }
}
