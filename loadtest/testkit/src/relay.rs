//! A line to a server that can be cut, slowed, stopped at a message, or made to swallow: everything passes through, until it is told otherwise.

use std::{
    fmt,
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{
        Arc, Condvar, Mutex, PoisonError, RwLock, Weak,
        atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};

/// Bytes in one piece.
const PIECE: usize = 16 << 10;
/// Pieces on their way, each way, on one connection; as many as a slow line holds before it pushes back.
const PIECES: usize = 256;
/// Bytes that a tap sees again before those that follow, so that it finds what lies on a border.
const OVERLAP: usize = 256;

/// Which way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// From the client to the server.
    ToServer,
    /// From the server to the client.
    ToClient,
}

/// Sees everything that passes. `false`: these bytes do not pass, and the connection is cut.
type Tap = dyn Fn(Way, &[u8]) -> bool + Send + Sync;

/// A relay on a port of its own. Its threads end with their connections, and with the process.
#[derive(Debug, Clone)]
pub struct Relay {
    address: String,
    line: Arc<Line>,
}

struct Line {
    /// Bytes of answers that still pass before the connection is cut.
    left: AtomicI64,
    /// Whether new connections are cut at once.
    is_down: AtomicBool,
    /// Whether the line goes down for good when it is cut.
    stays_down: AtomicBool,
    answered: AtomicU64,
    /// Microseconds by which everything is late, each way.
    delay: AtomicU64,
    /// Whether what is sent vanishes.
    swallows: AtomicBool,
    tap: RwLock<Option<Arc<Tap>>>,
    stop: RwLock<Option<Arc<Stop>>>,
    open: Mutex<Vec<Weak<Connection>>>,
}

impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Line").field("is_down", &self.is_down).field("swallows", &self.swallows).finish_non_exhaustive()
    }
}

/// Where something is to be stopped.
#[derive(Debug)]
struct Stop {
    text: Vec<u8>,
    state: Mutex<StopState>,
    passed: Condvar,
}

#[derive(Debug)]
struct StopState {
    /// How often the text has yet to come by.
    left: usize,
    /// Whether it may pass.
    open: bool,
}

/// Something that is stopped on its way to the server once it comes, with all that follows on its connection. That decides a race: what a test
/// does meanwhile is first. It passes when this is dropped.
#[derive(Debug)]
pub struct Stopped(Arc<Stop>);

impl Stopped {
    /// Whether it has come.
    pub fn has_come(&self) -> bool {
        self.0.state().left == 0
    }

    /// Lets it go on.
    pub fn pass(self) {}
}

impl Drop for Stopped {
    fn drop(&mut self) {
        self.0.state().open = true;
        self.0.passed.notify_all();
    }
}

impl Stop {
    fn state(&self) -> std::sync::MutexGuard<'_, StopState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits if this is what is to be stopped. `known` bytes were seen before.
    fn at(&self, seen: &[u8], known: usize) {
        let new = known.saturating_sub(self.text.len() - 1);
        let times = seen[new..].windows(self.text.len()).filter(|window| *window == self.text).count();
        let mut state = self.state();
        if times == 0 || state.left == 0 {
            return;
        }
        state.left = state.left.saturating_sub(times);
        while state.left == 0 && !state.open {
            state = self.passed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// The two halves of a connection.
struct Connection {
    client: TcpStream,
    server: TcpStream,
    /// Bytes of it have vanished: nothing that follows makes sense, so nothing passes any more, and nobody is told.
    is_lost: AtomicBool,
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
            delay: AtomicU64::new(0),
            swallows: AtomicBool::new(false),
            tap: RwLock::default(),
            stop: RwLock::default(),
            open: Mutex::default(),
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

    /// Cuts all connections, and every new one, until [`Relay::mend`].
    pub fn go_down(&self) {
        self.line.is_down.store(true, Ordering::SeqCst);
        self.line.connections().iter().for_each(|connection| connection.cut());
    }

    /// Everything takes so much longer, each way, until [`Relay::mend`].
    pub fn slow_down(&self, by: Duration) {
        self.line.delay.store(u64::try_from(by.as_micros()).unwrap_or(u64::MAX), Ordering::SeqCst);
    }

    /// Connections stay open, new ones are taken, and everything that is sent on them vanishes, until [`Relay::mend`]; on those
    /// that were open meanwhile, for ever, as where a machine between the two has forgotten them.
    pub fn swallow(&self) {
        self.line.swallows.store(true, Ordering::SeqCst);
        self.line.connections().iter().for_each(|connection| connection.is_lost.store(true, Ordering::SeqCst));
    }

    /// Shows everything that passes to `see`: the bytes of a piece after the last of the piece before. Where it says `false`,
    /// these do not pass, and the connection is cut.
    pub fn tap(&self, see: impl Fn(Way, &[u8]) -> bool + Send + Sync + 'static) {
        *self.line.tap.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(see));
    }

    /// Stops what goes to the server when this text comes by for the `nth` time from now on, the first being 1. One at a time.
    pub fn stop_at(&self, text: &str, nth: usize) -> Stopped {
        let state = StopState { left: nth, open: false };
        let stop = Arc::new(Stop { text: text.as_bytes().to_vec(), state: Mutex::new(state), passed: Condvar::new() });
        *self.line.stop.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&stop));
        Stopped(stop)
    }

