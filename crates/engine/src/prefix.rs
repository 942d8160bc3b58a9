//! Cached starts of prompts, least recently used dropped first under a stated budget.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use savi_nn::attention::KvNode;

/// Prefix nodes by what they hold: clips and tokens, under one version of the weights.
#[derive(Debug)]
pub(crate) struct PrefixCache {
    budget: usize,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    clock: u64,
    bytes: usize,
    nodes: HashMap<String, (Arc<KvNode>, u64)>,
    hits: u64,
    misses: u64,
}

impl PrefixCache {
    pub(crate) fn new(budget: usize) -> Self {
        Self { budget, inner: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn get(&self, key: &str) -> Option<Arc<KvNode>> {
        let mut inner = self.lock();
        inner.clock += 1;
        let clock = inner.clock;
        let found = inner.nodes.get_mut(key).map(|(node, used)| {
            *used = clock;
            node.clone()
        });
        match found {
            Some(_) => inner.hits += 1,
            None => inner.misses += 1,
        }
        found
    }

    pub(crate) fn insert(&self, key: String, node: Arc<KvNode>) {
        let mut inner = self.lock();
        inner.clock += 1;
        let clock = inner.clock;
        inner.bytes += node.bytes();
        inner.nodes.insert(key, (node, clock));
        while inner.bytes > self.budget && inner.nodes.len() > 1 {
            let oldest =
                inner.nodes.iter().min_by_key(|(_, (_, used))| *used).map(|(key, _)| key.clone());
            let Some((node, _)) = oldest.and_then(|key| inner.nodes.remove(&key)) else { break };
            inner.bytes -= node.bytes();
        }
    }

    /// Forgets everything: the weights have changed.
    pub(crate) fn clear(&self) {
        let mut inner = self.lock();
        inner.nodes.clear();
        inner.bytes = 0;
    }

    /// Prefixes found and prefixes computed so far.
    pub(crate) fn counts(&self) -> (u64, u64) {
        let inner = self.lock();
        (inner.hits, inner.misses)
    }
}
