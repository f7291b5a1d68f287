//! Somebody between clients and a broker, who loses answers: a request is done, and its answer and the connection are lost.
//!
//! Invariant: all else goes through as it is, in order. Frames are those of Kafka's protocol: a length, then a request's kind at byte 0
//! and its number at byte 4, and an answer's number at byte 0.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// Kinds of requests whose answers may be lost, by their API key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `EndTxn`: a transaction is committed or aborted.
    EndTransaction = 26,
}

/// See the module.
#[derive(Debug)]
pub struct Between {
    port: u16,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    /// Where the broker listens; 0: nowhere yet.
    broker: AtomicU16,
    /// The next answers to requests of these kinds are to be lost.
    to_lose: Mutex<Vec<Kind>>,
    lost: AtomicU64,
}

impl Between {
    /// Listens from now on; say where the broker is with [`Between::lead_to`].
    pub fn start() -> Between {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared::default());
        let own = shared.clone();
        // Ends with the test process.
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(broker) = TcpStream::connect(("127.0.0.1", own.broker.load(Ordering::Relaxed))) else { continue };
                own.join(client, broker);
            }
        });
        Between { port, shared }
    }

    /// Where clients connect to.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The broker listens there.
    pub fn lead_to(&self, port: u16) {
        self.shared.broker.store(port, Ordering::Relaxed);
    }

    /// The next answer to a request of this kind does not arrive.
    pub fn lose(&self, kind: Kind) {
        self.shared.to_lose.lock().unwrap().push(kind);
    }

    /// How many answers were lost.
    pub fn lost(&self) -> u64 {
        self.shared.lost.load(Ordering::Relaxed)
    }
}

impl Shared {
    fn join(self: &Arc<Self>, client: TcpStream, broker: TcpStream) {
        // Numbers of requests of this connection whose answers are not to arrive.
        let doomed: Arc<Mutex<Vec<[u8; 4]>>> = Arc::default();
        let (to_broker, to_client) = ((client.try_clone().unwrap(), broker.try_clone().unwrap()), (broker, client));
        let (shared, numbers) = (self.clone(), doomed.clone());
        std::thread::spawn(move || {
            pass(to_broker, |frame| {
                if shared.is_to_be_lost(i16::from_be_bytes([frame[0], frame[1]])) {
                    numbers.lock().unwrap().push(frame[4..8].try_into().unwrap());
                }
                true
            });
        });
        let shared = self.clone();
        std::thread::spawn(move || {
            pass(to_client, |frame| {
                let is_doomed = doomed.lock().unwrap().iter().any(|number| *number == frame[..4]);
                shared.lost.fetch_add(u64::from(is_doomed), Ordering::Relaxed);
                !is_doomed
            });
        });
    }

    fn is_to_be_lost(&self, key: i16) -> bool {
        let mut to_lose = self.to_lose.lock().unwrap();
        let found = to_lose.iter().position(|kind| *kind as i16 == key);
        found.map(|place| to_lose.swap_remove(place)).is_some()
    }
}

/// Passes frames on until one side ends, or `may_pass` says no; then ends both.
fn pass((mut from, mut to): (TcpStream, TcpStream), mut may_pass: impl FnMut(&[u8]) -> bool) {
    let mut frame = Vec::new();
    let mut next = || -> std::io::Result<bool> {
        let mut length = [0; 4];
        from.read_exact(&mut length)?;
        frame.resize(u32::from_be_bytes(length) as usize, 0);
        from.read_exact(&mut frame)?;
        if !may_pass(&frame) {
            return Ok(false);
        }
        to.write_all(&[&length[..], &frame].concat())?;
        Ok(true)
    };
    while let Ok(true) = next() {}
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}
