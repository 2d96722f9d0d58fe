//! Where conversions run: what a pod's declaration and content make expensive must not cost its neighbours time.
//!
//! A conversion needs a [`Turn`], and only this pool makes one, on a thread of its own: no conversion can run on a thread
//! that answers calls. The pool has a few places. It gives them to pods in turn, however much one of them asks for, and
//! takes a place back for a moment where a pod works for longer than a slice while another one waits. A pod has one
//! conversion under way at a time.
//!
//! A deadline counts the time of work, never that of waiting. Work ends early when its caller goes away. What it made is
//! remembered for a while, so that the same content, format and password are converted once. A pod whose work was refused
//! for its cost waits longer before each further attempt.

mod cache;
mod penalty;
mod queue;
mod turn;

use std::cell::RefCell;
use std::num::NonZeroUsize;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use aws_lc_rs::hmac;
use keyward_core::{Clock, Code, Error, Result};
use parking_lot::Mutex;
use rustix::process::setpriority_process;
use tokio::sync::oneshot;

use cache::Cache;
use penalty::Penalties;
use queue::{Job, Queue};
pub use turn::Turn;

/// The least share of a busy processor that a thread can have.
const LEAST: i32 = 19;

/// What a pool is made of.
pub struct Settings {
    /// How long one piece of work may take, from its start; `None` without a limit.
    pub deadline: Option<Duration>,
    /// Conversions under way at one time.
    pub places: NonZeroUsize,
    /// Measures work and forgives refusals.
    pub clock: Arc<dyn Clock>,
    /// Called on the thread of each piece of work before it begins.
    pub prepare: fn(),
}

impl Settings {
    /// Two to four places, as the machine has processors.
    #[must_use]
    pub fn new(deadline: Option<Duration>, clock: Arc<dyn Clock>) -> Self {
        let processors = std::thread::available_parallelism().map_or(2, NonZeroUsize::get);
        let places = NonZeroUsize::new(processors.clamp(2, 4)).unwrap_or(NonZeroUsize::MIN);
        Self { deadline, places, clock, prepare: || {} }
    }

    /// Calls `prepare` on the thread of each piece of work before it begins. A program hands free memory back there: what
    /// ended before may have left much of it with the allocator, which does not return it while nothing else happens.
    #[must_use]
    pub fn prepared_by(self, prepare: fn()) -> Self {
        Self { prepare, ..self }
    }
}

/// The pool. Clones are the same pool.
#[derive(Clone)]
pub struct Conversions(Arc<Shared>);

/// The pool as one pod uses it.
#[derive(Clone)]
pub struct Payer {
    shared: Arc<Shared>,
    pod: Arc<str>,
}

struct Shared {
    clock: Arc<dyn Clock>,
    deadline: Option<Duration>,
    prepare: fn(),
    queue: Mutex<Queue<oneshot::Sender<Place>>>,
    penalties: Mutex<Penalties>,
    cache: Mutex<Cache>,
    secret: hmac::Key,
    jobs: AtomicU64,
    converted: AtomicU64,
}

/// The right to work, until it is dropped.
struct Place {
    shared: Arc<Shared>,
    pod: Arc<str>,
    job: Job,
    /// Whether the place is this job's: not while another pod has it.
    held: bool,
}

/// Ends the work when its caller goes away.
struct Wanted(Arc<AtomicBool>);

impl Drop for Wanted {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Conversions {
    /// A pool without threads; each piece of work brings one.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self(Arc::new(Shared {
            clock: settings.clock,
            deadline: settings.deadline,
            prepare: settings.prepare,
            queue: Mutex::new(Queue::new(settings.places.get())),
            penalties: Mutex::default(),
            cache: Mutex::default(),
            secret: cache::secret(),
            jobs: AtomicU64::new(0),
            converted: AtomicU64::new(0),
        }))
    }

    /// The pool for the pod with this UID: it waits in line behind itself only.
    #[must_use]
    pub fn payer(&self, pod: &str) -> Payer {
        Payer { shared: Arc::clone(&self.0), pod: pod.into() }
    }

    /// Ends what is under way and refuses what comes: the process stops.
    pub fn close(&self) {
        // Dropped outside the lock, because dropping it wakes waiters.
        let waiting = self.0.queue.lock().close();
        drop(waiting);
    }

    /// Forgets what was converted for a pod that is gone.
    pub fn forget(&self, pod: &str) {
        self.0.cache.lock().forget(pod);
    }

    /// Conversions carried out since the start; what was remembered does not count.
    #[must_use]
    pub fn converted(&self) -> u64 {
        self.0.converted.load(Ordering::Relaxed)
    }
}

