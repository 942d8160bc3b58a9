//! The prefix tree: keys and values of what was computed, found by content.
//!
//! An *entry* holds the cache node of a run of tokens and stands after a place in another entry, or at
//! the root. Prompts that share their start share entries; one that leaves another's run in the middle
//! forks there, which moves nothing. Under a budget of bytes the entries that were used longest ago are
//! dropped; whoever still stands on one keeps it alive, and what was dropped is computed again when it
//! is asked for.

mod fill;
mod unit;

use std::collections::{BTreeSet, HashMap, hash_map};
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use candle_core::Tensor;
use savi_nn::attention::{KvNode, KvPrefix};

pub(crate) use self::fill::{Filling, Piece, plan};
pub(crate) use self::unit::{Unit, units, words};

/// Where an entry stands: after how many of whose tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    Root,
    Entry {
        id: u64,
        own: usize,
    },
    /// Behind something that the tree does not hold.
    Outside,
}

/// How far a text is computed.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    at: At,
    /// Its keys and values; none at the root.
    pub(crate) prefix: Option<KvPrefix>,
    /// The last hidden state `[1, width]`, where it is known.
    pub(crate) hidden: Option<Tensor>,
}

impl Place {
    /// Nothing is computed.
    pub(crate) fn root() -> Self {
        Self { at: At::Root, prefix: None, hidden: None }
    }

    /// At the end of what the tree knows nothing of.
    pub(crate) fn outside(prefix: KvPrefix) -> Self {
        Self { at: At::Outside, prefix: Some(prefix), hidden: None }
    }

    /// Tokens up to here.
    pub(crate) fn len(&self) -> usize {
        self.prefix.as_ref().map_or(0, KvPrefix::total)
    }
}

#[derive(Debug)]
struct Entry {
    at: At,
    units: Vec<Unit>,
    node: Arc<KvNode>,
    hidden: Option<Tensor>,
    /// After how many own tokens, and with which one next, others go on.
    children: HashMap<(usize, Unit), u64>,
    used: u64,
}

#[derive(Debug, Default)]
struct Inner {
    clock: u64,
    next: u64,
    bytes: usize,
    evicted: u64,
    /// As an entry's children, after no tokens.
    roots: HashMap<(usize, Unit), u64>,
    entries: HashMap<u64, Entry>,
    /// Entries by last use. What is before an entry is used whenever it is, and counts as used later.
    order: BTreeSet<(u64, u64)>,
}

/// The entries of one version of the weights.
#[derive(Debug)]
pub(crate) struct Tree {
    budget: usize,
    shares: bool,
    inner: Mutex<Inner>,
}

