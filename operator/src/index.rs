//! What the watches know of Jobs and pods: pruned views, found by the UID of their TransferJob without a scan.
//! A view that changes asks for a reconcile of its TransferJob; one that does not is forgotten at once.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Debug;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::GuardedJob;
use futures::channel::mpsc::UnboundedSender;
use futures::{Stream, StreamExt};
use graft_crds::names::{LABEL_JOB, LABEL_JOB_UID};
use kube::runtime::reflector::ObjectRef;
use kube::runtime::watcher::{self, Event};
use kube::{Resource, ResourceExt};

/// All views of one kind.
pub struct Table<V> {
    rows: Mutex<Rows<V>>,
    ready: AtomicBool,
    triggers: UnboundedSender<ObjectRef<GuardedJob>>,
}

/// Views by UID of the TransferJob and by name.
struct Rows<V> {
    current: HashMap<String, Group<V>>,
    listing: Option<HashMap<String, Group<V>>>,
}

/// The views of one TransferJob.
#[derive(Clone)]
struct Group<V> {
    owner: ObjectRef<GuardedJob>,
    views: BTreeMap<String, V>,
}

impl<V: Clone + PartialEq> Table<V> {
    /// An empty table; `triggers` gets the TransferJobs that must be looked at.
    pub fn new(triggers: UnboundedSender<ObjectRef<GuardedJob>>) -> Self {
        Self { rows: Mutex::new(Rows { current: HashMap::new(), listing: None }), ready: AtomicBool::new(false), triggers }
    }

    /// The views of a TransferJob.
    pub fn of(&self, uid: &str) -> Vec<V> {
        self.locked().current.get(uid).map(|g| g.views.values().cloned().collect()).unwrap_or_default()
    }

    /// The first list is complete.
    pub fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Acquire)
    }

    /// Follow a watch for ever. Errors are logged; the watch itself waits and tries again.
    pub async fn follow<K, S>(&self, stream: S, view: fn(&K) -> Option<V>)
    where
        K: Resource<DynamicType = ()> + Debug,
        S: Stream<Item = Result<Event<K>, watcher::Error>>,
    {
        let mut stream = std::pin::pin!(stream);
        while let Some(event) = stream.next().await {
            match event {
                Ok(event) => self.take(event, view),
                Err(error) => tracing::warn!(kind = %K::kind(&()), %error, "watch failed, trying again"),
            }
        }
    }

    fn take<K: Resource<DynamicType = ()>>(&self, event: Event<K>, view: fn(&K) -> Option<V>) {
        let mut rows = self.locked();
        match event {
            Event::Init => rows.listing = Some(HashMap::new()),
            Event::InitApply(object) => {
                if let (Some((uid, owner)), Some(view), Some(listing)) = (owner(&object), view(&object), &mut rows.listing) {
                    insert(listing, uid, owner, object.name_any(), view);
                }
            }
            Event::InitDone => {
                let listed = rows.listing.take().unwrap_or_default();
                let before = std::mem::replace(&mut rows.current, listed);
                for group in before.values().chain(rows.current.values()) {
                    self.trigger(&group.owner);
                }
                self.ready.store(true, Ordering::Release);
            }
            Event::Apply(object) => {
                if let (Some((uid, owner)), Some(view)) = (owner(&object), view(&object))
                    && insert(&mut rows.current, uid, owner.clone(), object.name_any(), view) == Change::News
                {
                    self.trigger(&owner);
                }
            }
            Event::Delete(object) => {
                if let Some((uid, owner)) = owner(&object)
                    && let Some(group) = rows.current.get_mut(&uid)
                {
                    group.views.remove(&object.name_any());
                    if group.views.is_empty() {
                        rows.current.remove(&uid);
                    }
                    self.trigger(&owner);
                }
            }
        }
    }

    fn trigger(&self, owner: &ObjectRef<GuardedJob>) {
        // Nobody listens any more only when the operator stops.
        let _ = self.triggers.unbounded_send(owner.clone());
    }

    fn locked(&self) -> std::sync::MutexGuard<'_, Rows<V>> {
        self.rows.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

#[derive(PartialEq, Eq)]
enum Change {
    News,
    Same,
}

fn insert<V: PartialEq>(groups: &mut HashMap<String, Group<V>>, uid: String, owner: ObjectRef<GuardedJob>, name: String, view: V) -> Change {
    let group = groups.entry(uid).or_insert_with(|| Group { owner, views: BTreeMap::new() });
    if group.views.get(&name) == Some(&view) {
        return Change::Same;
    }
    group.views.insert(name, view);
    Change::News
}

fn owner<K: Resource>(object: &K) -> Option<(String, ObjectRef<GuardedJob>)> {
    let labels = object.meta().labels.as_ref()?;
    let reference = ObjectRef::new(labels.get(LABEL_JOB)?).within(object.meta().namespace.as_deref()?);
    Some((labels.get(LABEL_JOB_UID)?.clone(), reference))
}