impl Payer {
    /// Runs `work` on a thread that yields the processor to every other one of this process, once it is this pod's turn.
    /// Dropping the future ends the work: before it began, or at its next step.
    ///
    /// # Errors
    /// `KW_SHUTTING_DOWN` once the pool is closed; `KW_INTERNAL` when no thread is left, or the work panicked, which the
    /// panic hook reported.
    pub async fn run<T: Send + 'static>(&self, work: impl FnOnce(&Turn) -> T + Send + 'static) -> Result<T> {
        let place = self.place().await?;
        let given_up = Arc::new(AtomicBool::new(false));
        let _wanted = Wanted(Arc::clone(&given_up));
        let (done, is_done) = oneshot::channel();
        let prepare = self.shared.prepare;
        let started = std::thread::Builder::new().name("conversion".to_owned()).spawn(move || {
            // For this thread alone, as Linux has it. Where it is not allowed, it goes on as it is.
            let _ = setpriority_process(None, LEAST);
            prepare();
            // Whoever waits for the result finds the place free.
            let result = with(Turn::begin(place, given_up), work);
            // The caller may have gone away.
            let _ = done.send(result);
        });
        started.map_err(|error| {
            Error::new(Code::Internal, "no thread is left for a conversion").detail(error)
        })?;
        is_done.await.map_err(|_| Error::new(Code::Internal, "a conversion ended by a defect"))
    }

    /// Waits out what earlier refusals cost, then for the pod's turn. A caller who goes away leaves a mark in the line
    /// that is passed over.
    async fn place(&self) -> Result<Place> {
        loop {
            while let Some(left) = self.shared.penalty(&self.pod) {
                tokio::time::sleep(left).await;
            }
            let job = Job(self.shared.jobs.fetch_add(1, Ordering::Relaxed));
            let (give, given) = oneshot::channel();
            let entered = self.shared.queue.lock().enter(&self.pod, job, give, oneshot::Sender::is_closed);
            if !entered {
                return Err(closed());
            }
            self.shared.dispatch();
            let place = given.await.map_err(|_| closed())?;
            // Another piece of work of this pod may have been refused meanwhile.
            if self.shared.penalty(&self.pod).is_none() {
                return Ok(place);
            }
        }
    }
}

impl Shared {
    /// Gives the free places to those whose turn it is.
    fn dispatch(self: &Arc<Self>) {
        loop {
            let Some((pod, job, give)) = self.queue.lock().next() else { return };
            // Nobody may be waiting any more: the place is free again once it is dropped, outside the lock.
            drop(give.send(Place { shared: Arc::clone(self), pod, job, held: true }));
        }
    }

    /// How long a pod still waits for what was refused.
    fn penalty(&self, pod: &str) -> Option<Duration> {
        self.penalties.lock().left(pod, self.clock.boot())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.held {
            self.shared.queue.lock().leave(&self.pod, self.job);
            self.shared.dispatch();
        }
    }
}

/// Runs `work` on a thread of its own and waits for it: for programs that answer no calls, such as command line tools and
/// tests. Nothing is remembered, and nobody is waited for.
///
/// # Errors
/// `KW_INTERNAL` where async tasks run, which must use a pool; when no thread is left; when the work panicked.
pub fn apart<T: Send>(work: impl FnOnce(&Turn) -> T + Send) -> Result<T> {
    if tokio::runtime::Handle::try_current().is_ok() {
        return Err(Error::new(Code::Internal, "a conversion must not hold up async tasks"));
    }
    std::thread::scope(|scope| {
        let started = std::thread::Builder::new()
            .name("conversion".to_owned())
            .spawn_scoped(scope, || with(Turn::alone(), work));
        let thread = started.map_err(|error| {
            Error::new(Code::Internal, "no thread is left for a conversion").detail(error)
        })?;
        thread.join().map_err(|_| Error::new(Code::Internal, "a conversion ended by a defect"))
    })
}

thread_local! {
    /// The turn whose work this thread does.
    static HERE: RefCell<Option<Rc<Turn>>> = const { RefCell::new(None) };
}

/// Does work, and ends its turn.
fn with<T>(turn: Turn, work: impl FnOnce(&Turn) -> T) -> T {
    let turn = Rc::new(turn);
    HERE.set(Some(Rc::clone(&turn)));
    let result = work(&turn);
    HERE.set(None);
    result
}

/// As [`Turn::check`], for what a library calls in the middle of a step, where no turn can be passed on. Without a turn
/// there is nothing to end.
///
/// # Errors
/// As there.
pub(crate) fn check_here() -> Result<()> {
    HERE.with_borrow(Option::clone).map_or(Ok(()), |turn| turn.check())
}

fn closed() -> Error {
    Error::new(Code::ShuttingDown, "Keyward is shutting down")
}

#[cfg(test)]
mod tests;