impl Tree {
    /// A tree of at most `budget` bytes, beside what is in use. One that does not share finds nothing and
    /// keeps nothing.
    pub(crate) fn new(budget: usize, shares: bool) -> Self {
        Self { budget, shares, inner: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether prompts share their starts.
    pub(crate) fn shares(&self) -> bool {
        self.shares
    }

    /// The longest start of a text that is computed.
    pub(crate) fn find(&self, text: &[Unit]) -> Place {
        if !self.shares {
            return Place::root();
        }
        let mut inner = self.lock();
        let (mut place, mut matched, mut path) = (Place::root(), 0, Vec::new());
        while let Some(next) = text.get(matched) {
            let child = match place.at {
                At::Root => inner.roots.get(&(0, *next)),
                At::Entry { id, own } => {
                    inner.entries.get(&id).and_then(|entry| entry.children.get(&(own, *next)))
                }
                At::Outside => None,
            };
            let Some((id, entry)) = child.and_then(|id| Some((*id, inner.entries.get(id)?))) else {
                break;
            };
            let same = entry.units.iter().zip(&text[matched..]).take_while(|(a, b)| a == b);
            let own = same.count();
            matched += own;
            path.push(id);
            place = Place {
                at: At::Entry { id, own },
                prefix: Some(KvPrefix::first(entry.node.clone(), own)),
                hidden: entry.hidden.clone().filter(|_| own == entry.units.len()),
            };
        }
        for id in path.into_iter().rev() {
            inner.touch(id);
        }
        place
    }

    /// Keeps a node that was computed after a place, with the hidden state of its last token; gives the
    /// place at its end.
    pub(crate) fn insert(
        &self,
        after: &Place,
        units: &[Unit],
        node: Arc<KvNode>,
        hidden: Option<Tensor>,
    ) -> Place {
        let prefix = Some(KvPrefix::whole(node.clone()));
        let outside = Place { at: At::Outside, prefix: prefix.clone(), hidden: hidden.clone() };
        let Some(first) = units.first().filter(|_| self.shares) else { return outside };
        let mut inner = self.lock();
        let id = inner.next;
        let slot = match after.at {
            At::Root => Some(inner.roots.entry((0, *first))),
            At::Entry { id, own } => {
                inner.entries.get_mut(&id).map(|entry| entry.children.entry((own, *first)))
            }
            At::Outside => None,
        };
        match slot {
            Some(hash_map::Entry::Vacant(slot)) => slot.insert(id),
            // Another pass was as fast, or the place was dropped.
            _ => return outside,
        };
        inner.next += 1;
        inner.bytes += node.bytes();
        let entry = Entry {
            at: after.at,
            units: units.to_vec(),
            node,
            hidden: hidden.clone(),
            children: HashMap::new(),
            used: 0,
        };
        inner.entries.insert(id, entry);
        inner.touch(id);
        let mut above = after.at;
        while let At::Entry { id, .. } = above {
            inner.touch(id);
            above = inner.entries.get(&id).map_or(At::Root, |entry| entry.at);
        }
        inner.shrink(self.budget, id);
        Place { at: At::Entry { id, own: units.len() }, prefix, hidden }
    }

    /// Drops what has not been used for longest until, with `beside` bytes that are in use elsewhere, the
    /// budget holds. Whether it does.
    pub(crate) fn make_room(&self, beside: usize) -> bool {
        let mut inner = self.lock();
        inner.shrink(self.budget.saturating_sub(beside), u64::MAX);
        inner.bytes + beside <= self.budget
    }

    /// Forgets everything: the weights have changed.
    pub(crate) fn clear(&self) {
        let mut inner = self.lock();
        let (next, evicted) = (inner.next, inner.evicted);
        *inner = Inner { next, evicted, ..Inner::default() };
    }

    /// Bytes that are kept, and how many entries were dropped for want of room so far.
    pub(crate) fn usage(&self) -> (usize, u64) {
        let inner = self.lock();
        (inner.bytes, inner.evicted)
    }
}

impl Inner {
    fn touch(&mut self, id: u64) {
        self.clock += 1;
        if let Some(entry) = self.entries.get_mut(&id) {
            self.order.remove(&(entry.used, id));
            entry.used = self.clock;
            self.order.insert((self.clock, id));
        }
    }

    /// Drops leaves nobody stands on, oldest first, but not `newest`.
    fn shrink(&mut self, budget: usize, newest: u64) {
        let mut after = Bound::Unbounded;
        while self.bytes > budget {
            let Some(&(used, id)) = self.order.range((after, Bound::Unbounded)).next() else {
                return;
            };
            after = Bound::Excluded((used, id));
            let free = self.entries.get(&id).is_some_and(|entry| {
                id != newest && entry.children.is_empty() && Arc::strong_count(&entry.node) == 1
            });
            if !free {
                continue;
            }
            let Some(entry) = self.entries.remove(&id) else { continue };
            self.order.remove(&(entry.used, id));
            self.bytes -= entry.node.bytes();
            self.evicted += 1;
            let Some(first) = entry.units.first() else { continue };
            match entry.at {
                At::Root => {
                    self.roots.remove(&(0, *first));
                }
                At::Entry { id, own } => {
                    if let Some(parent) = self.entries.get_mut(&id) {
                        parent.children.remove(&(own, *first));
                        // It was passed over while it had children.
                        if parent.children.is_empty() {
                            after = Bound::Unbounded;
                        }
                    }
                }
                At::Outside => {}
            }
        }
    }
}

#[cfg(test)]
mod tests;
