//! A cable with a mind of its own: two TAP devices, and a thread between them that makes each frame wait, or loses it.
//!
//! It stands where `netem` would: this kernel has none. Each direction can be told by itself how to behave.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::netns::Netns;
use super::tap::Tap;

/// Frames that wait in one direction; one more is lost, as in any queue.
const QUEUE: usize = 10_000;
/// How long the thread sleeps at most, so that its end is noticed.
const NAP: Duration = Duration::from_millis(20);

/// How one direction behaves.
#[derive(Default)]
pub struct Weather {
    delay_us: AtomicU32,
    jitter_us: AtomicU32,
    loss_permille: AtomicU32,
}

impl Weather {
    /// How long each frame waits.
    pub fn delay(&self, delay: Duration) {
        self.delay_us.store(delay.as_micros() as u32, Ordering::Relaxed);
    }

    /// And how much longer at most, by chance. Frames never pass each other.
    pub fn jitter(&self, jitter: Duration) {
        self.jitter_us.store(jitter.as_micros() as u32, Ordering::Relaxed);
    }

    /// How many of a thousand frames are lost, by chance; 1000 cuts the direction.
    pub fn loss(&self, permille: u32) {
        self.loss_permille.store(permille, Ordering::Relaxed);
    }
}

/// The cable; gone with this value, and so are its devices.
pub struct Cable {
    /// From the first end to the second, and back.
    pub ways: Arc<[Weather; 2]>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Cable {
    /// Lays one between two namespaces, with a device of the given name at each end. They are down at first.
    ///
    /// # Errors
    /// No `/dev/net/tun`, or not allowed.
    pub fn lay(a: &Netns, a_name: &str, b: &Netns, b_name: &str) -> io::Result<Self> {
        let ends = [a.run(|| Tap::open(a_name))?, b.run(|| Tap::open(b_name))?];
        for end in &ends {
            end.nonblocking()?;
        }
        let (ways, stop) = (Arc::<[Weather; 2]>::default(), Arc::new(AtomicBool::new(false)));
        let thread = {
            let (ways, stop) = (ways.clone(), stop.clone());
            std::thread::spawn(move || carry(&ends, &ways, &stop))
        };
        Ok(Self { ways, stop, thread: Some(thread) })
    }

    /// The same delay in both directions: half of what a round trip gets longer by.
    pub fn delay(&self, one_way: Duration) {
        self.ways.iter().for_each(|w| w.delay(one_way));
    }

    /// The same loss in both directions, each by itself.
    pub fn loss(&self, permille: u32) {
        self.ways.iter().for_each(|w| w.loss(permille));
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// xorshift64 (Marsaglia 2003).
fn draw(state: &mut u64) -> u32 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    (*state >> 32) as u32
}

fn carry(ends: &[Tap; 2], ways: &[Weather; 2], stop: &AtomicBool) {
    let mut queues: [VecDeque<(Instant, Vec<u8>)>; 2] = Default::default();
    let mut chance = 0x2545_f491_4f6c_dd1d;
    let mut buf = [0; 2048];
    while !stop.load(Ordering::Relaxed) {
        let next = queues.iter().filter_map(|q| q.front()).map(|(due, _)| *due).min();
        let nap = next.map_or(NAP, |due| due.saturating_duration_since(Instant::now()).min(NAP));
        Tap::wait(ends, nap);
        for (from, (queue, way)) in queues.iter_mut().zip(ways).enumerate() {
            while let Some(len) = ends[from].read(&mut buf) {
                let lost = draw(&mut chance) % 1000 < way.loss_permille.load(Ordering::Relaxed);
                if lost || queue.len() >= QUEUE {
                    continue;
                }
                let jitter = draw(&mut chance) % (way.jitter_us.load(Ordering::Relaxed) + 1);
                let wait = u64::from(way.delay_us.load(Ordering::Relaxed)) + u64::from(jitter);
                let due = Instant::now() + Duration::from_micros(wait);
                let due = queue.back().map_or(due, |(last, _)| due.max(*last));
                queue.push_back((due, buf[..len].to_vec()));
            }
            while queue.front().is_some_and(|(due, _)| *due <= Instant::now()) {
                if let Some((_, frame)) = queue.pop_front() {
                    ends[1 - from].write(&frame);
                }
            }
        }
    }
}