    /// Everything passes again, at once.
    pub fn mend(&self) {
        self.line.left.store(i64::MAX, Ordering::SeqCst);
        self.line.delay.store(0, Ordering::SeqCst);
        self.line.swallows.store(false, Ordering::SeqCst);
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

impl Line {
    /// Those that are open now.
    fn connections(&self) -> Vec<Arc<Connection>> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|connection| connection.strong_count() > 0);
        open.iter().filter_map(Weak::upgrade).collect()
    }

    fn add(&self, connection: &Arc<Connection>) {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::downgrade(connection));
    }

    fn delay(&self) -> Duration {
        Duration::from_micros(self.delay.load(Ordering::SeqCst))
    }

    /// How many of so many bytes of an answer still pass.
    fn admit(&self, length: usize) -> usize {
        let length = i64::try_from(length).expect("a buffer is small");
        let left = self.left.fetch_sub(length, Ordering::SeqCst);
        usize::try_from(left.clamp(0, length)).expect("it is not negative")
    }

    fn stop_at(&self, seen: &[u8], known: usize) {
        let stop = self.stop.read().unwrap_or_else(PoisonError::into_inner).clone();
        stop.iter().for_each(|stop| stop.at(seen, known));
    }

    fn lets_pass(&self, way: Way, bytes: &[u8]) -> bool {
        let tap = self.tap.read().unwrap_or_else(PoisonError::into_inner).clone();
        tap.is_none_or(|tap| tap(way, bytes))
    }
}

impl Connection {
    fn cut(&self) {
        let _ = self.client.shutdown(Shutdown::Both);
        let _ = self.server.shutdown(Shutdown::Both);
    }

    fn is_lost(&self) -> bool {
        self.is_lost.load(Ordering::SeqCst)
    }

    /// Where bytes that go this way come from, and where they go.
    fn ends(&self, way: Way) -> (&TcpStream, &TcpStream) {
        match way {
            Way::ToServer => (&self.client, &self.server),
            Way::ToClient => (&self.server, &self.client),
        }
    }
}

fn relay(mut client: TcpStream, server: &str, line: &Arc<Line>) -> std::io::Result<()> {
    if line.is_down.load(Ordering::SeqCst) {
        return client.shutdown(Shutdown::Both);
    }
    if line.swallows.load(Ordering::SeqCst) {
        // The server does not hear of it.
        std::io::copy(&mut client, &mut std::io::sink())?;
        return Ok(());
    }
    let server = TcpStream::connect(server)?;
    // What is passed on at once must not wait for more to come.
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let connection = Arc::new(Connection { client, server, is_lost: AtomicBool::new(false) });
    line.add(&connection);
    if line.is_down.load(Ordering::SeqCst) {
        connection.cut();
    }
    let ways = [Way::ToServer, Way::ToClient].map(|way| {
        let (sender, receiver) = sync_channel(PIECES);
        let (reading, writing, line) = (Arc::clone(&connection), Arc::clone(&connection), Arc::clone(line));
        let watched = Arc::clone(&line);
        thread::spawn(move || read(&reading, way, &watched, &sender));
        thread::spawn(move || write(&writing, way, &line, &receiver))
    });
    ways.into_iter().for_each(|way| drop(way.join()));
    Ok(())
}

/// Takes in what comes, with the moment at which it is to be passed on.
fn read(connection: &Connection, way: Way, line: &Line, pieces: &SyncSender<(Instant, Vec<u8>)>) {
    let (mut from, _) = connection.ends(way);
    let mut buffer = [0; PIECE];
    loop {
        match from.read(&mut buffer) {
            Ok(length)
                if length > 0 && pieces.send((Instant::now() + line.delay(), buffer[..length].into())).is_ok() => {}
            _ => return,
        }
    }
}

