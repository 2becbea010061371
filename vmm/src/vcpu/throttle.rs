//! Slowing vCPUs down, each on its own, so that a guest cannot write memory faster than it is copied.
//!
//! A throttled vCPU runs for a slice and then sleeps for as long as its share asks: at 20 % it sleeps
//! a quarter of a slice after each slice, at 99 % 99 slices. It sleeps in its request channel, so a
//! pause never waits for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::thread::{VcpuError, VcpuHandle};

/// How long a throttled vCPU runs at a time.
const SLICE: Duration = Duration::from_millis(10);
/// The largest share of time that a vCPU can be made to sleep, percent.
pub const MAX_PERCENT: u8 = 99;

/// Throttles the vCPUs of a machine until it is dropped.
pub struct Throttle {
    percents: Arc<[AtomicU8]>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Throttle {
    /// Ready to throttle `vcpus`; none is throttled yet.
    ///
    /// # Errors
    /// [`VcpuError::Spawn`].
    pub fn start(vcpus: Vec<Arc<VcpuHandle>>) -> Result<Self, VcpuError> {
        let percents: Arc<[AtomicU8]> = vcpus.iter().map(|_| AtomicU8::new(0)).collect();
        let stop = Arc::new(AtomicBool::new(false));
        let thread = {
            let (percents, stop) = (percents.clone(), stop.clone());
            thread::Builder::new()
                .name("throttle".into())
                .spawn(move || serve(&vcpus, &percents, &stop))
                .map_err(|source| VcpuError::Spawn { index: 0, source })?
        };
        Ok(Self {
            percents,
            stop,
            thread: Some(thread),
        })
    }

    /// Lets vCPU `index` sleep `percent` of its time, at most [`MAX_PERCENT`]; 0 lets it run freely.
    /// What is no vCPU is ignored.
    pub fn set(&self, index: usize, percent: u8) {
        if let Some(share) = self.percents.get(index) {
            share.store(percent.min(MAX_PERCENT), Ordering::Relaxed);
        }
        self.unpark();
    }

    fn unpark(&self) {
        if let Some(thread) = &self.thread {
            thread.thread().unpark();
        }
    }
}

impl Drop for Throttle {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        self.unpark();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the throttle thread panicked");
        }
    }
}

fn serve(vcpus: &[Arc<VcpuHandle>], percents: &[AtomicU8], stop: &AtomicBool) {
    let mut due: Vec<Option<Instant>> = vec![None; vcpus.len()];
    while !stop.load(Ordering::Acquire) {
        let now = Instant::now();
        for ((vcpu, percent), due) in vcpus.iter().zip(percents).zip(&mut due) {
            let percent = percent.load(Ordering::Relaxed);
            if percent == 0 {
                *due = None;
                continue;
            }
            match *due {
                None => *due = Some(now + SLICE),
                Some(at) if at <= now => {
                    let sleep = sleep_after_slice(percent);
                    vcpu.sleep(sleep);
                    *due = Some(now + sleep + SLICE);
                }
                Some(_) => {}
            }
        }
        match due.iter().flatten().min() {
            Some(next) => thread::park_timeout(next.saturating_duration_since(Instant::now())),
            None => thread::park(),
        }
    }
}

/// How long a vCPU that ran for a slice sleeps, so that sleeping is `percent` of its time.
fn sleep_after_slice(percent: u8) -> Duration {
    SLICE * u32::from(percent) / (100 - u32::from(percent))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sleeping_is_the_asked_share_of_the_time() {
        for percent in 1..=MAX_PERCENT {
            let sleep = sleep_after_slice(percent);
            let share = 100.0 * sleep.as_secs_f64() / (sleep + SLICE).as_secs_f64();
            assert!(
                (share - f64::from(percent)).abs() < 0.01,
                "{percent}: {share}"
            );
        }
    }
}
