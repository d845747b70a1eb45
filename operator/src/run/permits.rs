//! How much is under way at once: so much in all, and so much of one namespace.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::lock::lock;

/// A namespace in which the API server does not answer, as behind a webhook, must not hold up the others.
pub struct Permits {
    all: Arc<Semaphore>,
    of_a_namespace: usize,
    /// Of each namespace that holds or awaits some.
    of_namespaces: Mutex<HashMap<Option<String>, Arc<Semaphore>>>,
}

/// Given back when it is dropped.
pub struct Permit {
    _of_namespace: Option<OwnedSemaphorePermit>,
    _of_all: Option<OwnedSemaphorePermit>,
}

impl Permits {
    /// So many.
    pub fn new(in_all: usize, of_a_namespace: usize) -> Self {
        Self { all: Arc::new(Semaphore::new(in_all)), of_a_namespace, of_namespaces: Mutex::default() }
    }

    /// Waits for one.
    pub async fn acquire(&self, namespace: Option<String>) -> Permit {
        // First its own: who waits for that takes nothing from others. Neither is ever closed.
        let of_namespace = self.of_namespace(namespace).acquire_owned().await.ok();
        Permit { _of_namespace: of_namespace, _of_all: self.all.clone().acquire_owned().await.ok() }
    }

    fn of_namespace(&self, namespace: Option<String>) -> Arc<Semaphore> {
        let mut all = lock(&self.of_namespaces);
        // Whoever holds or awaits one of its permits has a share of it.
        all.retain(|_, permits| Arc::strong_count(permits) > 1);
        all.entry(namespace).or_insert_with(|| Arc::new(Semaphore::new(self.of_a_namespace))).clone()
    }
}
