//! The cluster's name server: answers for the names that a test tells it, on the host's address.
//!
//! Only addresses of version 4 are told (RFC 1035); every other name does not exist. A thread of its own, because
//! a cluster outlives the runtime of the test that started it.

use std::collections::HashMap;
use std::net::{Ipv4Addr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context;

type Names = Arc<Mutex<HashMap<String, Ipv4Addr>>>;

const PORT: u16 = 53;
/// How soon it notices that it should stop.
const LOOK: Duration = Duration::from_millis(200);
const HEADER: usize = 12;
const TYPE_A: [u8; 2] = [0, 1];

/// The name server.
pub(super) struct NameServer {
    names: Names,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl NameServer {
    /// Starts one that knows no name.
    pub fn start(address: Ipv4Addr) -> anyhow::Result<Self> {
        let socket = UdpSocket::bind((address, PORT)).context("cannot serve names")?;
        socket.set_read_timeout(Some(LOOK))?;
        let (names, stop) = (Names::default(), Arc::<AtomicBool>::default());
        let (known, stopping) = (names.clone(), stop.clone());
        let thread = std::thread::spawn(move || {
            let mut query = [0; 512];
            while !stopping.load(Ordering::Relaxed) {
                let Ok((length, from)) = socket.recv_from(&mut query) else { continue };
                let reply = reply(&query[..length], &known.lock().unwrap_or_else(PoisonError::into_inner));
                if let Some(reply) = reply {
                    // Who has gone needs no answer.
                    let _ = socket.send_to(&reply, from);
                }
            }
        });
        Ok(Self { names, stop, thread: Some(thread) })
    }

    /// From now on `name` is at `address`.
    pub fn tell(&self, name: &str, address: Ipv4Addr) {
        self.names.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_lowercase(), address);
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            eprintln!("the name server has panicked");
        }
    }
}

/// The answer to a query; none where it is no query.
fn reply(query: &[u8], names: &HashMap<String, Ipv4Addr>) -> Option<Vec<u8>> {
    let mut labels = Vec::new();
    let mut at = HEADER;
    loop {
        let length = usize::from(*query.get(at)?);
        at += 1;
        if length == 0 {
            break;
        }
        labels.push(String::from_utf8_lossy(query.get(at..at + length)?).to_lowercase());
        at += length;
    }
    let question = query.get(HEADER..at + 4)?;
    let found = names.get(&labels.join("."));
    let address = found.filter(|_| query[at..at + 2] == TYPE_A);
    // An authoritative answer; code 3 is "no such name".
    let code = if found.is_some() { 0x80 } else { 0x83 };
    let mut reply = query[..2].to_vec();
    reply.extend([0x85, code, 0, 1, 0, u8::from(address.is_some()), 0, 0, 0, 0]);
    reply.extend(question);
    if let Some(address) = address {
        // The name of the question, type A, class Internet, for one second, four bytes.
        reply.extend([0xc0, HEADER as u8, 0, 1, 0, 1, 0, 0, 0, 1, 0, 4]);
        reply.extend(address.octets());
    }
    Some(reply)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(name: &str, type_: u8) -> Vec<u8> {
        let mut query = vec![7, 9, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        for label in name.split('.') {
            query.push(label.len() as u8);
            query.extend(label.bytes());
        }
        query.extend([0, 0, type_, 0, 1]);
        query
    }

    #[test]
    fn a_known_name_has_its_address_and_another_does_not_exist() {
        let address = Ipv4Addr::new(198, 18, 1, 2);
        let names = HashMap::from([("kafka.ns.svc.cluster.local".to_owned(), address)]);
        let known = reply(&query("Kafka.ns.svc.cluster.local", 1), &names).unwrap();
        assert_eq!((&known[..4], &known[6..8]), (&[7, 9, 0x85, 0x80][..], &[0, 1][..]));
        assert!(known.ends_with(&address.octets()));
        // It exists, and has no address of version 6.
        let six = reply(&query("kafka.ns.svc.cluster.local", 28), &names).unwrap();
        assert_eq!((six[3], &six[6..8]), (0x80, &[0, 0][..]));
        assert_eq!(reply(&query("mysql.ns.svc.cluster.local", 1), &names).unwrap()[3], 0x83);
        assert_eq!(reply(&[1, 2, 3], &names), None);
    }
}
