//! Where data lie that are not on this machine, whatever it is: what a mirror asks of it.

use std::collections::BTreeSet;
use std::path::Path;

use super::RemoteError;
use super::bucket::{Bucket, Object, in_a_store};
use super::mirror::Objects;
use super::server::Server;

pub(super) enum Store {
    Bucket(Bucket),
    Server(Server),
}

impl Store {
    /// What a URI names; nothing is asked for yet.
    ///
    /// # Errors
    /// `Unreachable` when it names nothing that is known, or a variable of the environment is wrong.
    pub(super) fn of(uri: &str, environment: impl Fn(&str) -> Option<String>) -> Result<Self, RemoteError> {
        if in_a_store(uri) { Bucket::of(uri, environment).map(Self::Bucket) } else { Server::of(uri, environment).map(Self::Server) }
    }

    /// A short name for people, and what tells it from others of that name.
    pub(super) fn names(&self) -> (&str, &str) {
        match self {
            Self::Bucket(bucket) => (bucket.name(), bucket.place()),
            Self::Server(server) => (server.name(), server.place()),
        }
    }

    /// All objects; none where they cannot be listed and must be asked for one by one.
    ///
    /// # Errors
    /// `Unreachable` when the list cannot be had.
    pub(super) fn list(&mut self) -> Result<Option<Objects>, RemoteError> {
        match self {
            Self::Bucket(bucket) => bucket.objects().map(Some),
            Self::Server(server) => server.list(),
        }
    }

    /// Those of the objects that there are, by asking for each where there is no list of all.
    ///
    /// # Errors
    /// `Unreachable` when the server does not say.
    pub(super) fn find(&self, keys: &BTreeSet<String>, listed: Option<&Objects>) -> Result<Objects, RemoteError> {
        match (self, listed) {
            (Self::Server(server), None) => server.find(keys),
            (_, listed) => {
                let all = listed.into_iter().flatten();
                Ok(all.filter(|(key, _)| keys.contains(*key)).map(|(key, object)| (key.clone(), object.clone())).collect())
            }
        }
    }

    /// Fetches an object in this version, going on behind what `partial` holds already.
    ///
    /// # Errors
    /// `Unreachable` when it cannot be had, `Io` when `partial` cannot be written.
    pub(super) fn get(&self, key: &str, object: &Object, partial: &Path) -> Result<(), RemoteError> {
        match self {
            Self::Bucket(bucket) => bucket.get(key, object, partial),
            Self::Server(server) => server.get(key, object, partial),
        }
    }
}
