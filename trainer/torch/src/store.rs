//! The key-value store that ranks meet at. The server must outlive every group made from it, so it belongs in the
//! process that starts the ranks, never in one of them.

use crate::ffi::{self, RawStore, c_string, check, check_ptr};
use crate::{Error, ErrorKind, Result};
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::IntoRawFd;
use std::time::Duration;

/// A store: a TCP one, or one that puts a prefix before each key of another. Requests of one store are made one after
/// the other: a thread inside [`Store::wait`] holds up the rest, which should have a client of their own.
#[derive(Debug)]
pub struct Store {
    raw: *mut RawStore,
}

// SAFETY: c10d's stores may be used from any thread and lock around each request.
unsafe impl Send for Store {}
// SAFETY: as above; no method hands out a reference into the store.
unsafe impl Sync for Store {}

impl Drop for Store {
    fn drop(&mut self) {
        // SAFETY: `raw` came from the shim and is freed once, here. Groups and prefixes hold counted references.
        unsafe { ffi::graft_store_free(self.raw) }
    }
}

impl Store {
    /// Holds the keys, and listens at a free port of 127.0.0.1 only: c10d's protocol has no authentication, so what is let
    /// in from elsewhere must be decided in front of it. `timeout` is for [`Store::get`].
    pub fn serve(timeout: Duration) -> Result<Self> {
        const DOING: &str = "open the store";
        let failed = |error: std::io::Error| Error::new(ErrorKind::Network, DOING, &error.to_string());
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(failed)?;
        let port = listener.local_addr().map_err(failed)?.port();
        // SAFETY: the shim takes the socket over.
        let raw = unsafe { ffi::graft_store_serve(listener.into_raw_fd(), port, milliseconds(timeout)) };
        Ok(Self { raw: check_ptr(DOING, raw)? })
    }

    /// The store that another process holds at `host`:`port`. `timeout` is for [`Store::get`]; the connection is tried for
    /// at least that long.
    pub fn connect(host: &str, port: u16, timeout: Duration) -> Result<Self> {
        const DOING: &str = "connect to the store";
        let host = c_string(DOING, host)?;
        // SAFETY: `host` lives through the call.
        let raw = unsafe { ffi::graft_store_connect(host.as_ptr(), port, milliseconds(timeout)) };
        Ok(Self { raw: check_ptr(DOING, raw)? })
    }

    /// A view of this store in which each key starts with `prefix` and a slash.
    pub fn prefix(&self, prefix: &str) -> Result<Self> {
        const DOING: &str = "prefix the store";
        let prefix = c_string(DOING, prefix)?;
        // SAFETY: `raw` is live; `prefix` lives through the call.
        let raw = unsafe { ffi::graft_store_prefix(self.raw, prefix.as_ptr()) };
        Ok(Self { raw: check_ptr(DOING, raw)? })
    }

    /// The port that a TCP store listens at or is connected to.
    pub fn port(&self) -> Result<u16> {
        const DOING: &str = "ask the store's port";
        // SAFETY: `raw` is live.
        let port = check(DOING, unsafe { ffi::graft_store_port(self.raw) })?;
        u16::try_from(port).map_err(|_| Error::new(ErrorKind::Store, DOING, &format!("{port} is no port")))
    }

    /// Sets a key's value.
    pub fn set(&self, key: &str, value: &[u8]) -> Result<()> {
        const DOING: &str = "set a key";
        let key = c_string(DOING, key)?;
        // SAFETY: `key` and `value` live through the call, and the shim reads `value.len()` bytes.
        check(DOING, unsafe { ffi::graft_store_set(self.raw, key.as_ptr(), value.as_ptr(), value.len()) })?;
        Ok(())
    }

    /// A key's value; waits for the key up to the store's timeout.
    pub fn get(&self, key: &str) -> Result<Vec<u8>> {
        const DOING: &str = "get a key";
        let c_key = c_string(DOING, key)?;
        let mut value = vec![0u8; 4096];
        loop {
            // SAFETY: `value` has the capacity that is passed; the shim writes no more than that.
            let size = unsafe { ffi::graft_store_get(self.raw, c_key.as_ptr(), value.as_mut_ptr(), value.len()) };
            let Ok(size) = usize::try_from(size) else { return Err(ffi::last_error(DOING)) };
            if size <= value.len() {
                value.truncate(size);
                return Ok(value);
            }
            value.resize(size, 0);
        }
    }

    /// Adds to a counter (a missing one counts as 0) and returns the sum.
    pub fn add(&self, key: &str, amount: i64) -> Result<i64> {
        const DOING: &str = "add to a counter";
        let key = c_string(DOING, key)?;
        let mut total = 0;
        // SAFETY: `key` lives through the call and `total` is a place for one i64.
        check(DOING, unsafe { ffi::graft_store_add(self.raw, key.as_ptr(), amount, &raw mut total) })?;
        Ok(total)
    }

    /// Waits until the key exists.
    ///
    /// # Errors
    /// [`ErrorKind::Timeout`] when it does not in time.
    pub fn wait(&self, key: &str, timeout: Duration) -> Result<()> {
        const DOING: &str = "wait for a key";
        let key = c_string(DOING, key)?;
        // SAFETY: `raw` is live; `key` lives through the call.
        check(DOING, unsafe { ffi::graft_store_wait(self.raw, key.as_ptr(), milliseconds(timeout)) })?;
        Ok(())
    }

    /// Whether the key exists now.
    pub fn check(&self, key: &str) -> Result<bool> {
        const DOING: &str = "look for a key";
        let key = c_string(DOING, key)?;
        // SAFETY: `raw` is live; `key` lives through the call.
        Ok(check(DOING, unsafe { ffi::graft_store_check(self.raw, key.as_ptr()) })? != 0)
    }

    /// Deletes a key; says whether it was there.
    pub fn delete(&self, key: &str) -> Result<bool> {
        const DOING: &str = "delete a key";
        let key = c_string(DOING, key)?;
        // SAFETY: `raw` is live; `key` lives through the call.
        Ok(check(DOING, unsafe { ffi::graft_store_delete(self.raw, key.as_ptr()) })? != 0)
    }

    pub(crate) fn raw(&self) -> *mut RawStore {
        self.raw
    }
}

/// Milliseconds for C, at least one.
pub(crate) fn milliseconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX / 1_000_000).clamp(1, i64::MAX / 1_000_000)
}