/// Passes on what was taken in, when it is due. When nothing more comes, the other side is told, unless the line swallows.
fn write(connection: &Connection, way: Way, line: &Line, pieces: &Receiver<(Instant, Vec<u8>)>) {
    let (_, mut to) = connection.ends(way);
    let mut seen: Vec<u8> = Vec::new();
    for (due, piece) in pieces {
        thread::sleep(due.saturating_duration_since(Instant::now()));
        if connection.is_lost() {
            continue;
        }
        seen.extend(&piece);
        if way == Way::ToServer {
            line.stop_at(&seen, seen.len() - piece.len());
        }
        let passes = line.lets_pass(way, &seen);
        let length = if way == Way::ToClient && passes { line.admit(piece.len()) } else { piece.len() };
        if !passes || line.is_down.load(Ordering::SeqCst) || to.write_all(&piece[..length]).is_err() {
            return connection.cut();
        }
        if way == Way::ToClient {
            line.answered.fetch_add(length as u64, Ordering::SeqCst);
        }
        if length < piece.len() {
            line.is_down.store(line.stays_down.load(Ordering::SeqCst), Ordering::SeqCst);
            line.left.store(i64::MAX, Ordering::SeqCst);
            return connection.cut();
        }
        seen.drain(..seen.len().saturating_sub(OVERLAP));
    }
    match (connection.is_lost(), way) {
        (true, _) => {}
        (false, Way::ToServer) => drop(to.shutdown(Shutdown::Write)),
        (false, Way::ToClient) => connection.cut(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server that says everything back.
    fn echo() -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                thread::spawn(move || std::io::copy(&mut stream.try_clone().unwrap(), &mut &stream));
            }
        });
        address
    }

    fn connect(relay: &Relay) -> TcpStream {
        let stream = TcpStream::connect(relay.address()).unwrap();
        stream.set_read_timeout(Some(crate::PATIENCE)).unwrap();
        stream
    }

    fn say(mut stream: &TcpStream, word: &[u8]) -> Option<Vec<u8>> {
        stream.write_all(word).ok()?;
        let mut answer = vec![0; word.len()];
        stream.read_exact(&mut answer).ok().map(|()| answer)
    }

    #[test]
    fn a_line_is_cut_and_mended() {
        let relay = Relay::start(echo());
        let stream = connect(&relay);
        assert_eq!(say(&stream, b"one").unwrap(), b"one");
        relay.go_down();
        assert_eq!(say(&stream, b"two"), None);
        assert_eq!(say(&connect(&relay), b"three"), None);
        relay.mend();
        assert_eq!(say(&connect(&relay), b"four").unwrap(), b"four");
    }

    #[test]
    fn a_slow_line_delays_both_ways() {
        let relay = Relay::start(echo());
        let stream = connect(&relay);
        relay.slow_down(Duration::from_millis(60));
        let start = Instant::now();
        assert_eq!(say(&stream, b"one").unwrap(), b"one");
        assert!(start.elapsed() >= Duration::from_millis(120));
    }

    #[test]
    fn what_is_swallowed_is_gone_for_good() {
        let relay = Relay::start(echo());
        let stream = connect(&relay);
        assert!(say(&stream, b"one").is_some());
        relay.swallow();
        stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        assert_eq!(say(&stream, b"two"), None);
        let late = connect(&relay);
        late.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        assert_eq!(say(&late, b"three"), None);
        relay.mend();
        assert_eq!(say(&stream, b"four"), None, "nobody has told it that its connection is gone");
        assert_eq!(say(&connect(&relay), b"five").unwrap(), b"five");
    }

    #[test]
    fn what_is_to_be_first_goes_first() {
        let relay = Relay::start(echo());
        let stopped = relay.stop_at("two", 2);
        let stream = connect(&relay);
        assert_eq!(say(&stream, b"two").unwrap(), b"two");
        assert!(!stopped.has_come());
        let late = stream.try_clone().unwrap();
        let late = thread::spawn(move || say(&late, b"and two"));
        crate::wait_for("it to come", || stopped.has_come().then_some(()));
        assert_eq!(say(&connect(&relay), b"other").unwrap(), b"other");
        assert!(!late.is_finished());
        stopped.pass();
        assert_eq!(late.join().unwrap().unwrap(), b"and two");
        assert_eq!(say(&stream, b"two").unwrap(), b"two", "it is over");
    }

    #[test]
    fn a_tap_sees_what_lies_on_a_border_and_can_cut() {
        let relay = Relay::start(echo());
        relay.tap(|way, bytes| way == Way::ToClient || !bytes.windows(6).any(|window| window == b"poison"));
        let stream = connect(&relay);
        assert_eq!(say(&stream, b"poi").unwrap(), b"poi");
        assert_eq!(say(&stream, b"son"), None);
        assert!(say(&connect(&relay), b"other").is_some());
    }
}
