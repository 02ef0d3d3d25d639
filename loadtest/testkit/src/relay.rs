//! A line to a server that can be cut: everything passes through, until it is told otherwise.

use std::{
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering},
    },
    thread,
};

/// A relay on a port of its own. Its threads end with their connections, and with the process.
#[derive(Debug, Clone)]
pub struct Relay {
    address: String,
    line: Arc<Line>,
}

#[derive(Debug)]
struct Line {
    /// Bytes of answers that still pass before the connection is cut.
    left: AtomicI64,
    /// Whether new connections are cut at once.
    is_down: AtomicBool,
    /// Whether the line goes down for good when it is cut.
    stays_down: AtomicBool,
    answered: AtomicU64,
}

impl Relay {
    /// Starts a relay to a server.
    pub fn start(server: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("it has an address").to_string();
        let line = Arc::new(Line {
            left: AtomicI64::new(i64::MAX),
            is_down: AtomicBool::new(false),
            stays_down: AtomicBool::new(false),
            answered: AtomicU64::new(0),
        });
        let shared = Arc::clone(&line);
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let (server, line) = (server.clone(), Arc::clone(&shared));
                // A connection that fails is what this is for.
                thread::spawn(move || drop(relay(client, &server, &line)));
            }
        });
        Self { address, line }
    }

    /// Where it listens.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Cuts one connection after so many bytes of answers; the next ones work.
    pub fn cut_once_after(&self, bytes: i64) {
        self.line.stays_down.store(false, Ordering::SeqCst);
        self.line.left.store(bytes, Ordering::SeqCst);
    }

    /// After so many bytes of answers, nothing passes any more until [`Relay::mend`].
    pub fn go_down_after(&self, bytes: i64) {
        self.line.stays_down.store(true, Ordering::SeqCst);
        self.line.left.store(bytes, Ordering::SeqCst);
    }

    /// Nothing passes any more until [`Relay::mend`].
    pub fn go_down(&self) {
        self.line.is_down.store(true, Ordering::SeqCst);
    }

    /// Everything passes again.
    pub fn mend(&self) {
        self.line.left.store(i64::MAX, Ordering::SeqCst);
        self.line.is_down.store(false, Ordering::SeqCst);
    }

    /// Whether the line is down.
    pub fn is_down(&self) -> bool {
        self.line.is_down.load(Ordering::SeqCst)
    }

    /// Bytes of answers that have passed.
    pub fn answered(&self) -> u64 {
        self.line.answered.load(Ordering::SeqCst)
    }
}

fn relay(client: TcpStream, server: &str, line: &Line) -> std::io::Result<()> {
    if line.is_down.load(Ordering::SeqCst) {
        return client.shutdown(Shutdown::Both);
    }
    let server = TcpStream::connect(server)?;
    let (mut from_client, mut to_server) = (client.try_clone()?, server.try_clone()?);
    thread::spawn(move || {
        let _ = std::io::copy(&mut from_client, &mut to_server);
        let _ = to_server.shutdown(Shutdown::Write);
    });
    let _ = answer(&server, &client, line);
    let _ = server.shutdown(Shutdown::Both);
    client.shutdown(Shutdown::Both)
}

fn answer(mut server: &TcpStream, mut client: &TcpStream, line: &Line) -> std::io::Result<()> {
    let mut buffer = [0; 16 << 10];
    loop {
        let read = server.read(&mut buffer)?;
        if read == 0 || line.is_down.load(Ordering::SeqCst) {
            return Ok(());
        }
        let length = i64::try_from(read).expect("a buffer is small");
        let left = line.left.fetch_sub(length, Ordering::SeqCst);
        let pass = usize::try_from(left.clamp(0, length)).expect("it is not negative");
        client.write_all(&buffer[..pass])?;
        line.answered.fetch_add(pass as u64, Ordering::SeqCst);
        if pass < read {
            line.is_down.store(line.stays_down.load(Ordering::SeqCst), Ordering::SeqCst);
            line.left.store(i64::MAX, Ordering::SeqCst);
            return Ok(());
        }
    }
}
